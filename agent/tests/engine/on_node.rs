//! Packets that rules of the node drop on their way, each beside its healthy twin.

use std::net::IpAddr;

use sidestep::{
    engine::{Code, Confidence, Input, Inquiry},
    model::{Arrival, Counts, EdgeKey, Family, Leaves, NetnsId, Passage, Signal, Through},
    rules::{Backend, parse_save},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE},
};

pub(crate) const TO: &str = "10.9.0.1:80";
pub(crate) const NODE: NetnsId = NetnsId(999);

pub(crate) fn upstream() -> EdgeKey {
    out(PROXY, PROXY_UID, TO, Arrival::Nowhere)
}

fn stalled(retransmits: u8) -> Signal {
    Signal::Stalled {
        key: upstream(),
        retransmits,
        process: process("envoy"),
    }
}

pub(crate) fn passage(leaves: Leaves) -> Input {
    Input::Passage(Passage {
        netns: MESHED,
        to: ip("10.9.0.1"),
        through: Some(Through {
            node: NODE,
            came_in: "cali1".to_owned(),
            leaves,
        }),
    })
}

pub(crate) fn by(name: &str) -> Leaves {
    Leaves::By(name.to_owned())
}

/// The node's rules, in one back end.
fn rules(backend: Backend, text: &str) -> Input {
    let Input::Rules(mut reading) = live_rules::reading(&[]) else {
        unreachable!()
    };
    reading.netns = NODE;
    parse_save(text, backend, Family::Ipv4, &mut reading.ruleset);
    assert_eq!(reading.ruleset.problems, []);
    Input::Rules(reading)
}

pub(crate) fn filter(text: &str) -> Input {
    rules(Backend::Nft, &format!("*filter\n{text}\nCOMMIT\n"))
}

const POLICY: &str =
    ":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";

/// A meshed pod whose proxy is not answered, and whose own rules let its SYNs out.
fn silent() -> Node {
    let mut node = live_rules::with(WHOLE);
    node.change(netns(NODE, &["10.0.0.254"]));
    node.signal(stalled(1));
    assert_eq!(
        wanted(&mut node),
        [(MESHED, ip("10.0.0.5"), ip("10.9.0.1"))]
    );
    node.give(live_rules::whole(WHOLE));
    node
}

pub(crate) fn wanted(node: &mut Node) -> Vec<(NetnsId, IpAddr, IpAddr)> {
    let all = std::iter::from_fn(|| node.engine.next_inquiry());
    all.filter_map(|inquiry| match inquiry {
        Inquiry::Passage(ends) => Some((ends.netns, ends.from, ends.to)),
        _ => None,
    })
    .collect()
}

pub(crate) fn rules_wanted(node: &mut Node) -> Vec<NetnsId> {
    std::iter::from_fn(|| node.engine.next_wanted_rules()).collect()
}

#[test]
fn the_policy_of_the_node_is_the_root_and_the_only_finding() {
    for backend in [Backend::Legacy, Backend::Nft] {
        let mut node = silent();
        rules_wanted(&mut node);
        node.give(passage(by("eth0")));
        assert_eq!(
            rules_wanted(&mut node),
            [NODE],
            "read when suspected, not before"
        );
        node.give(rules(backend, &format!("*filter\n{POLICY}\nCOMMIT\n")));
        node.signal(stalled(2));
        let finding = node.only(Code::FailNetfilterDrop);
        assert_eq!(finding.confidence, Confidence::Certain);
        let text = facts(&finding);
        for says in [
            "place: node",
            "hook: forward, table filter, chain FORWARD, ipv4",
            TO,
        ] {
            assert!(text.contains(says), "{text}");
        }
        assert!(
            finding.summary.contains("on the node"),
            "{}",
            finding.summary
        );
        assert_eq!(finding.pod.map(|pod| pod.name), Some("web-1".to_owned()));
        // It answers: over at once.
        node.edge(upstream(), established(1));
        assert_eq!(node.open(), []);
        assert_eq!(node.told(), [Code::FailNetfilterDrop]);
    }
}

#[test]
fn it_is_over_when_the_rules_let_the_packets_pass() {
    let mut node = silent();
    node.give(passage(by("eth0")));
    node.give(filter(POLICY));
    node.only(Code::FailNetfilterDrop);
    let timed_out = Counts {
        timed_out: 3,
        ..Counts::default()
    };
    node.edge(upstream(), timed_out);
    assert_eq!(node.only(Code::FailNetfilterDrop).connections, 3);
    node.give(filter(&format!("{POLICY}\n-A FORWARD -i cali+ -j ACCEPT")));
    assert_eq!(node.open(), []);
}

