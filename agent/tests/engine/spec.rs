//! What the pod's spec alone says, each with its healthy twin.

use sidestep::{
    engine::{Change, Code},
    model::{Arrival, CgroupId, ContainerKind, Pod},
};

use crate::kit::*;

/// The meshed pod after this change of its manifest; every signal works.
fn with(edit: impl Fn(&mut Pod)) -> Node {
    let mut node = Node::running();
    node.change(Change::Pod(Box::new(edited(edit))));
    node
}

fn edited(edit: impl Fn(&mut Pod)) -> Pod {
    let mut pod = meshed();
    edit(&mut pod);
    pod
}

fn shares_uid(pod: &mut Pod) {
    pod.containers[0].run_as_user = Some(PROXY_UID);
}

#[test]
fn a_shared_uid_is_told_before_anybody_connects() {
    let mut node = with(shares_uid);
    node.pass(19.0);
    assert_eq!(node.told(), []);
    node.pass(2.0);
    let finding = node.only(Code::BypassSharedUid);
    assert!(finding.summary.contains("container web") && finding.summary.contains("1337"));
    assert!(finding.remedy.contains("runAsUser"), "{}", finding.remedy);
    // It holds until the spec changes.
    node.pass(500.0);
    assert_eq!(node.open(), [Code::BypassSharedUid]);
    node.change(Change::Pod(Box::new(meshed())));
    assert_eq!(node.open(), []);
}

