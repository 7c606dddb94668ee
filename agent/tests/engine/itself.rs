//! What the agent says about itself: bounds that were reached, and connections nobody claims.

use sidestep::{
    engine::{Code, Input},
    model::{AgentStats, Arrival, CgroupId, Loss, NetnsId},
};

use crate::kit::*;

/// The kernel side's account, as it comes in every second.
fn account(node: &mut Node, losses: &[(&str, u64)]) {
    let loss = |(at, count): &(&str, u64)| Loss {
        at: (*at).to_owned(),
        count: *count,
    };
    node.give(Input::Stats(AgentStats {
        losses: losses.iter().map(loss).collect(),
        ..AgentStats::default()
    }));
    node.pass(1.0);
}

#[test]
fn what_was_dropped_is_told_with_its_number() {
    let mut node = Node::running();
    account(&mut node, &[("ring_buffer", 0), ("edge_map_full", 0)]);
    assert_eq!(node.told(), []);
    account(&mut node, &[("ring_buffer", 0), ("edge_map_full", 70)]);
    account(&mut node, &[("ring_buffer", 5), ("edge_map_full", 100)]);
    let finding = node.only(Code::AgentOverload);
    let facts = facts(&finding);
    assert!(facts.contains("edge_map_full: 100 connections"), "{facts}");
    assert!(facts.contains("ring_buffer: 5 signals"), "{facts}");
    assert!(
        finding.summary.contains("edge_map_full"),
        "{}",
        finding.summary
    );
    assert_eq!(finding.pod, None);
    // Totals that stand still are an old story.
    for _ in 0..130 {
        account(&mut node, &[("ring_buffer", 5), ("edge_map_full", 100)]);
    }
    assert_eq!(node.open(), []);
}

#[test]
fn what_loses_no_answer_is_no_overload() {
    let mut node = Node::running();
    for n in 1..10 {
        account(
            &mut node,
            &[
                ("events_suppressed", n * 900),
                ("pending_missing", n),
                ("ring_buffer", 0),
            ],
        );
    }
    assert_eq!(node.told(), []);
}

/// One second with this many connections of the pod and of nobody.
fn second(node: &mut Node, known: u64, unknown: u64) {
    let mine = out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT));
    let mut foreign = mine;
    foreign.owner.netns = NetnsId(4000);
    foreign.owner.cgroup = CgroupId(4001);
    foreign.local = ip("10.7.0.1");
    node.edges(vec![
        delta(mine, established(known)),
        delta(foreign, established(unknown)),
    ]);
    account(node, &[]);
}

#[test]
fn connections_nobody_claims_are_told_while_they_keep_coming() {
    let mut node = Node::running();
    for _ in 0..80 {
        second(&mut node, 50, 10);
    }
    let finding = node.only(Code::AgentUnattributed);
    assert!(
        facts(&finding).contains("netns_unknown"),
        "{}",
        facts(&finding)
    );
    for _ in 0..30 {
        second(&mut node, 50, 0);
    }
    assert_eq!(node.open(), []);
}

#[test]
fn what_pods_leave_behind_is_not_told() {
    let mut node = Node::running();
    for n in 0..120 {
        // A burst of leftovers once in a while, and a trickle far below one in a hundred.
        second(&mut node, 900, if n == 60 { 40 } else { 3 });
    }
    assert_eq!(node.told(), []);
}
