//! A proxy that its CPU limit keeps from running, beside those that are slow or wedged by themselves.

use sidestep::{
    engine::{Code, Confidence, Input, Inquiry},
    model::{CpuLevel, CpuLimit},
};

use crate::kit::*;

/// One second of a node on which `waiting` connections wait for the proxy: a sample, and what the
/// kernel says of its limit if anybody asks. `lost` found the queue full so far.
fn second(node: &mut Node, waiting: u32, lost: u64, cpu: Option<CpuLimit>) -> bool {
    node.pass(1.0);
    node.give(Input::Queues {
        netns: MESHED,
        queues: vec![queue("0.0.0.0:15001", waiting), queue("0.0.0.0:15006", 0)],
        overflows: Some(lost),
    });
    let asked = node.engine.next_inquiry();
    if asked == Some(Inquiry::Cpu(PROXY)) {
        let limits = cpu.into_iter().collect();
        node.give(Input::Cpu {
            cgroup: PROXY,
            limits,
        });
    }
    asked.is_some()
}

fn limit(periods: u64, throttled: u64) -> Option<CpuLimit> {
    Some(CpuLimit {
        level: CpuLevel::Container,
        quota_us: 20_000,
        period_us: 100_000,
        periods,
        throttled,
        throttled_us: throttled * 80_000,
    })
}

#[test]
fn a_throttled_proxy_with_a_full_queue_is_one_finding() {
    let mut node = Node::running();
    for s in 0..6 {
        assert!(second(
            &mut node,
            128,
            5 * s,
            limit(1_000 + 10 * s, 700 + 9 * s)
        ));
    }
    let finding = node.only(Code::SidecarThrottled);
    assert_eq!(finding.confidence, Confidence::Certain);
    let facts = facts(&finding);
    for fact in [
        "200m CPU of the container",
        "of 40 periods",
        "128 waiting, maximum 128",
    ] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    assert!(
        finding.remedy.contains("container istio-proxy"),
        "{}",
        finding.remedy
    );
    assert_eq!(node.told(), [Code::SidecarThrottled]);
    // The limit was raised, and it is still too slow: that is another finding.
    for s in 6..20 {
        second(&mut node, 128, 5 * s, limit(1_050, 745));
    }
    node.only(Code::StuckNotAccepting);
}

#[test]
fn a_proxy_that_may_run_is_not_throttled() {
    let mut node = Node::running();
    for s in 0..6 {
        // Its long past of throttling is not why it is slow now.
        second(&mut node, 128, 5 * s, limit(5_000 + 10 * s, 4_000));
    }
    node.only(Code::StuckNotAccepting);
    assert_eq!(node.told(), [Code::StuckNotAccepting]);
}

#[test]
fn without_an_answer_the_queue_is_told_as_what_it_is() {
    let mut node = Node::running();
    for s in 0..6 {
        assert_eq!(node.told(), [], "{s} s: an answer may come");
        node.pass(1.0);
        node.give(Input::Queues {
            netns: MESHED,
            queues: vec![queue("0.0.0.0:15001", 9)],
            overflows: Some(s),
        });
    }
    node.only(Code::StuckNotAccepting);
}

#[test]
fn a_queue_that_is_empty_at_the_moment_of_a_look_is_no_proxy_that_may_run() {
    let mut node = Node::running();
    // Throttled, it empties its queue in each of its moments, and the looks may fall there.
    for s in 0..8 {
        let waiting = if s == 0 || s == 2 { 128 } else { 0 };
        second(&mut node, waiting, 40 * s, limit(10 * s, 9 * s));
        let told = node.told();
        assert!(!told.contains(&Code::StuckAcceptQueue), "{s} s: {told:?}");
    }
    node.only(Code::SidecarThrottled);
}

#[test]
fn on_a_busy_node_the_answers_are_late_and_waited_for() {
    let mut node = Node::running();
    for s in 0..8 {
        node.pass(1.0);
        node.give(Input::Queues {
            netns: MESHED,
            queues: vec![queue("0.0.0.0:15001", 5)],
            overflows: Some(40 * s),
        });
        // Read two seconds after it was asked, whatever else happens.
        if s % 2 == 0 && s > 0 {
            let limits = limit(10 * s, 9 * s).into_iter().collect();
            let cgroup = PROXY;
            node.give(Input::Cpu { cgroup, limits });
        }
    }
    node.only(Code::SidecarThrottled);
    assert_eq!(node.told(), [Code::SidecarThrottled]);
}

#[test]
fn nobody_is_asked_about_a_proxy_nobody_waits_for() {
    let mut node = Node::running();
    for _ in 0..5 {
        assert!(!second(&mut node, 0, 0, limit(100, 100)));
    }
    assert_eq!(node.open(), []);
}
