//! Destinations rewritten inside connect(2): the service the mesh never sees, and its healthy
//! twins.

use sidestep::{
    engine::{Change, Code, Confidence, Input},
    model::{Arrival, CgroupId, Pod, Rewrite},
};

use crate::{
    kit::*,
    live_rules::{WHOLE, whole},
};

const SERVICE: &str = "10.96.0.20:80";

fn running(edit: impl Fn(&mut Pod)) -> Node {
    let mut node = Node::running();
    let mut pod = meshed();
    edit(&mut pod);
    node.change(Change::Pod(Box::new(pod)));
    node.give(whole(WHOLE));
    node
}

fn rewrite(cgroup: CgroupId, uid: u32, asked: &str, used: &str) -> Input {
    Input::Rewrites(vec![Rewrite {
        key: out(cgroup, uid, asked, Arrival::Unknown),
        used: addr(used),
        connections: 4,
        process: process("curl"),
    }])
}

fn tell(node: &mut Node, input: &Input) {
    for _ in 0..4 {
        node.give(input.clone());
        node.pass(1.0);
    }
}

#[test]
fn a_service_that_becomes_a_pod_is_told_with_both_addresses() {
    let mut node = running(|_| {});
    tell(&mut node, &rewrite(APP, 1000, SERVICE, "10.0.0.77:8080"));
    let finding = node.only(Code::BypassSocketLb);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.container.as_deref(), Some("web"));
    assert_eq!(finding.connections, 16);
    let facts = facts(&finding);
    let both = "10.96.0.20:80 was asked for, 10.0.0.77:8080 is used";
    assert!(facts.contains(both), "{facts}");
    node.pass(130.0);
    assert_eq!(node.open(), [], "nothing is rewritten any more");
}

#[test]
fn what_leads_to_the_proxy_or_is_not_the_apps_is_silent() {
    for (what, cgroup, uid, asked, used) in [
        ("over loopback", APP, 1000, SERVICE, "127.0.0.1:15001"),
        ("to the pod itself", APP, 1000, SERVICE, "10.0.0.5:15001"),
        (
            "to the proxy elsewhere",
            APP,
            1000,
            SERVICE,
            "10.0.0.1:15001",
        ),
        ("by the proxy", PROXY, PROXY_UID, SERVICE, "10.0.0.77:8080"),
        ("by an init container", INIT, 0, SERVICE, "10.0.0.77:8080"),
        (
            "with the proxy's user",
            APP,
            PROXY_UID,
            SERVICE,
            "10.0.0.77:8080",
        ),
        (
            "inside the pod",
            APP,
            1000,
            "127.0.0.1:80",
            "10.0.0.77:8080",
        ),
    ] {
        let mut node = running(|_| {});
        tell(&mut node, &rewrite(cgroup, uid, asked, used));
        node.pass(10.0);
        assert_eq!(node.told(), [], "{what}");
    }
    let mut node = running(|pod| {
        let key = "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned();
        pod.annotations.insert(key, "80".into());
    });
    tell(&mut node, &rewrite(APP, 1000, SERVICE, "10.0.0.77:8080"));
    node.pass(10.0);
    assert_eq!(node.told(), [], "a service that is excluded");
}

#[test]
fn a_pod_without_rules_has_one_finding() {
    let mut node = Node::running();
    for _ in 0..4 {
        node.give(rewrite(APP, 1000, SERVICE, "10.0.0.77:8080"));
        node.edge(
            out(APP, 1000, "10.0.0.77:8080", Arrival::Nowhere),
            established(4),
        );
        node.pass(1.0);
    }
    assert_eq!(node.open(), [Code::BypassNoRules]);
}
