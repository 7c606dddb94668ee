//! Flows over UDP: queries past the mesh's resolver, HTTP/3, each with its healthy twins.

use sidestep::{
    engine::{Change, Code, Confidence, FindingState, Input},
    model::{Arrival, CgroupId, Datagrams, Pod},
};

use crate::{
    kit::*,
    live_rules::{WHOLE, whole},
};

const DNS_RULES: &str = "-A ISTIO_OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053
";
/// The mesh's resolver.
const RESOLVER: u16 = 15053;

/// The mesh's rules with those for queries, where they belong.
fn with_dns() -> String {
    let before = "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n";
    assert!(WHOLE.contains(before));
    WHOLE.replace(before, &format!("{DNS_RULES}{before}"))
}

fn captures_dns(pod: &mut Pod) {
    let variable = ("ISTIO_META_DNS_CAPTURE".to_owned(), "true".to_owned());
    pod.containers[1].env.extend([variable]);
}

fn running(edit: impl Fn(&mut Pod), rules: Option<&str>) -> Node {
    let mut node = Node::running();
    let mut pod = meshed();
    edit(&mut pod);
    node.change(Change::Pod(Box::new(pod)));
    if let Some(rules) = rules {
        node.give(whole(rules));
    }
    node
}

fn flow(cgroup: CgroupId, uid: u32, to: &str, arrival: Arrival) -> Input {
    Input::Datagrams(vec![Datagrams {
        key: out(cgroup, uid, to, arrival),
        flows: 4,
        process: process("dig"),
    }])
}

fn tell(node: &mut Node, input: &Input) {
    for _ in 0..4 {
        node.give(input.clone());
        node.pass(1.0);
    }
}

#[test]
fn a_resolver_that_is_written_into_the_app() {
    // As an init container installs them: for the nameservers of the pod only.
    let rules = with_dns().replace(
        "-p udp -m udp --dport 53",
        "-d 10.96.0.10/32 -p udp -m udp --dport 53",
    );
    let mut node = running(captures_dns, Some(&rules));
    tell(&mut node, &flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
    let finding = node.only(Code::BypassDns);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.container.as_deref(), Some("web"));
    let facts = facts(&finding);
    for part in [
        "8.8.8.8:53",
        "dig[42]",
        "ISTIO_META_DNS_CAPTURE",
        "live rules",
        "--to-ports 15053",
    ] {
        assert!(facts.contains(part), "{part} in {facts}");
    }
    assert!(finding.remedy.contains("8.8.8.8:53"), "{}", finding.remedy);
    node.pass(130.0);
    assert_eq!(node.open(), [], "no query any more");
}