#[test]
fn a_shared_uid_that_connects_is_one_finding() {
    let mut node = with(shares_uid);
    node.edge(
        out(APP, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(3),
    );
    node.pass(30.0);
    node.change(Change::Pod(Box::new(edited(shares_uid))));
    node.pass(30.0);
    let finding = node.only(Code::BypassProxyUid);
    assert!(facts(&finding).contains("shared: container web"));
    assert_eq!(node.told(), [Code::BypassProxyUid]);
    // Told first by the spec, then by the traffic.
    let mut node = with(shares_uid);
    node.pass(25.0);
    node.edge(
        out(APP, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(3),
    );
    node.pass(1.0);
    node.only(Code::BypassProxyUid);
}

#[test]
fn an_init_container_with_the_proxys_uid_is_on_purpose() {
    let mut node = with(|pod| pod.containers[2].run_as_user = Some(PROXY_UID));
    node.edge(
        out(INIT, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(3),
    );
    node.pass(40.0);
    assert_eq!(node.told(), []);
}

#[test]
fn another_init_container_that_goes_direct_is_information() {
    let mut node = Node::running();
    node.edge(
        out(INIT, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(2),
    );
    let finding = node.only(Code::BypassInitContainer);
    assert_eq!(finding.container.as_deref(), Some("migrate"));
    assert_eq!(finding.connections, 2);
    // To a port of the spec's it is another matter, and captured it is none.
    let mut node = Node::running();
    node.edge(
        out(INIT, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(2),
    );
    node.edge(
        out(INIT, 1000, "127.0.0.1:80", Arrival::Nowhere),
        established(2),
    );
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

#[test]
fn the_meshs_own_init_container_is_not_judged() {
    let mut node = with(|pod| pod.containers[2].name = "istio-init".into());
    node.edge(
        out(INIT, 0, "10.9.0.1:80", Arrival::Nowhere),
        established(2),
    );
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

#[test]
fn two_meshes_at_once() {
    let redirected = (
        "ambient.istio.io/redirection".to_owned(),
        "enabled".to_owned(),
    );
    let mut node = with(|pod| pod.annotations.extend([redirected.clone()]));
    let finding = node.only(Code::MeshConflict);
    let facts = facts(&finding);
    assert!(
        facts.contains("container istio-proxy") && facts.contains("redirection"),
        "{facts}"
    );
    // The sidecar's rules are the ones that count.
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(3),
    );
    assert_eq!(node.engine.board().pods[0].intercepted, 3);
    node.change(Change::Pod(Box::new(meshed())));
    assert_eq!(node.open(), []);
    // Only asked for by the namespace: a documented mixture.
    let label = ("istio.io/dataplane-mode".to_owned(), "ambient".to_owned());
    let mut node = with(|pod| pod.namespace_labels.extend([label.clone()]));
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

#[test]
fn marks_on_the_nodes_network() {
    let bare = |mark: bool| {
        let containers = vec![container("web", ContainerKind::Main, "c-host")];
        let mut pod = pod("host", "uid-9", &["192.168.0.1"], containers);
        pod.host_network = true;
        pod.namespace_labels
            .insert("istio-injection".into(), "enabled".into());
        if mark {
            pod.labels
                .insert("sidecar.istio.io/inject".into(), "true".into());
        }
        Change::Pod(Box::new(pod))
    };
    let mut node = Node::running();
    node.change(bare(false));
    node.pass(5.0);
    assert_eq!(node.told(), []);
    node.change(bare(true));
    let finding = node.only(Code::BypassHostNetwork);
    assert!(
        finding.remedy.contains("sidecar.istio.io/inject"),
        "{}",
        finding.remedy
    );
}

/// A pod of no mesh in a namespace with this label, in the namespace of the meshed one.
fn unmeshed(labels: &[(&str, &str)], of_namespace: bool) -> Node {
    let mut pod = meshed();
    pod.containers.remove(1);
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    match of_namespace {
        true => pod.namespace_labels.extend(labels),
        false => pod.labels.extend(labels),
    }
    let mut node = Node::running();
    node.change(Change::Pod(Box::new(pod)));
    node
}

#[test]
fn asked_for_and_not_there() {
    for (label, of_namespace) in [
        (("istio-injection", "enabled"), true),
        (("istio.io/rev", "stable"), true),
        (("sidecar.istio.io/inject", "true"), false),
        (("kuma.io/sidecar-injection", "enabled"), true),
        (("istio.io/dataplane-mode", "ambient"), true),
    ] {
        let mut node = unmeshed(&[label], of_namespace);
        node.pass(5.0);
        assert_eq!(node.told(), [], "it does not talk yet");
        node.edge(
            out(APP, 1000, "127.0.0.1:80", Arrival::Nowhere),
            established(3),
        );
        node.pass(5.0);
        assert_eq!(node.told(), [], "only with itself");
        node.edge(
            out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
            established(3),
        );
        let finding = node.only(Code::BypassUnmeshed);
        assert!(facts(&finding).contains(label.0), "{label:?}");
        node.change(Change::Pod(Box::new(meshed())));
        assert_eq!(node.open(), [], "it was made again");
    }
}

#[test]
fn not_asked_for_or_declined_is_silent() {
    for (labels, of_namespace) in [
        (&[][..], true),
        (
            &[("istio-injection", "disabled"), ("istio.io/rev", "x")],
            true,
        ),
        (&[("sidecar.istio.io/inject", "false")], false),
        (&[("team", "a")], true),
    ] {
        let mut node = unmeshed(labels, of_namespace);
        node.edge(
            out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
            established(3),
        );
        node.edge(into(APP, 1000, 8080, "10.0.0.9"), established(3));
        node.pass(10.0);
        assert_eq!(node.told(), [], "{labels:?}");
    }
}

fn captures_nothing_inbound(pod: &mut Pod) {
    let key = "traffic.sidecar.istio.io/includeInboundPorts".to_owned();
    pod.annotations.insert(key, String::new());
}

#[test]
fn an_empty_inbound_list_matters_where_somebody_serves() {
    let mut node = with(captures_nothing_inbound);
    node.pass(5.0);
    assert_eq!(node.told(), [], "nothing is served");
    node.edge(into(APP, 1000, 8080, "10.0.0.9"), established(4));
    let finding = node.only(Code::BypassInboundEmpty);
    assert!(
        finding.summary.contains("4 connections"),
        "{}",
        finding.summary
    );
    assert!(
        finding.remedy.contains("includeInboundPorts"),
        "{}",
        finding.remedy
    );
    let mut node = with(|pod| {
        captures_nothing_inbound(pod);
        pod.containers[0].ports.push(8080);
    });
    node.only(Code::BypassInboundEmpty);
    node.change(Change::Pod(Box::new(meshed())));
    assert_eq!(node.open(), []);
}

#[test]
fn a_direction_that_a_switch_turns_off_is_no_empty_list() {
    let mut node = with(|pod| {
        let key = "sidecar.istio.io/interceptionMode".to_owned();
        pod.annotations.insert(key, "NONE".into());
        pod.containers[0].ports.push(8080);
    });
    node.edge(into(APP, 1000, 8080, "10.0.0.9"), established(4));
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

/// The pod without a sidecar, enrolled with the node's proxy.
pub(crate) fn ambient() -> Node {
    with(|pod| {
        pod.containers.remove(1);
        let key = "ambient.istio.io/redirection".to_owned();
        pod.annotations.insert(key, "enabled".into());
    })
}

const NODE_PROXY: CgroupId = CgroupId(77);

#[test]
fn the_nodes_proxy_is_known_by_being_nobodys() {
    let mut node = ambient();
    let mut upstream = out(NODE_PROXY, 0, "10.9.0.1:15008", Arrival::Nowhere);
    let app = out(APP, PROXY_UID, "10.9.0.1:80", Arrival::Port(OUT));
    // It dials the app from the address of the peer.
    let mut to_app = out(NODE_PROXY, 0, "10.0.0.5:8080", Arrival::Port(8080));
    to_app.local = ip("10.0.0.9");
    upstream.local_port = 0;
    node.keep(
        5,
        &[
            delta(app, established(3)),
            delta(upstream, established(3)),
            delta(into(NODE_PROXY, 0, 15008, "10.0.0.9"), established(2)),
            delta(into(NODE_PROXY, 0, IN, "10.0.0.9"), established(2)),
            delta(to_app, established(4)),
            delta(into(APP, 1000, 8080, "10.0.0.9"), established(4)),
        ],
    );
    node.pass(10.0);
    assert_eq!(node.told(), []);
    let board = node.engine.board();
    assert_eq!(
        board.pods[0].intercepted, 35,
        "three out, four in, five times"
    );
    assert_eq!(board.pods[0].bypassed, 0);
    assert_eq!(board.unattributed, []);
}

#[test]
fn an_app_past_the_nodes_proxy_is_a_bypass() {
    let mut node = ambient();
    let direct = out(APP, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere);
    node.keep(3, &[delta(direct, established(3))]);
    let finding = node.only(Code::BypassAmbientLost);
    let facts = facts(&finding);
    for part in [
        "ambient.istio.io/redirection",
        "rules_seen: not known",
        "listeners: port 15001",
    ] {
        assert!(facts.contains(part), "{part} in {facts}");
    }
    assert_eq!(node.told(), [Code::BypassAmbientLost]);
}

#[test]
fn a_pod_the_nodes_proxy_does_not_listen_in_was_lost_to_it() {
    let mut node = ambient();
    node.listeners(&["0.0.0.0:8080"]);
    let nobody = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.keep(3, &[delta(nobody, refused(2))]);
    let finding = node.only(Code::BypassAmbientLost);
    let facts = facts(&finding);
    for part in ["ambient.istio.io/redirection", "port 15001: nobody"] {
        assert!(facts.contains(part), "{part} in {facts}");
    }
    // It listens again.
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006"]);
    let captured = out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT));
    node.keep(1, &[delta(captured, established(2))]);
    assert_eq!(node.open(), []);
}
