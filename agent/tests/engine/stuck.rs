//! Findings about connections that make no progress, each beside its healthy twin.

use sidestep::{
    engine::{Change, Code, Confidence, Input, Verdict},
    model::{Arrival, Direction, EdgeKey, Outcome, Signal},
};

use crate::kit::*;

pub(crate) fn failed(key: EdgeKey, refused_at: Option<u16>) -> Signal {
    Signal::Failed {
        key,
        outcome: Outcome::Refused,
        errno: 111,
        refused_at,
        process: process("curl"),
        after_us: 50,
        retransmits: 0,
    }
}

#[test]
fn nobody_on_the_outbound_port() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15006", "0.0.0.0:8080"]);
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.signal(failed(key, Some(OUT)));
    node.edge(key, refused(2));
    node.pass(1.0);
    let finding = node.only(Code::StuckNoListener);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.connections, 2);
    let facts = facts(&finding);
    assert!(
        facts.contains("port 15001: nobody") && facts.contains("curl[42]"),
        "{facts}"
    );
    assert!(finding.remedy.contains("istio-proxy"));
    assert_eq!(node.engine.board().pods[0].failed, 2);
    // It came up: over at once.
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    assert_eq!(node.open(), []);
}

#[test]
fn nobody_where_only_resets_are_seen() {
    // Without NAT's decision the kernel side files a refusal under the port that refused it.
    let mut node = Node::running();
    node.give(Input::Coverage(coverage(&["nat_decision"])));
    node.listeners(&["0.0.0.0:15006"]);
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT));
    node.signal(failed(key, Some(OUT)));
    node.pass(1.0);
    assert_eq!(node.open(), [Code::StuckNoListener, Code::AgentDegraded]);
    node.edge(key, refused(3));
    let finding = node.findings().swap_remove(0);
    assert_eq!(finding.connections, 3);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(node.engine.board().pods[0].failed, 3);
}

#[test]
fn redirected_to_a_wrong_port_where_nobody_listens() {
    let mut node = Node::running();
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(15999));
    node.signal(failed(key, Some(15999)));
    node.edge(key, refused(3));
    node.pass(1.0);
    let finding = node.only(Code::StuckNoListener);
    assert!(finding.summary.contains("15999"), "{}", finding.summary);
    assert!(facts(&finding).contains("port 15999: nobody"));
}

#[test]
fn nobody_without_any_signal_is_probable() {
    for missing in [
        &["nat_decision", "reset"][..],
        &["nat_decision", "reset", "accept"][..],
    ] {
        let mut node = Node::running();
        node.give(Input::Coverage(coverage(missing)));
        node.listeners(&["0.0.0.0:15006"]);
        node.edge(out(APP, 1000, "10.9.0.1:80", Arrival::Unknown), refused(2));
        node.pass(1.0);
        let open = node.open();
        assert_eq!(open, [Code::StuckNoListener, Code::AgentDegraded]);
        assert_eq!(node.findings()[0].confidence, Confidence::Probable);
    }
}

#[test]
fn refused_by_the_peer_is_no_finding() {
    // With a live listener, with or without signals; and directly, by an exempt path.
    for missing in [&[][..], &["nat_decision", "reset"][..]] {
        let mut node = Node::running();
        node.give(Input::Coverage(coverage(missing)));
        let app = out(APP, 1000, "10.9.0.1:80", Arrival::Unknown);
        node.signal(failed(app, None));
        node.edge(app, refused(5));
        node.pass(10.0);
        assert!(!node.told().contains(&Code::StuckNoListener));
    }
}

#[test]
fn a_single_early_refusal_is_forgiven() {
    let mut node = Node::empty();
    node.announce();
    node.listeners(&["0.0.0.0:8080"]);
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.edge(key, refused(1));
    node.pass(0.5);
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006"]);
    node.pass(20.0);
    assert_eq!(node.told(), []);
}

#[test]
fn ipv6_redirected_to_an_ipv4_listener() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006"]);
    let four = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    let six = delta(
        out(APP, 1000, "[fd00::9]:80", Arrival::Decided(OUT)),
        refused(1),
    );
    node.keep(3, &[four, six]);
    let finding = node.only(Code::StuckNoListener);
    let facts = facts(&finding);
    assert!(
        facts.contains("ipv6") && facts.contains("0.0.0.0:15001"),
        "{facts}"
    );
    assert!(finding.remedy.contains("IPv4 only"), "{}", finding.remedy);
}

#[test]
fn nobody_on_the_inbound_port() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:8080"]);
    let nobody = |port| Signal::NoListener {
        netns: MESHED,
        port,
        local: ip("10.0.0.5"),
        peer: addr("10.9.0.7:4000"),
    };
    node.signal(nobody(9999));
    node.pass(3.0);
    assert_eq!(node.told(), []);
    node.signal(nobody(IN));
    node.signal(nobody(IN));
    node.pass(1.0);
    let finding = node.only(Code::StuckNoListener);
    assert_eq!(finding.direction, Some(Direction::Inbound));
    assert!(finding.summary.contains("15006"));
}