#[test]
fn queries_that_are_captured_are_healthy() {
    let mut node = running(captures_dns, Some(&with_dns()));
    for to in ["8.8.8.8:53", "[fd00::10]:53"] {
        tell(&mut node, &flow(APP, 1000, to, Arrival::Decided(RESOLVER)));
    }
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn what_nobody_meant_to_capture_is_silent() {
    let direct = |to: &str| flow(APP, 1000, to, Arrival::Nowhere);
    // The spec captures no queries.
    let mut node = running(|_| {}, Some(WHOLE));
    tell(&mut node, &direct("8.8.8.8:53"));
    assert_eq!(node.told(), []);
    // The proxy's own, an init container's, one inside the pod, one that a rule sends elsewhere.
    let mut node = running(captures_dns, Some(&with_dns()));
    tell(
        &mut node,
        &flow(PROXY, PROXY_UID, "8.8.8.8:53", Arrival::Nowhere),
    );
    tell(&mut node, &flow(INIT, 0, "8.8.8.8:53", Arrival::Nowhere));
    tell(&mut node, &direct("127.0.0.1:53"));
    tell(&mut node, &direct("10.0.0.5:53"));
    tell(&mut node, &flow(APP, 1000, "8.8.8.8:53", Arrival::Unknown));
    node.pass(10.0);
    assert_eq!(node.told(), []);
    // Port 53 is excluded by the user.
    let excluded = |pod: &mut Pod| {
        captures_dns(pod);
        let key = "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned();
        pod.annotations.insert(key, "53".into());
    };
    let mut node = running(excluded, Some(WHOLE));
    tell(&mut node, &direct("8.8.8.8:53"));
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn somebody_elses_packet_is_not_the_pods() {
    let mut node = running(captures_dns, Some(&with_dns()));
    // A query that comes in while the app runs: same namespace, foreign source.
    let mut key = out(APP, 1000, "10.0.0.5:53", Arrival::Nowhere);
    key.local = ip("10.0.0.77");
    key.remote = addr("10.0.0.6:53");
    let input = Input::Datagrams(vec![Datagrams {
        key,
        flows: 9,
        process: process("web"),
    }]);
    tell(&mut node, &input);
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn rules_that_forget_queries_are_told_without_any() {
    let mut node = running(captures_dns, Some(WHOLE));
    node.pass(3.0);
    let finding = node.only(Code::BypassDns);
    assert_eq!(finding.confidence, Confidence::Probable);
    assert_eq!(finding.connections, 0);
    assert!(facts(&finding).contains("none leads to port 15053"));
    // It is a state, not traffic: it stays until the rules change.
    node.pass(500.0);
    assert_eq!(node.open(), [Code::BypassDns]);
    // Seen, it is the same finding.
    tell(
        &mut node,
        &flow(APP, 1000, "10.96.0.10:53", Arrival::Nowhere),
    );
    let finding = node.only(Code::BypassDns);
    assert_eq!(
        (finding.confidence, finding.connections),
        (Confidence::Certain, 16)
    );
    node.give(whole(&with_dns()));
    assert_eq!(node.open(), []);
    assert!(matches!(
        node.findings()[0].state,
        FindingState::Resolved { .. }
    ));
}

#[test]
fn a_pod_that_captures_nothing_has_one_finding() {
    let rules = WHOLE.replace("-A OUTPUT -j ISTIO_OUTPUT\n", "");
    let mut node = running(captures_dns, Some(&rules));
    for _ in 0..4 {
        node.give(flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
        node.give(flow(APP, 1000, "8.8.8.8:443", Arrival::Nowhere));
        node.pass(0.5);
        node.edge(
            out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
            established(1),
        );
        node.pass(0.5);
    }
    node.only(Code::BypassRulesPartial);
    assert_eq!(node.told(), [Code::BypassRulesPartial]);
}

#[test]
fn a_query_that_is_older_than_the_rules_is_startup() {
    let mut node = running(captures_dns, Some("*nat\nCOMMIT\n"));
    node.give(flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
    node.pass(0.3);
    node.give(whole(&with_dns()));
    node.pass(10.0);
    // Rules that would have captured it, read before it was seen: they are read again.
    node.give(flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    node.give(whole(&with_dns()));
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn flows_that_come_before_their_pod_wait_for_it() {
    let mut node = Node::empty();
    node.give(Input::Coverage(coverage(&[])));
    node.give(flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
    node.pass(1.0);
    node.announce();
    let mut pod = meshed();
    captures_dns(&mut pod);
    node.change(Change::Pod(Box::new(pod)));
    node.pass(8.0);
    node.only(Code::BypassDns);
    assert_eq!(
        node.engine.accounted(),
        0,
        "a flow over UDP is no connection"
    );
}

#[test]
fn http3_past_the_sidecar_is_worth_a_word() {
    let mut node = running(|_| {}, Some(WHOLE));
    tell(
        &mut node,
        &flow(APP, 1000, "142.250.1.1:443", Arrival::Nowhere),
    );
    let finding = node.only(Code::BypassQuic);
    assert_eq!(finding.severity.as_str(), "info");
    assert!(facts(&finding).contains("142.250.1.1:443"));
    // The proxy's own, in the pod, excluded, and where there is no mesh: silence.
    let excluded = |pod: &mut Pod| {
        let key = "traffic.sidecar.istio.io/excludeOutboundPorts".to_owned();
        pod.annotations.insert(key, "443".into());
    };
    let mut node = running(excluded, Some(WHOLE));
    tell(
        &mut node,
        &flow(APP, 1000, "142.250.1.1:443", Arrival::Nowhere),
    );
    tell(
        &mut node,
        &flow(PROXY, PROXY_UID, "142.250.1.1:443", Arrival::Nowhere),
    );
    assert_eq!(node.told(), []);
    let mut node = running(|pod| drop(pod.containers.remove(1)), Some(WHOLE));
    node.listeners(&["0.0.0.0:8080"]);
    tell(
        &mut node,
        &flow(APP, 1000, "142.250.1.1:443", Arrival::Nowhere),
    );
    tell(&mut node, &flow(APP, 1000, "8.8.8.8:53", Arrival::Nowhere));
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn queries_over_tcp_belong_to_the_resolvers_port() {
    let mut node = running(captures_dns, Some(&with_dns()));
    for _ in 0..4 {
        node.edge(
            out(APP, 1000, "8.8.8.8:53", Arrival::Port(RESOLVER)),
            established(2),
        );
        node.pass(1.0);
    }
    node.pass(5.0);
    assert_eq!(node.told(), []);
    assert_eq!(node.engine.board().pods[0].intercepted, 8);
}
