//! Connections that nobody answers or that rules stop, each beside its healthy twin.

use sidestep::{
    engine::{Change, Code, Confidence, Input},
    model::{Arrival, CgroupId, ContainerKind, Counts, EdgeKey, NetnsId, Outcome, Signal},
    rules::{Backend, parse_save},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE, reading},
};

const TO: &str = "10.9.0.1:80";

pub(crate) fn stalled(key: EdgeKey, retransmits: u8) -> Signal {
    Signal::Stalled {
        key,
        retransmits,
        process: process("envoy"),
    }
}

pub(crate) fn failed(key: EdgeKey, outcome: Outcome, retransmits: u8, after_us: u64) -> Signal {
    Signal::Failed {
        key,
        outcome,
        errno: 0,
        refused_at: None,
        process: process("envoy"),
        after_us,
        retransmits,
    }
}

fn upstream() -> EdgeKey {
    out(PROXY, PROXY_UID, TO, Arrival::Nowhere)
}

/// Nothing is tracked there: the answer to whoever asks about connection tracking tables.
pub(crate) const UNTRACKED: Input = Input::Conntrack {
    netns: MESHED,
    own: None,
    node: None,
};

fn timed_out(n: u64) -> Counts {
    Counts {
        timed_out: n,
        ..Counts::default()
    }
}

fn filter(rules: &str) -> Input {
    live_rules::whole(&format!(
        "{WHOLE}*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n"
    ))
}

#[test]
fn an_upstream_that_does_not_answer_is_told_while_it_is_waited_for() {
    let mut node = live_rules::with(WHOLE);
    node.signal(stalled(upstream(), 1));
    node.pass(1.5);
    assert_eq!(node.open(), []);
    // The rules, read again: nothing in them.
    node.give(live_rules::whole(WHOLE));
    node.give(UNTRACKED);
    node.signal(stalled(upstream(), 2));
    let finding = node.only(Code::StuckUpstreamTimeout);
    let facts = facts(&finding);
    assert!(facts.contains("2 SYNs sent again"), "{facts}");
    assert!(facts.contains(TO) && facts.contains("envoy[42]"), "{facts}");
    node.edge(upstream(), timed_out(1));
    assert_eq!(node.only(Code::StuckUpstreamTimeout).connections, 1);
    node.edge(upstream(), established(1));
    assert_eq!(node.open(), []);
}

#[test]
fn callers_with_little_patience_add_up() {
    let mut node = live_rules::with(WHOLE);
    for _ in 0..3 {
        node.signal(failed(upstream(), Outcome::Aborted, 0, 250_000));
        node.pass(0.6);
    }
    node.pass(3.0);
    assert_eq!(node.open(), [Code::StuckUpstreamTimeout]);
}

#[test]
fn bad_luck_is_not_told() {
    let mut node = live_rules::with(WHOLE);
    // One SYN lost, twice, with an answer between; callers that change their mind at once; the app's own.
    node.signal(stalled(upstream(), 1));
    node.edge(upstream(), established(1));
    node.signal(stalled(upstream(), 1));
    for _ in 0..20 {
        node.signal(failed(upstream(), Outcome::Aborted, 0, 50));
    }
    node.signal(stalled(out(APP, 1000, "10.9.0.2:80", Arrival::Nowhere), 2));
    node.pass(60.0);
    assert_eq!(node.told(), []);
}

#[test]
fn a_rule_of_the_pod_is_the_root_and_the_only_finding() {
    let mut node = live_rules::with(WHOLE);
    node.signal(stalled(upstream(), 1));
    node.give(filter("-A OUTPUT -p tcp -m tcp --dport 80 -j DROP"));
    let finding = node.only(Code::FailNetfilterDrop);
    assert_eq!(finding.confidence, Confidence::Certain);
    let text = facts(&finding);
    assert!(
        text.contains("hook: output, table filter, chain OUTPUT, ipv4"),
        "{text}"
    );
    assert!(
        finding.remedy.contains("--dport 80 -j DROP"),
        "{}",
        finding.remedy
    );
    node.signal(stalled(upstream(), 2));
    node.edge(upstream(), timed_out(4));
    node.pass(5.0);
    assert_eq!(node.only(Code::FailNetfilterDrop).connections, 4);
    // The rule goes away.
    node.give(live_rules::whole(WHOLE));
    assert_eq!(node.open(), []);
    assert_eq!(node.told(), [Code::FailNetfilterDrop]);
}

