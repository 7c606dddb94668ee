//! Rules that come, go and are read again: findings follow them, and nothing is made of rules of another time or pod.

use sidestep::{
    engine::{Change, Code, Input},
    model::{Arrival, EdgeKey, Family, NetnsId, RulesBackend, Signal},
};

use crate::{
    kit::{
        APP, IN, MESHED, Node, OUT, PROXY, PROXY_UID, established, facts, into, meshed, out,
        process,
    },
    live_rules::{WHOLE, dial, legacy, reading, whole, with, without},
};

fn changed(node: &Node) -> Signal {
    Signal::RulesChanged {
        netns: MESHED,
        at: node.now,
        backend: RulesBackend::Legacy,
        family: Some(Family::Ipv4),
        uid: 0,
        process: process("firewalld"),
    }
}

#[test]
fn rules_that_were_removed_and_by_whom() {
    let mut node = with(WHOLE);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.pass(5.0);
    let signal = changed(&node);
    node.signal(signal);
    node.give(reading(&[]));
    node.pass(1.0);
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassRulesRemoved);
    let facts = facts(&finding);
    assert!(facts.contains("firewalld[42]"), "{facts}");
    assert!(facts.contains("rule_before"), "{facts}");
    assert!(finding.remedy.contains("firewalld"), "{}", finding.remedy);
    node.give(legacy(WHOLE));
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    assert_eq!(node.open(), []);
}

#[test]
fn rules_of_an_earlier_pod_in_a_namespace_of_that_number_were_not_removed() {
    let mut node = Node::empty();
    node.give(legacy(WHOLE));
    node.pass(5.0);
    node.announce();
    node.pass(10.0);
    dial(&mut node, 1000);
    node.give(reading(&[]));
    node.only(Code::BypassNoRules);
    assert_eq!(node.told(), [Code::BypassNoRules]);
}

#[test]
fn rules_of_an_earlier_pod_in_a_namespace_of_that_number_explain_nothing() {
    let mut node = Node::empty();
    node.give(legacy(WHOLE));
    node.pass(5.0);
    node.announce();
    node.pass(10.0);
    node.edge(
        out(APP, 1000, "[fd00::9]:80", Arrival::Nowhere),
        established(1),
    );
    assert_eq!(node.told(), []);
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    node.give(reading(&[]));
    node.only(Code::BypassNoRules);
    assert_eq!(node.told(), [Code::BypassNoRules]);
}

#[test]
fn an_open_finding_waits_for_the_rules_that_ended_it() {
    let mut node = with("*nat\nCOMMIT\n");
    dial(&mut node, 1000);
    node.only(Code::BypassNoRules);
    node.pass(0.5);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.only(Code::BypassNoRules);
    node.pass(0.3);
    node.give(legacy(WHOLE));
    node.only(Code::BypassBeforeRules);
}

#[test]
fn rules_that_are_written_anew_are_not_removed() {
    let mut node = with(WHOLE);
    node.give(legacy(&without(
        "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
    )));
    node.give(legacy(WHOLE));
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.edge(into(PROXY, PROXY_UID, IN, "10.9.0.7"), established(1));
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn a_contradiction_is_read_again_before_anything_is_said() {
    let mut node = with(WHOLE);
    node.pass(5.0);
    dial(&mut node, 1000);
    assert_eq!(node.told(), []);
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    assert_eq!(node.engine.next_wanted_rules(), None::<NetnsId>);
    node.pass(0.2);
    node.give(reading(&[]));
    let finding = node.only(Code::BypassRulesRemoved);
    assert!(
        facts(&finding).contains("does not tell who"),
        "{}",
        facts(&finding)
    );
}

#[test]
fn a_single_contradiction_that_stays_is_nothing_to_wake_somebody_for() {
    let mut node = with(WHOLE);
    node.pass(5.0);
    dial(&mut node, 1000);
    node.give(legacy(WHOLE));
    node.pass(60.0);
    assert_eq!(node.told(), []);
}

#[test]
fn a_connection_older_than_the_rules() {
    let mut node = with("*nat\nCOMMIT\n");
    node.pass(1.0);
    node.give(legacy(WHOLE));
    dial(&mut node, 1000);
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    node.pass(2.2);
    node.give(legacy(WHOLE));
    let finding = node.only(Code::BypassBeforeRules);
    assert!(
        facts(&finding).contains("rules_since"),
        "{}",
        facts(&finding)
    );
}

#[test]
fn rules_that_come_after_a_finding_make_it_one_about_age() {
    let mut node = with("*nat\nCOMMIT\n");
    dial(&mut node, 1000);
    node.only(Code::BypassNoRules);
    node.pass(1.0);
    node.give(legacy(WHOLE));
    let finding = node.only(Code::BypassBeforeRules);
    assert_eq!(finding.connections, 1);
}

#[test]
fn rules_that_turn_out_otherwise_move_the_finding() {
    // Read while they were being written: nothing yet, then all but one jump.
    let mut node = with("*nat\nCOMMIT\n");
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    node.only(Code::BypassNoRules);
    node.pass(0.5);
    node.give(legacy(&without("-A PREROUTING -p tcp -j ISTIO_INBOUND")));
    let finding = node.only(Code::BypassInboundDirect);
    assert_eq!(finding.connections, 3);
    assert!(
        facts(&finding).contains("ISTIO_INBOUND"),
        "{}",
        facts(&finding)
    );
}

#[test]
fn inbound_rules_that_are_back_end_the_finding_without_further_traffic() {
    let mut node = with(WHOLE);
    let captured = into(PROXY, PROXY_UID, IN, "10.9.0.7");
    node.edge(captured, established(1));
    node.pass(5.0);
    node.give(reading(&[]));
    node.pass(1.0);
    for _ in 0..4 {
        node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(1));
        node.pass(1.0);
    }
    node.only(Code::BypassRulesRemoved);
    // Captured again: for this port at least. The rules say whether for all of them.
    while node.engine.next_wanted_rules().is_some() {}
    node.pass(6.0);
    node.edge(captured, established(1));
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    node.only(Code::BypassRulesRemoved);
    let some = without("-A PREROUTING -p tcp -j ISTIO_INBOUND");
    node.give(legacy(&some));
    node.only(Code::BypassRulesRemoved);
    node.give(legacy(WHOLE));
    assert_eq!(node.open(), []);
    // Connections from before that are counted only now are no others.
    node.pass(0.5);
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(2));
    node.pass(0.3);
    node.give(legacy(WHOLE));
    assert_eq!(node.engine.waiting(), 0);
    node.pass(10.0);
    assert_eq!(node.told(), [Code::BypassRulesRemoved]);
}

