//! What is asked of rules whatever their text is: by the laws, by the fuzzer, and with the fuzzer's corpus by every test run.
//!
//! An input is bytes. Whatever they are, nothing panics, nothing grows past its bounds, and no answer is more certain than
//! what was read.

use sidestep::{
    model::{Direction, Family},
    rules::{
        Backend, Connection, Interface, IpSets, MAX_CHAINS, MAX_PROBLEMS, MAX_RULES, MAX_TABLES,
        MAX_TEXT, Outcome, Protocol, Ruleset, evaluate as path_of, parse_nft, parse_save,
        parse_save_with, redirectors, strays,
    },
};

/// Each save program and family.
const SAVED: [(&str, Backend, Family); 4] = [
    ("legacy4", Backend::Legacy, Family::Ipv4),
    ("legacy6", Backend::Legacy, Family::Ipv6),
    ("nft4", Backend::Nft, Family::Ipv4),
    ("nft6", Backend::Nft, Family::Ipv6),
];

/// The first byte says which program printed the rest.
pub fn save(data: &[u8]) {
    let Some((&which, text)) = data.split_first() else {
        return;
    };
    let (_, backend, family) = SAVED[usize::from(which) % SAVED.len()];
    let text = String::from_utf8_lossy(text);
    let mut rules = Ruleset::default();
    parse_save(&text, backend, family, &mut rules);
    bounded(&rules);
    let once = rules.tables.clone();
    parse_save(&text, backend, family, &mut rules);
    bounded(&rules);
    assert_eq!(once, rules.tables, "reading it again changes something");
}

/// All of it is JSON.
pub fn nft(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut rules = Ruleset::default();
    if parse_nft(&text, &mut rules).is_err() {
        assert_eq!(rules.tables, [], "half of it was read");
    }
    bounded(&rules);
}

/// Lines that begin with `%` say what follows: `%legacy4`, `%nft6`, …, `%json`, or `%ipset` for the sets that rules name.
pub fn evaluate(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parts = text.split("\n%").take(8).map(|part| {
        let (name, part) = part.split_once('\n').unwrap_or((part, ""));
        (name.trim_start_matches('%'), part)
    });
    let parts: Vec<(&str, &str)> = parts.collect();
    let of = |name: &'static str| parts.iter().filter(move |part| part.0 == name);
    let saved = SAVED.iter().flat_map(|(name, ..)| of(name));
    let saved: Vec<&str> = saved.map(|part| part.1).collect();
    let mut sets = IpSets::default();
    for (_, text) in of("ipset") {
        sets = IpSets::read(text, &saved);
    }
    let mut rules = Ruleset::default();
    for (name, part) in &parts {
        if *name == "json" {
            let _ = parse_nft(part, &mut rules);
        }
        for (_, backend, family) in SAVED.iter().filter(|(saved, ..)| saved == name) {
            parse_save_with(part, *backend, *family, &mut sets, &mut rules);
        }
    }
    bounded(&rules);
    ask(&rules);
}

/// Whatever was read is within the bounds that the product states.
fn bounded(rules: &Ruleset) {
    assert!(rules.tables.len() <= MAX_TABLES);
    assert!(rules.problems.len() <= MAX_PROBLEMS);
    for problem in &rules.problems {
        // A quoted line and what is wrong with it, which quotes a part.
        assert!(problem.what.len() <= 3 * MAX_TEXT, "{}", problem.what.len());
    }
    let chains = || rules.tables.iter().flat_map(|table| &table.chains);
    assert!(chains().count() <= MAX_CHAINS);
    let rules = || chains().flat_map(|chain| &chain.rules);
    assert!(rules().count() <= MAX_RULES + MAX_CHAINS);
    for rule in rules() {
        assert!(rule.text.len() <= MAX_TEXT + '…'.len_utf8());
    }
}

/// Connections of every kind: by the application and the proxy, of both families, with and without what may not be known.
pub fn connections() -> Vec<Connection> {
    let local = Some(vec![
        "10.1.0.5".parse().unwrap(),
        "fd11::5".parse().unwrap(),
    ]);
    let out = |source: &str, destination: &str| {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        Connection::outbound(Protocol::Tcp, ends.0, ends.1, local.clone())
    };
    let mut stranger = out("0.0.0.0:0", "10.9.0.9:80");
    stranger.local = None;
    stranger.mark = None;
    stranger.interface = Interface::Unknown;
    let ends = (
        "10.7.0.7:999".parse().unwrap(),
        "10.1.0.5:8080".parse().unwrap(),
    );
    vec![
        out("10.1.0.5:4000", "10.9.0.9:80").owned_by(0, 0),
        out("10.1.0.5:4000", "10.1.0.5:8080").owned_by(1337, 1337),
        out("[fd11::5]:4000", "[fd99::9]:53").owned_by(0, 0),
        stranger,
        Connection::inbound(Protocol::Tcp, ends.0, ends.1, local.clone()),
        Connection::inbound(Protocol::Udp, ends.0, ends.1, None),
    ]
}

/// Everything that is done with a rule set, and what holds for each answer.
pub fn ask(rules: &Ruleset) {
    for connection in connections() {
        let path = path_of(rules, &connection);
        assert_eq!(
            path.because.is_empty(),
            path.outcome != Outcome::Unknown,
            "{path:?}"
        );
        assert!(!path.explain().is_empty());
        let mut because = path.because.iter();
        assert!(because.all(|why| why.len() <= MAX_TEXT + '…'.len_utf8()));
        assert_eq!(path, path_of(rules, &connection));
        for step in path.decided_by.iter().chain(&path.trail) {
            let text = rules.rule_at(step).map(|rule| &rule.text);
            assert_eq!(text.is_some(), step.number.is_some(), "{step}");
            assert!(text.is_none_or(|text| *text == step.text), "{step}");
        }
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        let _ = strays(rules, family);
        for direction in [Direction::Outbound, Direction::Inbound] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for one in redirectors(rules, direction, family, protocol) {
                    assert!(rules.rule_at(&one.step).is_some(), "{}", one.step);
                }
            }
        }
    }
    let text = serde_json::to_string(rules).unwrap();
    assert_eq!(&serde_json::from_str::<Ruleset>(&text).unwrap(), rules);
}
