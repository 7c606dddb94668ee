//! Bypasses with the live rules beside them: the rules name the cause, and old rules name who took them.

use sidestep::{
    engine::{Code, Confidence, Input, RulesRead, RulesReading, RulesSource},
    model::{Arrival, Direction, Family, NetnsId},
    rules::{Backend, Ruleset, parse_save},
};

use crate::kit::{APP, MESHED, Node, OUT, PROXY_UID, established, facts, into, out, refused};
use crate::stuck::failed;

pub(crate) const WHOLE: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

pub(crate) fn without(line: &str) -> String {
    assert!(WHOLE.contains(line), "{line}");
    WHOLE.replace(&format!("{line}\n"), "")
}

pub(crate) fn reading(texts: &[(Backend, Family, &str)]) -> Input {
    reading_of(MESHED, texts)
}

pub(crate) fn reading_of(netns: NetnsId, texts: &[(Backend, Family, &str)]) -> Input {
    let mut ruleset = Ruleset::default();
    for (backend, family, text) in texts {
        parse_save(text, *backend, *family, &mut ruleset);
    }
    assert!(ruleset.problems.is_empty(), "{:?}", ruleset.problems);
    let read = |source| (source, RulesRead::Complete);
    Input::Rules(Box::new(RulesReading {
        netns,
        sources: RulesSource::RULES.map(read).to_vec(),
        ruleset,
        took_us: 1,
        lasted_us: 0,
    }))
}

pub(crate) fn legacy(text: &str) -> Input {
    reading(&[(Backend::Legacy, Family::Ipv4, text)])
}

/// These rules, both families.
pub(crate) fn whole(text: &str) -> Input {
    let four_only = |line: &&str| !line.contains("10.96.0.10/32");
    let six: Vec<&str> = text.lines().filter(four_only).collect();
    let six = six.join("\n").replace("127.0.0.1/32", "::1/128");
    reading(&[
        (Backend::Legacy, Family::Ipv4, text),
        (Backend::Legacy, Family::Ipv6, &six),
    ])
}

/// A node whose meshed pod has these rules, both families.
pub(crate) fn with(text: &str) -> Node {
    let mut node = Node::running();
    node.give(whole(text));
    node
}

pub(crate) fn dial(node: &mut Node, uid: u32) {
    node.edge(
        out(APP, uid, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
}

#[test]
fn no_rules_says_what_there_is() {
    let mut node = with("*nat\nCOMMIT\n");
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassNoRules);
    assert_eq!(finding.confidence, Confidence::Certain);
    let facts = facts(&finding);
    assert!(facts.contains("rules_seen: none"), "{facts}");
    assert!(facts.contains("live rules"), "{facts}");
}

#[test]
fn a_missing_jump_is_shown_with_what_it_strands() {
    let mut node = with(&without("-A OUTPUT -j ISTIO_OUTPUT"));
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassRulesPartial);
    let facts = facts(&finding);
    assert!(facts.contains("ISTIO_OUTPUT"), "{facts}");
    assert!(facts.contains("REDIRECT --to-ports 15001"), "{facts}");
    assert!(
        finding.summary.contains("nothing leads"),
        "{}",
        finding.summary
    );
}

#[test]
fn a_missing_prerouting_jump_is_told_at_once() {
    let mut node = with(&without("-A PREROUTING -p tcp -j ISTIO_INBOUND"));
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    let finding = node.only(Code::BypassInboundDirect);
    assert!(
        facts(&finding).contains("ISTIO_INBOUND"),
        "{}",
        facts(&finding)
    );
}

#[test]
fn inbound_without_any_rules_is_no_rules_at_once() {
    let mut node = with("*nat\nCOMMIT\n");
    node.edge(into(APP, 1000, 8080, "10.9.0.7"), established(3));
    assert_eq!(
        node.only(Code::BypassNoRules).direction,
        Some(Direction::Inbound)
    );
}