#[test]
fn who_is_refused_under_rules_that_drop_was_refused_by_somebody_else() {
    let mut node = Node::running();
    node.give(filter("-A OUTPUT -p tcp -m tcp --dport 80 -j DROP"));
    node.signal(failed(upstream(), Outcome::Refused, 0, 100));
    node.edge(upstream(), refused(1));
    node.pass(2.0);
    assert_eq!(node.told(), []);
}

#[test]
fn a_rule_that_rejects_is_no_missing_listener() {
    let mut node = Node::running();
    node.give(filter(
        "-A INPUT -p tcp -m tcp --dport 15001 -j REJECT --reject-with tcp-reset",
    ));
    let key = out(APP, 1000, TO, Arrival::Decided(OUT));
    node.signal(failed(key, Outcome::Refused, 0, 100));
    node.edge(key, refused(3));
    node.pass(3.0);
    let finding = node.only(Code::FailNetfilterDrop);
    assert_eq!(finding.connections, 3);
    assert!(finding.summary.contains("rejected"), "{}", finding.summary);
}

#[test]
fn who_refuses_most_and_loses_some_answers() {
    let mut node = live_rules::with(WHOLE);
    for _ in 0..5 {
        node.signal(stalled(upstream(), 1));
        node.pass(0.3);
        node.signal(failed(upstream(), Outcome::Refused, 0, 100));
        node.edge(upstream(), refused(4));
        node.pass(0.3);
    }
    node.pass(5.0);
    assert_eq!(node.told(), [Code::StuckUpstreamRefused]);
}

#[test]
fn what_a_rule_refused_before_anybody_had_read_it() {
    for (waited, told) in [(1.0, vec![Code::FailNetfilterDrop]), (3.0, vec![])] {
        let mut node = Node::running();
        // Rules can be read here; those of this pod are still to come.
        node.give(live_rules::reading_of(NetnsId(99), &[]));
        node.signal(failed(upstream(), Outcome::Refused, 0, 100));
        node.edge(upstream(), refused(2));
        node.pass(waited);
        assert_eq!(node.told(), []);
        let reject = "-A OUTPUT -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset";
        node.give(filter(reject));
        assert_eq!(node.open(), told, "after {waited} s");
        assert_eq!(node.engine.waiting(), 0);
    }
}

fn reset(key: EdgeKey, port: u16) -> Signal {
    Signal::Reset { key, port }
}

#[test]
fn an_upstream_that_resets_before_it_answers() {
    let mut node = Node::running();
    let key = out(PROXY, PROXY_UID, TO, Arrival::Unknown);
    for _ in 0..4 {
        node.signal(reset(key, 40_000));
        node.edge(upstream(), established(1));
        node.pass(0.5);
    }
    node.pass(1.5);
    let finding = node.only(Code::StuckUpstreamReset);
    assert!(facts(&finding).contains("10.9.0.1:80, 4 times"));
    // It is what few connections come to.
    node.edge(upstream(), established(50));
    assert_eq!(node.open(), []);
}

#[test]
fn resets_wait_for_what_the_pod_behind_them_says() {
    const OTHER: NetnsId = NetnsId(300);
    const ITS_PROXY: CgroupId = CgroupId(31);
    for refuses in [true, false] {
        let mut node = Node::running();
        // Rules can be read here; those of the other pod are still to come.
        node.give(live_rules::reading_of(NetnsId(99), &[]));
        let containers = vec![container("istio-proxy", ContainerKind::Main, "c-3")];
        let other = pod("db-1", "uid-3", &["10.9.0.1"], containers);
        node.change(Change::Pod(Box::new(other)));
        node.change(netns(OTHER, &["10.9.0.1"]));
        node.change(cgroup(ITS_PROXY, "uid-3", "c-3", OTHER));
        let mut to_its_app = out(ITS_PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Unknown);
        to_its_app.owner.netns = OTHER;
        let key = out(PROXY, PROXY_UID, TO, Arrival::Unknown);
        for time in 0..4 {
            if refuses && time >= 2 {
                node.edge(to_its_app, refused(1));
            }
            node.signal(reset(key, 40_000));
            node.edge(upstream(), established(1));
            node.pass(0.45);
        }
        node.pass(1.05);
        assert_eq!(node.told().contains(&Code::StuckUpstreamReset), !refuses);
    }
}