#[test]
fn a_proxy_that_does_not_accept() {
    let mut node = Node::running();
    let app = out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT));
    let child = into(PROXY, PROXY_UID, OUT, "10.0.0.5");
    for waiting in 1..=5 {
        node.edges(vec![
            delta(app, established(1)),
            delta(child, established(1)),
        ]);
        node.queues(vec![
            queue("0.0.0.0:15001", waiting),
            queue("0.0.0.0:15006", 0),
        ]);
        node.pass(1.0);
    }
    let finding = node.only(Code::StuckNotAccepting);
    assert!(
        facts(&finding).contains("5 waiting, maximum 128"),
        "{}",
        facts(&finding)
    );
    assert_eq!(finding.confidence, Confidence::Certain);
    // It runs again.
    node.queues(vec![queue("0.0.0.0:15001", 0), queue("0.0.0.0:15006", 0)]);
    assert_eq!(node.open(), []);
}

#[test]
fn a_busy_proxy_is_not_stuck() {
    let mut node = Node::running();
    let child = into(PROXY, PROXY_UID, OUT, "10.0.0.5");
    for waiting in [1, 1, 2, 3, 3, 4, 5, 6] {
        node.edges(vec![delta(child, established(50))]);
        node.queues(vec![queue("0.0.0.0:15001", waiting)]);
        node.pass(1.0);
    }
    assert_eq!(node.told(), []);
}

#[test]
fn an_app_that_listens_on_loopback_only() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006", "127.0.0.1:8080"]);
    let dial = delta(
        out(PROXY, PROXY_UID, "10.0.0.5:8080", Arrival::Unknown),
        refused(1),
    );
    node.keep(2, &[dial]);
    let finding = node.only(Code::StuckAppRefused);
    assert!(facts(&finding).contains("127.0.0.1:8080"));
    assert_eq!(finding.confidence, Confidence::Certain);
    let works = delta(
        out(PROXY, PROXY_UID, "10.0.0.5:8080", Arrival::Port(8080)),
        established(1),
    );
    node.keep(1, &[works]);
    assert_eq!(node.open(), []);
}

#[test]
fn an_app_that_starts_is_not_reported() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006"]);
    let dial = out(PROXY, PROXY_UID, "127.0.0.1:8080", Arrival::Unknown);
    node.keep(10, &[delta(dial, refused(1))]);
    assert_eq!(node.told(), []);
    node.keep(25, &[delta(dial, refused(1))]);
    node.only(Code::StuckAppRefused);
}

#[test]
fn an_upstream_that_keeps_refusing() {
    let mut node = Node::running();
    let dial = out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Unknown);
    node.edge(dial, refused(2));
    node.pass(10.0);
    assert_eq!(node.told(), []);
    node.keep(2, &[delta(dial, refused(2))]);
    let finding = node.only(Code::StuckUpstreamRefused);
    assert!(finding.summary.contains("10.9.0.1:80"));
    node.edge(
        out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    assert_eq!(node.open(), []);
}

#[test]
fn an_upstream_that_refuses_now_and_then() {
    let mut node = Node::running();
    let refuse = delta(
        out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Unknown),
        refused(3),
    );
    let accept = delta(
        out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.keep(6, &[refuse.clone(), accept.clone()]);
    node.keep(6, &[accept, refuse]);
    assert_eq!(node.told(), []);
}

#[test]
fn degraded_is_said_once_and_taken_back() {
    let mut node = Node::running();
    node.give(Input::Coverage(coverage(&["nat_decision", "accept"])));
    node.pass(1000.0);
    let finding = node.only(Code::AgentDegraded);
    assert_eq!(finding.pod, None);
    let facts = facts(&finding);
    assert!(
        facts.contains("nat_decision") && facts.contains("no kprobes"),
        "{facts}"
    );
    node.give(Input::Coverage(coverage(&[])));
    assert_eq!(node.open(), []);
}

#[test]
fn a_silent_upstream_counts_as_stuck() {
    let mut node = Node::running();
    let counts = sidestep::model::Counts {
        timed_out: 2,
        ..Default::default()
    };
    node.edge(
        out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
        counts,
    );
    let board = node.engine.board();
    let row = &board.interception[0];
    assert!(matches!(row.verdict, Verdict::Stuck { .. }), "{row:?}");
    assert_eq!(node.told(), []);
}

#[test]
fn the_end_of_a_pod_ends_its_findings() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.only(Code::BypassNoRules);
    node.change(Change::PodGone(meshed().key));
    assert_eq!(node.open(), []);
    assert_eq!(node.findings().len(), 1);
    node.pass(601.0);
    assert_eq!(node.findings().len(), 0);
}
