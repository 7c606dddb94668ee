//! What the kernel drops: whom it is asked about, for how long, and what is told of it.

use std::net::IpAddr;

use sidestep::{
    engine::{Code, Input},
    model::{Arrival, Direction, EdgeKey, LostPackets, Part, Signal},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE},
};

const TO: &str = "10.9.0.1:80";

fn upstream() -> EdgeKey {
    out(PROXY, PROXY_UID, TO, Arrival::Nowhere)
}

fn stalled(retransmits: u8) -> Signal {
    Signal::Stalled {
        key: upstream(),
        retransmits,
        process: process("envoy"),
    }
}

fn watched(node: &mut Node) -> Option<Vec<IpAddr>> {
    let now = node.engine.next_watched()?;
    Some(now.into_iter().collect())
}

fn lost(part: Part, reason: Option<&str>, function: Option<&str>) -> LostPackets {
    LostPackets {
        local: ip("10.0.0.5"),
        remote: addr(TO),
        direction: Direction::Outbound,
        part,
        netns: Some(MESHED),
        reason: reason.map(ToOwned::to_owned),
        function: function.map(ToOwned::to_owned),
        packets: 3,
    }
}

#[test]
fn a_pod_is_watched_for_a_moment_and_not_again_at_once() {
    let mut node = live_rules::with(WHOLE);
    node.edge(upstream(), established(50));
    assert_eq!(watched(&mut node), None, "a healthy one never is");
    node.signal(stalled(1));
    assert_eq!(watched(&mut node), Some(vec![ip("10.0.0.5")]));
    assert_eq!(watched(&mut node), None, "told once");
    node.pass(14.0);
    assert_eq!(watched(&mut node), None);
    node.pass(2.0);
    assert_eq!(watched(&mut node), Some(vec![]));
    node.signal(stalled(2));
    node.pass(1.0);
    assert_eq!(watched(&mut node), None, "not again within the minute");
    node.pass(50.0);
    node.signal(stalled(1));
    assert_eq!(watched(&mut node), Some(vec![ip("10.0.0.5")]));
}

#[test]
fn what_the_kernel_says_is_in_the_finding_and_in_a_row() {
    for (reason, function, says) in [
        (
            Some("NETFILTER_DROP"),
            Some("nf_hook_slow"),
            "NETFILTER_DROP in nf_hook_slow",
        ),
        (None, Some("ip_rcv_finish"), "ip_rcv_finish"),
        (Some("NOT_SPECIFIED"), None, "NOT_SPECIFIED"),
        (None, None, "unknown"),
    ] {
        let mut node = live_rules::with(WHOLE);
        node.signal(stalled(1));
        node.give(Input::LostPackets(vec![
            lost(Part::Syn, reason, function),
            lost(Part::Later, Some("TCP_OLD_ACK"), None),
        ]));
        node.pass(2.0);
        node.signal(stalled(2));
        node.pass(4.0);
        let text = facts(&node.only(Code::StuckUpstreamTimeout));
        let expected = format!("3 × SYN to {TO}: {says}, in the pod's own namespace");
        assert!(text.contains(&expected), "{text}");
        assert!(!text.contains("TCP_OLD_ACK"), "{text}");
        let rows = node.engine.board().drops.clone();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(
            rows.iter()
                .all(|row| row.packets == 3 && row.pod.name == "web-1")
        );
    }
}

#[test]
fn drops_alone_are_no_finding_and_of_nobody_watched_no_row() {
    let mut node = live_rules::with(WHOLE);
    node.give(Input::LostPackets(vec![lost(
        Part::Syn,
        Some("NETFILTER_DROP"),
        None,
    )]));
    node.pass(10.0);
    assert_eq!(node.told(), []);
    assert!(node.engine.board().drops.is_empty());
}

#[test]
fn an_answer_sent_again_says_that_the_way_back_does_not_work() {
    let mut node = live_rules::with(WHOLE);
    node.signal(stalled(1));
    let again = Signal::SynAckResent {
        owner: owner(
            sidestep::model::NetnsId(77),
            sidestep::model::CgroupId(0),
            0,
        ),
        local: addr(TO),
        peer: addr("10.0.0.5:40000"),
    };
    node.signal(again.clone());
    node.signal(again);
    node.pass(2.0);
    node.signal(stalled(2));
    node.pass(4.0);
    let text = facts(&node.only(Code::StuckUpstreamTimeout));
    assert!(
        text.contains("10.9.0.1 sent its SYN-ACK again 2 times"),
        "{text}"
    );
}

#[test]
fn reasons_of_a_pod_are_bounded() {
    let mut node = live_rules::with(WHOLE);
    node.signal(stalled(1));
    let many = (0..1_000).map(|n| lost(Part::Syn, Some(&format!("R{n}")), None));
    node.give(Input::LostPackets(many.collect()));
    let rows = node.engine.board().drops.clone();
    assert!(rows.len() <= 33, "{}", rows.len());
    let all: u64 = rows.iter().map(|row| row.packets).sum();
    assert_eq!(all, 3_000, "nothing is lost, only its reason");
}
