//! Bypass findings, each beside its healthy twin.

use sidestep::{
    engine::{Code, Confidence},
    model::{Arrival, CgroupId, Direction, Signal},
};

use crate::kit::*;

#[test]
fn captured_traffic_is_silent() {
    let mut node = Node::running();
    let deltas = [
        delta(
            out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
            established(5),
        ),
        delta(
            out(APP, 1000, "[fd00::9]:80", Arrival::Port(OUT)),
            established(5),
        ),
        delta(
            out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
            established(5),
        ),
        delta(
            out(PROXY, PROXY_UID, "127.0.0.1:8080", Arrival::Port(8080)),
            established(5),
        ),
        delta(into(PROXY, PROXY_UID, IN, "10.9.0.7"), established(5)),
        delta(into(PROXY, PROXY_UID, OUT, "10.0.0.5"), established(5)),
        delta(into(APP, 1000, 8080, "127.0.0.6"), established(5)),
        delta(into(PROXY, PROXY_UID, 15021, "10.0.0.1"), established(1)),
        delta(into(PROXY, PROXY_UID, 15090, "10.0.0.1"), established(1)),
    ];
    node.keep(5, &deltas);
    assert_eq!(node.told(), []);
    let board = node.engine.board();
    assert_eq!((board.pods[0].intercepted, board.pods[0].bypassed), (75, 0));
}

#[test]
fn inside_the_pod_is_silent() {
    let mut node = Node::running();
    let deltas = [
        delta(
            out(APP, 1000, "127.0.0.1:9000", Arrival::Port(9000)),
            established(5),
        ),
        delta(
            out(APP, 1000, "10.0.0.5:8080", Arrival::Port(8080)),
            established(5),
        ),
        delta(
            out(APP, 1000, "127.0.0.1:9001", Arrival::Unknown),
            refused(5),
        ),
        delta(
            out(PROXY, PROXY_UID, "10.0.0.5:8080", Arrival::Port(IN)),
            established(5),
        ),
        delta(into(APP, 1000, 9000, "127.0.0.1"), established(5)),
        delta(into(APP, 1000, 8080, "10.0.0.5"), established(5)),
        delta(
            out(INIT, PROXY_UID, "10.9.0.1:443", Arrival::Nowhere),
            established(5),
        ),
    ];
    node.keep(5, &deltas);
    assert_eq!(node.told(), []);
}

#[test]
fn no_rules() {
    let mut node = Node::running();
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere);
    node.signal(Signal::FirstSeen {
        key,
        process: process("curl"),
    });
    node.edge(key, established(1));
    let finding = node.only(Code::BypassNoRules);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.direction, Some(Direction::Outbound));
    assert_eq!(finding.container.as_deref(), Some("web"));
    let facts = facts(&finding);
    for fact in ["10.9.0.1:80 (1)", "curl[42]", "uid 1000", "1 outbound ipv4"] {
        assert!(facts.contains(fact), "{fact} not in\n{facts}");
    }
    assert!(finding.remedy.contains("CNI"), "{}", finding.remedy);
    let board = node.engine.board();
    assert_eq!(board.pods[0].bypassed, 1);
    assert_eq!(board.pods[0].findings, [Code::BypassNoRules]);
}

#[test]
fn a_starting_pod_gets_a_moment() {
    let mut node = Node::empty();
    node.announce();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.pass(0.5);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.pass(10.0);
    assert_eq!(node.told(), []);
    // Without rules coming, the moment ends.
    let mut node = Node::empty();
    node.announce();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.pass(4.0);
    node.only(Code::BypassNoRules);
}

#[test]
fn no_rules_in_both_directions_is_one_finding() {
    let mut node = Node::running();
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(2));
    node.pass(1.0);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(2),
    );
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(2));
    node.pass(10.0);
    let finding = node.only(Code::BypassNoRules);
    assert_eq!(finding.direction, None);
    assert_eq!(finding.connections, 6);
    assert_eq!(node.told(), [Code::BypassNoRules]);
}

#[test]
fn rules_installed_later_resolve_it() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.only(Code::BypassNoRules);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    assert_eq!(node.open(), []);
    assert_eq!(node.findings().len(), 1);
}

