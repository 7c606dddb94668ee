//! Connections that rules of the node reject on their way, each beside its healthy twin.

use sidestep::{
    engine::{Code, Confidence},
    model::{Arrival, Outcome},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE},
    on_node::{NODE, TO, by, filter, passage, rules_wanted, upstream, wanted},
};

/// A meshed pod whose proxy is refused, twice a second or so, while the node is asked.
fn turned_away(passes: &str, outcome: Outcome) -> Node {
    let mut node = live_rules::with(WHOLE);
    node.change(netns(NODE, &["10.0.0.254"]));
    for round in 0..4 {
        node.signal(crate::lost::failed(upstream(), outcome, 0, 100));
        let asked = wanted(&mut node);
        // Once may happen to anybody.
        assert_eq!(asked.len(), usize::from(round == 1), "{round}");
        if round == 1 {
            rules_wanted(&mut node);
            node.give(passage(by("eth0")));
            assert_eq!(rules_wanted(&mut node), [NODE]);
        }
        if round == 2 {
            node.give(filter(passes));
        }
        drained(&mut node);
    }
    node
}

/// What the app dials is established by its proxy, whatever becomes of the proxy's own connection.
fn drained(node: &mut Node) {
    let captured = out(APP, 1000, TO, Arrival::Port(OUT));
    node.edges(vec![
        delta(captured, established(1)),
        delta(upstream(), refused(1)),
    ]);
    node.pass(0.5);
}

/// The same for another two seconds.
fn goes_on(node: &mut Node, outcome: Outcome) {
    for _ in 0..4 {
        node.signal(crate::lost::failed(upstream(), outcome, 0, 100));
        drained(node);
    }
}

#[test]
fn who_is_rejected_by_the_node_is_told_so_and_nothing_else() {
    for reject in [
        "-A FORWARD -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset",
        "-A FORWARD -p tcp -j REJECT --reject-with icmp-port-unreachable",
    ] {
        let text = format!(":FORWARD ACCEPT [0:0]\n{reject}");
        let mut node = turned_away(&text, Outcome::Refused);
        assert_eq!(node.told(), [], "it may be over in a moment");
        goes_on(&mut node, Outcome::Refused);
        let finding = node.only(Code::FailNetfilterDrop);
        let told = facts(&finding);
        for says in ["place: node", "ruled: rejected", "hook: forward", TO] {
            assert!(told.contains(says), "{told}");
        }
        assert_eq!(finding.confidence, Confidence::Certain);
        node.pass(5.0);
        assert_eq!(node.told(), [Code::FailNetfilterDrop]);
        node.edge(upstream(), established(1));
        assert_eq!(node.open(), []);
    }
    let text = ":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-admin-prohibited";
    let mut node = turned_away(text, Outcome::Unreachable);
    goes_on(&mut node, Outcome::Unreachable);
    node.only(Code::FailNetfilterDrop);
}

const EMPTY: &str = ":FORWARD ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A FORWARD -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.9.0.1/32 -p tcp -m comment --comment \"shop/web has no endpoints\" -m tcp --dport 80 -j REJECT";

#[test]
fn a_service_that_is_ready_in_a_moment_is_not_told() {
    let mut node = turned_away(EMPTY, Outcome::Refused);
    node.edge(upstream(), established(1));
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn who_gives_up_is_told_of_the_service_without_endpoints() {
    let mut node = turned_away(EMPTY, Outcome::Refused);
    node.pass(3.5);
    assert_eq!(node.told(), [], "an answer may be on its way");
    node.pass(1.5);
    let finding = node.only(Code::FailNetfilterDrop);
    assert!(
        finding
            .summary
            .contains("Service shop/web has no endpoints"),
        "{}",
        finding.summary
    );
    assert!(
        finding
            .remedy
            .contains("get endpointslices --selector kubernetes.io/service-name=web`"),
        "{}",
        finding.remedy
    );
}

#[test]
fn who_is_refused_past_a_node_that_rejects_others_was_refused_by_the_destination() {
    for text in [
        ":FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 81 -j REJECT --reject-with tcp-reset",
        ":FORWARD ACCEPT [0:0]\n-A FORWARD -i cali2 -j REJECT --reject-with icmp-port-unreachable",
        // Whoever is dropped hears nothing.
        ":FORWARD DROP [0:0]",
    ] {
        let mut node = turned_away(text, Outcome::Refused);
        node.pass(3.0);
        assert_eq!(node.told(), [Code::StuckUpstreamRefused], "{text}");
        // Refusals that go on do not have ten thousand rules read again and again.
        for _ in 0..20 {
            node.signal(crate::lost::failed(upstream(), Outcome::Refused, 0, 100));
            node.pass(1.0);
        }
        let read = rules_wanted(&mut node);
        assert!(read.iter().filter(|one| **one == NODE).count() <= 1);
    }
}

#[test]
fn what_was_taken_for_the_destinations_refusal_is_taken_back() {
    let mut node = live_rules::with(WHOLE);
    node.change(netns(NODE, &["10.0.0.254"]));
    for _ in 0..8 {
        node.signal(crate::lost::failed(upstream(), Outcome::Refused, 0, 100));
        node.edge(upstream(), refused(1));
        node.pass(1.0);
    }
    node.only(Code::StuckUpstreamRefused);
    node.signal(crate::lost::failed(upstream(), Outcome::Refused, 0, 100));
    node.give(passage(by("eth0")));
    node.give(filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -j REJECT"));
    node.edge(upstream(), refused(1));
    node.pass(1.0);
    node.only(Code::FailNetfilterDrop);
}
