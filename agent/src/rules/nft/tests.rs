//! Reading of nft's JSON.

use super::*;
use crate::{
    model::Family,
    rules::{Connection, Outcome, Protocol, Redirection, evaluate, parse_save},
};

fn read(json: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    parse_nft(json, &mut rules).unwrap();
    rules
}

/// The only rule of a table `t` in a chain `c`.
fn rule(expressions: &str) -> Rule {
    let json = format!(
        r#"{{"nftables":[{{"table":{{"family":"inet","name":"t"}}}},
        {{"chain":{{"family":"inet","table":"t","name":"c"}}}},
        {{"rule":{{"family":"inet","table":"t","chain":"c","expr":[{expressions}]}}}}]}}"#
    );
    read(&json)
        .tables
        .remove(0)
        .chains
        .remove(0)
        .rules
        .remove(0)
}

#[test]
fn what_is_not_a_rule_set_is_an_error_that_says_what_to_give() {
    for text in ["", "nonsense", "[]", "{}", r#"{"nftables": 3}"#] {
        let error = parse_nft(text, &mut Ruleset::default()).unwrap_err();
        assert!(error.to_string().contains("nft -j list ruleset"), "{error}");
    }
    assert!(
        read(r#"{"nftables": [3, null, {"table": 1}, {"rule": {}}, {"chain": {"family": "ip"}}]}"#)
            .is_empty()
    );
}

#[test]
fn rules_are_told_as_a_person_would_write_them() {
    let text = |folder: &str| {
        let mut lines = Vec::new();
        for table in read(folder).tables {
            for chain in table.chains {
                lines.extend(chain.rules.into_iter().map(|rule| rule.text));
            }
        }
        lines
    };
    let native = text(include_str!("../../../tests/rules/istio-native/nft.json"));
    assert!(native.contains(
        &"oifname lo ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect"
            .to_owned()
    ), "{native:#?}");
    let strange = text(include_str!(
        "../../../tests/rules/native-strangers/nft.json"
    ));
    for line in [
        "tcp dport { 3001-3010 } redirect to :4001-4009",
        "ip daddr @nets tcp dport @ports redirect to :15001",
        "ip daddr . tcp dport @pairs dnat to 10.1.1.1:99",
        "ct state new,untracked meta skuid 0-99 accept",
        "ip saddr 10.0.0.0/8 snat to 1.2.3.4",
        "meta mark set meta mark | 16384",
    ] {
        assert!(strange.contains(&line.to_owned()), "{line}\n{strange:#?}");
    }
}

#[test]
fn counters_come_along() {
    let rule = rule(r#"{"counter":{"packets":7,"bytes":1}},{"accept":null}"#);
    assert_eq!(rule.packets, Some(7));
}

#[test]
fn what_is_not_understood_is_unknown_and_not_left_out() {
    for action in [
        r#"{"queue":{"num":3}}"#,
        r#"{"xt":{"type":"target","name":"REDIRECT"}}"#,
        r#"{"what":1}"#,
        r#"{"redirect":{"port":{"map":{}}}}"#,
        r#"{"mangle":{"key":{"payload":{"protocol":"ip","field":"daddr"}},"value":"1.2.3.4"}}"#,
        "3",
    ] {
        let rule = rule(action);
        assert!(
            matches!(rule.actions().last(), Some(Action::Unknown(_))),
            "{rule:?}"
        );
    }
    for condition in [
        r#"{"xt":{"type":"match","name":"owner"}}"#,
        r#"{"limit":{"rate":5,"per":"second"}}"#,
        r#"{"match":{"op":"==","left":{"socket":{"key":"transparent"}},"right":1}}"#,
        r#"{"match":{"op":"==","left":{"meta":{"key":"skuid"}},"right":"java"}}"#,
        r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":"@gone"}}"#,
    ] {
        let rule = rule(condition);
        let last = rule.matches().last();
        let is_unknown =
            last.is_some_and(|last| matches!(last.test, crate::rules::Test::Unknown(_)));
        assert!(is_unknown, "{rule:?}");
    }
}

#[test]
fn a_table_of_iptables_is_read_once_whichever_comes_first() {
    let json = include_str!("../../../tests/rules/linkerd/nft.json");
    let save = include_str!("../../../tests/rules/linkerd/nft4.save");
    let mut save_first = Ruleset::default();
    parse_save(save, Backend::Nft, Family::Ipv4, &mut save_first);
    parse_nft(json, &mut save_first).unwrap();
    let mut json_first = read(json);
    parse_save(save, Backend::Nft, Family::Ipv4, &mut json_first);
    let names = |rules: &Ruleset| -> Vec<(Backend, TableFamily)> {
        let mut all: Vec<_> = (rules.tables.iter())
            .map(|table| (table.backend, table.family))
            .collect();
        all.sort_unstable();
        all
    };
    // The save of IPv6 was not read: what nft shows of it stays.
    let expected = [
        (Backend::Nft, TableFamily::Ipv4),
        (Backend::Native, TableFamily::Ipv6),
    ];
    assert_eq!(names(&save_first), expected);
    assert_eq!(names(&json_first), expected);
}

#[test]
fn what_nobody_takes_goes_on_to_the_next_rule() {
    let rules = read(include_str!(
        "../../../tests/rules/istio-native-tproxy/nft.json"
    ));
    let (from, to) = ("10.7.0.7:0", "10.1.0.5:8080");
    let own = vec!["10.1.0.5".parse().unwrap()];
    let made = |listeners: Option<&[&str]>| {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let mut made = Connection::inbound(Protocol::Tcp, from, to, Some(own.clone()));
        made.listeners = listeners.map(|all| all.iter().map(|at| at.parse().unwrap()).collect());
        evaluate(&rules, &made).outcome
    };
    let given = Outcome::Redirected {
        by: Redirection::Tproxy,
        address: None,
        port: 15006,
    };
    assert_eq!(made(None), given, "who listens is not known");
    assert_eq!(made(Some(&["0.0.0.0:15006", "0.0.0.0:8080"])), given);
    let nobody: [&[&str]; 2] = [&["0.0.0.0:8080"], &["[::]:15006"]];
    for listeners in nobody {
        assert_eq!(made(Some(listeners)), Outcome::Direct, "{listeners:?}");
    }
}