#[test]
fn rules_for_others_and_rules_that_nobody_can_know_are_not_blamed() {
    for (text, leaves) in [
        // For this pod, there is an exception.
        (
            format!("{POLICY}\n-A FORWARD -s 10.0.0.5/32 -j ACCEPT"),
            by("eth0"),
        ),
        // Another pod's.
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -i cali2 -j DROP".to_owned(),
            by("eth0"),
        ),
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.0.0.6/32 -j DROP".to_owned(),
            by("eth0"),
        ),
        // What is new is not established, and not the answer.
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j DROP"
                .to_owned(),
            by("eth0"),
        ),
        // A set, a rate, an interface that the routes do not tell.
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad dst -j DROP".to_owned(),
            by("eth0"),
        ),
        (
            ":FORWARD ACCEPT [0:0]\n-A FORWARD -o eth1 -j DROP".to_owned(),
            Leaves::NotKnown,
        ),
        // It is for the node itself, and not forwarded.
        (POLICY.to_owned(), Leaves::Here),
        // Elsewhere: to one of several, of which nobody knows which.
        (
            format!("{POLICY}\n-A FORWARD -d 10.9.0.1/32 -j ACCEPT"),
            by("eth0"),
        ),
    ] {
        let mut node = silent();
        node.give(passage(leaves));
        node.give(filter(&text));
        node.signal(stalled(2));
        node.pass(4.0);
        assert_eq!(node.told(), [Code::StuckUpstreamTimeout], "{text}");
    }
}

#[test]
fn what_is_for_the_node_itself_meets_its_input() {
    let mut node = silent();
    node.give(passage(Leaves::Here));
    node.give(filter(":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT"));
    let finding = node.only(Code::FailNetfilterDrop);
    assert!(facts(&finding).contains("hook: input"), "{finding:?}");
}

#[test]
fn packets_that_are_translated_first_are_followed_to_where_they_go() {
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.9.0.1/32 -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.1.1.1:8080\n-A PREROUTING -d 10.9.0.1/32 -p tcp -j DNAT --to-destination 10.1.1.2:8080\nCOMMIT\n";
    for (one, expected) in [
        // Both are dropped: whichever it was.
        ("-A FORWARD -d 10.1.1.0/24 -j DROP", Code::FailNetfilterDrop),
        (
            "-A FORWARD -d 10.1.1.1/32 -j DROP",
            Code::StuckUpstreamTimeout,
        ),
    ] {
        let mut node = silent();
        node.give(passage(by("eth0")));
        node.give(rules(
            Backend::Nft,
            &format!("{nat}*filter\n:FORWARD ACCEPT [0:0]\n{one}\nCOMMIT\n"),
        ));
        node.signal(stalled(2));
        node.pass(4.0);
        assert_eq!(node.told(), [expected], "{one}");
    }
}

#[test]
fn who_passes_nobody_waits_for_nothing() {
    let mut node = silent();
    rules_wanted(&mut node);
    node.give(Input::Passage(Passage {
        netns: MESHED,
        to: ip("10.9.0.1"),
        through: None,
    }));
    node.give(crate::lost::UNTRACKED);
    node.signal(stalled(2));
    assert_eq!(rules_wanted(&mut node), []);
    assert_eq!(node.open(), [Code::StuckUpstreamTimeout]);
}

#[test]
fn a_pod_that_is_answered_never_has_the_node_read() {
    let mut node = live_rules::with(WHOLE);
    node.edge(upstream(), established(50));
    node.pass(30.0);
    assert_eq!(wanted(&mut node), []);
}

#[test]
fn ten_thousand_rules_of_services_are_followed_to_the_policy() {
    use std::fmt::Write as _;
    let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n".to_owned();
    for n in 0..5_000 {
        writeln!(text, ":KUBE-SVC-{n} - [0:0]").unwrap();
    }
    text.push_str("-A PREROUTING -j KUBE-SERVICES\n");
    for n in 0..5_000 {
        let (a, b) = (n / 250, n % 250 + 1);
        writeln!(text, "-A KUBE-SERVICES -d 10.96.{a}.{b}/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-{n}\n-A KUBE-SVC-{n} -p tcp -j DNAT --to-destination 10.244.{a}.{b}:8443").unwrap();
    }
    text.push_str("COMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
    let mut node = silent();
    node.give(passage(by("eth0")));
    let began = std::time::Instant::now();
    let read = rules(Backend::Nft, &text);
    let parsed = began.elapsed();
    node.give(read);
    println!(
        "{} bytes: parsed in {parsed:?}, followed in {:?}",
        text.len(),
        began.elapsed() - parsed
    );
    node.only(Code::FailNetfilterDrop);
}