/// Rules that were away, came back, and are away again: connections of four seconds, with nothing read since.
fn away_again(delta: EdgeKey) -> Node {
    let mut node = with(WHOLE);
    node.pass(5.0);
    node.give(reading(&[]));
    node.pass(1.0);
    node.give(whole(WHOLE));
    node.pass(4.0);
    for _ in 0..16 {
        node.edge(delta, established(1));
        node.pass(0.25);
    }
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    assert_eq!(node.told(), []);
    node
}

fn dialed() -> EdgeKey {
    out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere)
}

#[test]
fn rules_that_go_again_before_they_are_read_again_were_removed() {
    for key in [dialed(), into(APP, 1000, 8080, "10.9.0.7")] {
        let mut node = away_again(key);
        node.give(reading(&[]));
        node.pass(1.0);
        let finding = node.only(Code::BypassRulesRemoved);
        assert_eq!(finding.connections, 16);
        node.give(whole(WHOLE));
        node.pass(10.0);
        assert_eq!(node.told(), [Code::BypassRulesRemoved]);
        assert_eq!(node.open(), []);
    }
}

#[test]
fn what_goes_past_rules_that_are_there_when_read_again_is_not_understood() {
    let mut node = away_again(dialed());
    node.give(whole(WHOLE));
    let finding = node.only(Code::BypassUnknown);
    assert_eq!(finding.connections, 16);
}

#[test]
fn a_moment_is_no_longer_for_being_held_back() {
    let mut node = with(WHOLE);
    node.pass(5.0);
    node.edge(dialed(), established(16));
    node.pass(4.0);
    node.give(whole(WHOLE));
    node.pass(20.0);
    assert_eq!(node.told(), []);
}

#[test]
fn what_contradicts_rules_that_are_not_read_again_is_told_all_the_same() {
    let mut node = away_again(dialed());
    node.pass(5.5);
    assert_eq!(node.told(), []);
    node.pass(1.0);
    node.only(Code::BypassUnknown);
}

#[test]
fn what_waits_for_the_rules_of_a_pod_that_ends_is_still_its_own() {
    for after in [0.5, 3.5, 6.5] {
        let mut node = with(WHOLE);
        node.pass(5.0);
        dial(&mut node, 1000);
        node.pass(after);
        assert_eq!(node.engine.waiting(), 1);
        node.change(Change::PodGone(meshed().key));
        node.pass(6.0);
        assert_eq!(node.engine.waiting(), 0);
        let board = node.engine.board();
        assert_eq!(board.unattributed, []);
        assert_eq!(board.connections[0].connections, 1);
    }
}

#[test]
fn a_reading_that_began_before_a_connection_does_not_speak_of_it() {
    let began_before = |text| {
        let Input::Rules(mut reading) = whole(text) else {
            unreachable!()
        };
        reading.lasted_us = 400_000;
        Input::Rules(reading)
    };
    let mut node = with(WHOLE);
    node.pass(5.0);
    dial(&mut node, 1000);
    node.pass(0.2);
    node.give(began_before(WHOLE));
    assert_eq!(node.engine.waiting(), 1);
    node.pass(0.2);
    node.give(began_before("*nat\nCOMMIT\n"));
    node.only(Code::BypassRulesRemoved);
}
