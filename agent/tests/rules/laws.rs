//! Laws of reading and evaluating rules: nothing panics, nothing runs away, nothing is more certain than what was read.

use proptest::prelude::*;
use serde_json::{Value, json};
use sidestep::{
    model::{Direction, Family},
    rules::{Backend, Outcome, Ruleset, evaluate, parse_nft, parse_save},
};

use super::inputs::{ask, connections};

const SAVES: [&str; 4] = [
    include_str!("strangers/legacy4.save"),
    include_str!("istio-tproxy/legacy4.save"),
    include_str!("kuma-dns/nft4.save"),
    include_str!("istio-ambient/nft6.save"),
];
const NATIVE: [&str; 3] = [
    include_str!("native-strangers/nft.json"),
    include_str!("istio-native-tproxy/nft.json"),
    include_str!("linkerd/nft.json"),
];
/// Words that mean something in rules, to put where others were.
const WORDS: [&str; 32] = [
    "!",
    "-j",
    "-g",
    "-m",
    "-p",
    "tcp",
    "udp",
    "-s",
    "-d",
    "-o",
    "-i",
    "lo",
    "RETURN",
    "DROP",
    "REDIRECT",
    "--to-ports",
    "0",
    "65536",
    "1337",
    "0x539/0xfff",
    "10.0.0.0/33",
    "::/0",
    "--uid-owner",
    "--gid-owner",
    "owner",
    "ISTIO_OUTPUT",
    "OUTPUT",
    "DOCKER",
    "--ctstate",
    "NEW",
    "\"",
    "-A",
];

fn read(text: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    parse_save(text, Backend::Legacy, Family::Ipv4, &mut rules);
    rules
}

/// Puts a value somewhere into a tree.
fn put(tree: &mut Value, path: &[prop::sample::Index], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *tree = value;
        return;
    };
    match tree {
        Value::Array(all) if !all.is_empty() => {
            let at = first.index(all.len());
            put(&mut all[at], rest, value);
        }
        Value::Object(all) if !all.is_empty() => {
            let name = all.keys().nth(first.index(all.len())).unwrap().clone();
            put(&mut all[&name], rest, value);
        }
        other => *other = value,
    }
}

fn some_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[a-z@*. ]{0,8}".prop_map(Value::from),
        Just(json!({"accept": null})),
        Just(json!({"jump": {"target": "out"}})),
        Just(json!({"goto": {"target": "sub"}})),
        Just(json!({"range": [9, 1]})),
        Just(json!({"prefix": {"addr": "10.0.0.0", "len": 999}})),
        Just(json!({"set": []})),
        Just(json!({"concat": []})),
        Just(json!("@ports")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            (
                "[a-z]{1,6}|match|vmap|meta|ct|payload|expr|elem|map|dnat|mangle|&",
                inner
            )
                .prop_map(|(name, value)| json!({ name: value })),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_is_read(text in any::<String>(), json in any::<String>()) {
        ask(&read(&text));
        let _ = parse_nft(&json, &mut Ruleset::default());
    }

    #[test]
    fn any_lines_of_words_are_read(lines in prop::collection::vec(prop::collection::vec(prop::sample::select(&WORDS[..]), 0..9), 0..30)) {
        let lines: Vec<String> = lines.iter().map(|words| format!("-A OUTPUT {}", words.join(" "))).collect();
        ask(&read(&format!("*nat\n{}\n", lines.join("\n"))));
    }

    #[test]
    fn rules_that_were_changed_a_little_are_read(
        which in 0..SAVES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&WORDS[..])), 1..8),
    ) {
        let mut words: Vec<&str> = SAVES[which].split(' ').collect();
        for (at, word) in changes {
            let at = at.index(words.len());
            words[at] = word;
        }
        ask(&read(&words.join(" ")));
    }

    #[test]
    fn native_rules_that_were_changed_a_little_are_read(
        which in 0..NATIVE.len(),
        changes in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 1..10), some_json()), 1..6),
    ) {
        let mut tree: Value = serde_json::from_str(NATIVE[which]).unwrap();
        for (path, value) in changes {
            put(&mut tree, &path, value);
        }
        let mut rules = Ruleset::default();
        if parse_nft(&tree.to_string(), &mut rules).is_ok() {
            ask(&rules);
        }
    }

    /// What is certain while something is not known stays so whatever it turns out to be.
    #[test]
    fn what_is_certain_does_not_depend_on_what_is_not_known(
        which in 0..SAVES.len(), uid in 0u32..1400, gid in 0u32..1400, mark in 0u32..0x600, port in any::<u16>(),
    ) {
        let rules = read(SAVES[which]);
        let mut vague = connections().remove(0);
        vague.destination.set_port(port);
        (vague.uid, vague.gid, vague.mark) = (None, None, None);
        let before = evaluate(&rules, &vague).outcome;
        let mut exact = vague.clone();
        (exact.uid, exact.gid, exact.mark) = (Some(uid), Some(gid), Some(mark));
        let after = evaluate(&rules, &exact).outcome;
        prop_assert!(before == Outcome::Unknown || before == after, "{before} then {after}");
    }
}