#[test]
fn the_rule_that_returned_is_quoted() {
    let mut node = with(WHOLE);
    dial(&mut node, PROXY_UID);
    let finding = node.only(Code::BypassProxyUid);
    let facts = facts(&finding);
    assert!(
        facts.contains("ISTIO_OUTPUT rule 1: ") && facts.contains("--uid-owner 1337"),
        "{facts}"
    );
}

#[test]
fn a_rule_nobody_asked_for_is_named() {
    let odd =
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j RETURN\n-A ISTIO_OUTPUT -j ISTIO_REDIRECT";
    let mut node = with(&WHOLE.replace("-A ISTIO_OUTPUT -j ISTIO_REDIRECT", odd));
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassRulesPartial);
    assert!(
        facts(&finding).contains("--dport 80 -j RETURN"),
        "{}",
        facts(&finding)
    );
    assert!(
        finding.summary.contains("does not ask for"),
        "{}",
        finding.summary
    );
}

#[test]
fn a_redirect_to_somebody_else() {
    let mut node = with(&WHOLE.replace("--to-ports 15001", "--to-ports 9999"));
    node.listeners(&[
        "0.0.0.0:15001",
        "0.0.0.0:15006",
        "0.0.0.0:8080",
        "0.0.0.0:9999",
    ]);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(9999)),
        established(3),
    );
    let finding = node.only(Code::BypassRulesPartial);
    assert!(finding.summary.contains("9999"), "{}", finding.summary);
}

#[test]
fn a_wrong_port_where_nobody_listens_is_the_rules_fault() {
    let mut node = with(&WHOLE.replace("--to-ports 15001", "--to-ports 15091"));
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Decided(15091)),
        refused(3),
    );
    node.pass(5.0);
    let finding = node.only(Code::BypassRulesPartial);
    assert!(finding.summary.contains("15091"), "{}", finding.summary);
    // The right port without a listener stays what it is.
    let mut node = with(WHOLE);
    node.listeners(&["0.0.0.0:15006", "0.0.0.0:8080"]);
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT)),
        refused(3),
    );
    node.pass(5.0);
    node.only(Code::StuckNoListener);
}

#[test]
fn a_wrong_port_is_the_rules_fault_though_they_come_later() {
    let mut node = Node::running();
    // Rules can be read here, but this pod's have not been yet.
    node.give(reading_of(NetnsId(77), &[]));
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(15091));
    node.signal(failed(key, Some(15091)));
    node.edge(key, refused(3));
    node.pass(1.0);
    assert!(node.open().is_empty());
    node.give(whole(
        &WHOLE.replace("--to-ports 15001", "--to-ports 15091"),
    ));
    node.pass(5.0);
    let finding = node.only(Code::BypassRulesPartial);
    assert!(finding.summary.contains("15091"), "{}", finding.summary);
}

#[test]
fn ipv6_without_rules_needs_no_other_traffic() {
    let mut node = Node::running();
    node.give(legacy(WHOLE));
    node.edge(
        out(APP, 1000, "[fd00::9]:80", Arrival::Nowhere),
        established(1),
    );
    node.only(Code::BypassIpv6);
}

#[test]
fn half_a_rule_set_in_each_backend() {
    let mut node = Node::running();
    let half = without("-A OUTPUT -j ISTIO_OUTPUT");
    let other = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15001\nCOMMIT\n";
    node.give(reading(&[
        (Backend::Legacy, Family::Ipv4, half.as_str()),
        (Backend::Nft, Family::Ipv4, other),
    ]));
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassRulesBackend);
    let facts = facts(&finding);
    assert!(
        facts.contains("legacy: ") && facts.contains("nft: "),
        "{facts}"
    );
}

#[test]
fn rules_that_could_not_be_read_explain_nothing() {
    let mut node = Node::running();
    let Input::Rules(mut unread) = reading(&[]) else {
        unreachable!("made above");
    };
    unread.sources[0].1 = RulesRead::Denied;
    node.give(Input::Rules(unread));
    dial(&mut node, 1000);
    let finding = node.only(Code::BypassNoRules);
    assert!(
        !facts(&finding).contains("live rules"),
        "{}",
        facts(&finding)
    );
}