#[test]
fn inbound_direct() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    let finding = node.only(Code::BypassInboundDirect);
    assert!(finding.summary.contains("8080"), "{}", finding.summary);
    assert!(facts(&finding).contains("10.9.0.7"));
    assert!(finding.remedy.contains("15006"));
}

#[test]
fn inbound_direct_without_outbound_waits_and_comes() {
    let mut node = Node::running();
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    assert_eq!(node.open(), []);
    node.pass(3.0);
    node.only(Code::BypassInboundDirect);
}

#[test]
fn inbound_waits_for_what_outbound_connections_held_back_will_say() {
    const STRANGER: CgroupId = CgroupId(99);
    let mut node = Node::running();
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    node.pass(1.5);
    // Nobody knows this cgroup yet: held back for longer than the inbound suspicion waits.
    let key = out(STRANGER, 1000, "10.9.0.1:80", Arrival::Nowhere);
    node.edge(key, established(1));
    node.pass(1.9);
    assert_eq!(node.told(), []);
    node.pass(3.0);
    node.only(Code::BypassNoRules);
    assert_eq!(node.told(), [Code::BypassNoRules]);
}

#[test]
fn ipv6_only() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        let mut node = Node::running();
        node.edge(
            out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
            established(1),
        );
        node.edge(into(PROXY, PROXY_UID, IN, "10.9.0.7"), established(1));
        let key = match direction {
            Direction::Outbound => out(APP, 1000, "[fd00::9]:80", Arrival::Nowhere),
            Direction::Inbound => into(APP, 1000, 8080, "fd00::9"),
        };
        node.edge(key, established(1));
        let finding = node.only(Code::BypassIpv6);
        assert!(
            finding.remedy.contains("ISTIO_DUAL_STACK"),
            "{}",
            finding.remedy
        );
        assert_eq!(finding.direction, Some(direction));
    }
}

#[test]
fn ipv6_beside_uncaptured_ipv4_is_no_rules() {
    let mut node = Node::running();
    let four = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    let six = delta(
        out(APP, 1000, "[fd00::9]:80", Arrival::Nowhere),
        established(1),
    );
    node.edges(vec![six.clone(), four.clone()]);
    let finding = node.only(Code::BypassNoRules);
    let mut other = Node::running();
    other.edges(vec![four, six]);
    assert_eq!(other.only(Code::BypassNoRules), finding);
    assert!(
        finding.summary.contains("IPv4 or IPv6"),
        "{}",
        finding.summary
    );
}

#[test]
fn proxy_uid_and_gid() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.edge(
        out(APP, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    let finding = node.only(Code::BypassProxyUid);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert!(finding.summary.contains("container web") && finding.summary.contains("1337"));
    assert!(finding.remedy.contains("runAsUser"));

    let mut node = Node::running();
    let mut key = out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere);
    key.owner.gid = PROXY_UID;
    node.edge(key, established(1));
    let finding = node.only(Code::BypassProxyGid);
    assert!(finding.remedy.contains("runAsGroup"));
}

#[test]
fn an_unknown_container_with_the_proxys_uid_is_the_proxy() {
    let mut node = Node::running();
    let stranger = CgroupId(0);
    node.edge(
        out(stranger, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(9),
    );
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn unknown_needs_more_than_a_moment() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.edge(
        out(APP, 1000, "10.9.0.2:80", Arrival::Nowhere),
        established(9),
    );
    node.pass(60.0);
    assert_eq!(node.told(), []);
    let direct = delta(
        out(APP, 1000, "10.9.0.2:80", Arrival::Nowhere),
        established(1),
    );
    node.keep(4, &[direct]);
    let finding = node.only(Code::BypassUnknown);
    assert_eq!(finding.confidence, Confidence::Probable);
    assert!(facts(&finding).contains("last_intercepted"));
}

#[test]
fn redirected_to_the_wrong_port() {
    let mut node = Node::running();
    let wrong = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(9999)),
        established(1),
    );
    node.keep(4, &[wrong]);
    let finding = node.only(Code::BypassUnknown);
    assert!(facts(&finding).contains("9999"), "{finding:?}");
}