#[test]
fn a_chain_that_leads_to_itself_ends() {
    let rules = read("*nat\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\n-A B -g B\n");
    for connection in connections() {
        let outbound =
            connection.destination.is_ipv4() && connection.direction == Direction::Outbound;
        let outcome = evaluate(&rules, &connection).outcome;
        assert_eq!(outcome == Outcome::Unknown, outbound, "{connection:?}");
    }
    let rules = read("*nat\n-A OUTPUT -g A\n-A A -g A\n");
    assert_eq!(
        evaluate(&rules, &connections()[0]).outcome,
        Outcome::Unknown
    );
}

#[test]
fn more_doubts_than_ways_is_unknown() {
    let doubt = |at: usize| {
        format!("-A OUTPUT -m statistic --mode random --probability 0.5 -j MARK --or-mark {at}\n")
    };
    let few = format!("*mangle\n{}COMMIT\n", doubt(1).repeat(3));
    assert_eq!(
        evaluate(&read(&few), &connections()[0]).outcome,
        Outcome::Direct
    );
    let many = format!("*mangle\n{}COMMIT\n", doubt(1).repeat(30));
    let path = evaluate(&read(&many), &connections()[0]);
    assert_eq!(path.outcome, Outcome::Unknown);
}

/// Legacy and nft tables run side by side, and no tool tells which of two equal priorities is first.
#[test]
fn tables_of_equal_priority_must_agree_to_be_certain() {
    let two = |legacy: u16, nft: u16| {
        let text = |port: u16| format!("*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports {port}\n");
        let mut rules = read(&text(legacy));
        parse_save(&text(nft), Backend::Nft, Family::Ipv4, &mut rules);
        evaluate(&rules, &connections()[0])
    };
    assert_eq!(two(15001, 15001).redirected_to(), Some(15001));
    let differ = two(15001, 15006);
    assert_eq!(
        (differ.outcome, differ.decided_by),
        (Outcome::Unknown, None)
    );
    assert!(differ.because[0].contains("same priority"));
}

/// A redirected connection still has to pass the filters, at its new place.
#[test]
fn a_redirected_connection_can_be_dropped_on_its_way_in() {
    let mut text =
        "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n*filter\n".to_owned();
    text += "-A INPUT -i lo -p tcp --dport 15001 -j DROP\n-A OUTPUT -p tcp --dport 80 -j REJECT\nCOMMIT\n";
    let path = evaluate(&read(&text), &connections()[0]);
    assert_eq!(path.outcome, Outcome::Dropped);
    assert_eq!(
        path.decided_by.map(|step| step.chain),
        Some("INPUT".to_owned())
    );
}

/// `cargo test --release --test rules -- --ignored --nocapture how_long`
#[test]
#[ignore = "a measurement"]
fn how_long_an_evaluation_takes() {
    let rules = read(include_str!("istio-redirect/legacy4.save"));
    for connection in connections().iter().take(2) {
        let start = std::time::Instant::now();
        let rounds = 200_000;
        for _ in 0..rounds {
            std::hint::black_box(evaluate(&rules, std::hint::black_box(connection)));
        }
        println!(
            "{:?} each, {}",
            start.elapsed() / rounds,
            evaluate(&rules, connection).outcome
        );
    }
    let text = include_str!("istio-redirect/legacy4.save");
    let start = std::time::Instant::now();
    for _ in 0..2000 {
        std::hint::black_box(read(std::hint::black_box(text)));
    }
    println!("{:?} to read it", start.elapsed() / 2000);
}