#[test]
fn who_ends_and_resets_the_last_of_its_connections_late_refuses() {
    let mut node = Node::running();
    let key = out(PROXY, PROXY_UID, TO, Arrival::Unknown);
    for then in [0.0, 1.2, 0.5] {
        node.signal(reset(key, 40_000));
        node.pass(then);
    }
    for _ in 0..4 {
        node.edge(upstream(), refused(10));
        node.pass(1.0);
    }
    node.pass(5.0);
    assert_eq!(node.told(), [Code::StuckUpstreamRefused]);
}

#[test]
fn resets_that_are_nobodys_fault() {
    let mut node = Node::running();
    let key = out(PROXY, PROXY_UID, TO, Arrival::Unknown);
    for _ in 0..10 {
        // A health check of the listener on 15006, the app's own, and few among many.
        node.signal(reset(key, IN));
        node.signal(reset(
            out(APP, 1000, "10.9.0.2:80", Arrival::Unknown),
            40_000,
        ));
        let few = out(PROXY, PROXY_UID, "10.9.0.3:80", Arrival::Unknown);
        node.signal(reset(few, 40_000));
        node.edge(few, established(20));
        node.pass(0.5);
    }
    node.pass(30.0);
    assert_eq!(node.told(), []);
}

#[test]
fn no_source_port_is_told_at_once() {
    let mut node = Node::running();
    let key = out(PROXY, PROXY_UID, "10.0.0.5:8080", Arrival::Unknown);
    node.signal(failed(key, Outcome::NoAddress, 0, 10));
    let finding = node.only(Code::FailEphemeralPorts);
    assert!(facts(&finding).contains("from: 10.0.0.5"));
    let counts = Counts {
        no_address: 7,
        ..Counts::default()
    };
    node.edge(key, counts);
    assert_eq!(node.only(Code::FailEphemeralPorts).connections, 7);
}

#[test]
fn a_rule_of_the_destination_on_this_node_is_named() {
    const OTHER: NetnsId = NetnsId(300);
    let mut node = live_rules::with(WHOLE);
    let containers = vec![container("db", ContainerKind::Main, "c-db")];
    let other = pod("db-1", "uid-3", &["10.9.0.1"], containers);
    node.change(Change::Pod(Box::new(other)));
    node.change(netns(OTHER, &["10.9.0.1"]));
    node.change(cgroup(CgroupId(31), "uid-3", "c-db", OTHER));
    let Input::Rules(mut rules) = reading(&[]) else {
        unreachable!()
    };
    rules.netns = OTHER;
    let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n";
    let four = sidestep::model::Family::Ipv4;
    parse_save(text, Backend::Nft, four, &mut rules.ruleset);
    node.give(Input::Rules(rules));
    node.signal(stalled(upstream(), 1));
    node.give(live_rules::whole(WHOLE));
    node.pass(1.5);
    node.give(UNTRACKED);
    node.signal(stalled(upstream(), 2));
    assert_eq!(
        node.open(),
        [Code::StuckUpstreamTimeout, Code::FailNetfilterDrop]
    );
    let findings = node.findings();
    assert!(
        facts(&findings[0]).contains("INPUT: policy drop of shop/db-1"),
        "{findings:?}"
    );
    let server = &findings[1];
    assert_eq!(server.pod.as_ref().map(|p| p.name.as_str()), Some("db-1"));
    assert!(
        facts(server).contains("peer: 10.0.0.5:80"),
        "{}",
        facts(server)
    );
}
