//! Golden rule sets: what the tools really print for the rules of every mesh, and where connections must go under them.
//!
//! One folder per rule set. `legacy4.save`, `legacy6.save`, `nft4.save`, `nft6.save` and `nft.json` are the tools' output,
//! untouched, and `ipset.save` what is in the sets that they name; `expect.txt` has one connection per line, with the outcome and the rule that must be named for it. Both
//! iptables backends must agree. A new mesh adds a folder, no code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is the test's failure"
)]

mod corpus;
#[expect(unreachable_pub, reason = "the fuzzer's crate has them too")]
#[path = "rules/inputs.rs"]
mod inputs;
#[path = "rules/laws.rs"]
mod laws;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use sidestep::{
    model::Family,
    rules::{
        Backend, Connection, Interface, IpSets, Protocol, Ruleset, evaluate, parse_nft,
        parse_save_with,
    },
};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let mut all: Vec<PathBuf> = (fs::read_dir(root).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// What an agent would have read in a namespace with these rules; `None` if the folder has none of this backend.
fn read(folder: &Path, backend: Backend) -> Option<Ruleset> {
    let mut rules = Ruleset::default();
    let file = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let sets = file("ipset.save").unwrap_or_default();
    let saved = |name: &str, rules: &mut Ruleset| {
        let files = [(Family::Ipv4, 4), (Family::Ipv6, 6)]
            .map(|(family, number)| Some((family, file(&format!("{name}{number}.save"))?)));
        let files: Vec<(Family, String)> = files.into_iter().collect::<Option<_>>()?;
        let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        let mut sets = IpSets::read(&sets, &texts);
        for (family, text) in &files {
            parse_save_with(text, backend, *family, &mut sets, rules);
        }
        Some(())
    };
    match backend {
        Backend::Legacy => saved("legacy", &mut rules)?,
        Backend::Nft => {
            saved("nft", &mut rules)?;
            parse_nft(&file("nft.json")?, &mut rules).unwrap();
        }
        Backend::Native if file("nft4.save").is_some() => return None,
        Backend::Native => parse_nft(&file("nft.json")?, &mut rules).unwrap(),
    }
    assert!(rules.tables.iter().all(|table| table.backend == backend));
    Some(rules)
}

fn address(text: &str) -> SocketAddr {
    let bare = || Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 0));
    (text.parse().ok().or_else(bare)).unwrap_or_else(|| panic!("`{text}` is no address"))
}

fn connection(text: &str) -> Connection {
    let mut words = text.split_whitespace();
    let mut next = || words.next().unwrap();
    let direction = next();
    let protocol = match next() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => panic!("protocol {other}"),
    };
    let (source, destination) = (address(next()), address(next()));
    let local = Some(vec![
        "10.1.0.5".parse().unwrap(),
        "fd11::5".parse().unwrap(),
    ]);
    let mut connection = match direction {
        "out" => Connection::outbound(protocol, source, destination, local),
        "in" => Connection::inbound(protocol, source, destination, local),
        other => panic!("direction {other}"),
    };
    for word in words {
        match (word.split_once('='), word.split_once(':')) {
            (Some(("oif" | "iif", name)), _) => {
                connection.interface = Interface::Named(name.to_owned())
            }
            (Some(("mark", "?")), _) => connection.mark = None,
            (Some(("mark", mark)), _) => {
                let hex = mark
                    .strip_prefix("0x")
                    .map(|hex| u32::from_str_radix(hex, 16));
                connection.mark = Some(hex.unwrap_or_else(|| mark.parse()).unwrap());
            }
            (None, Some((uid, gid))) => {
                (connection.uid, connection.gid) = (uid.parse().ok(), gid.parse().ok())
            }
            _ => panic!("`{word}` is not understood"),
        }
    }
    connection
}

fn check(name: &str, rules: &Ruleset, line: &str) -> Option<String> {
    let (asked, expected) = line
        .split_once(" => ")
        .unwrap_or_else(|| panic!("{name}: {line}"));
    let path = evaluate(rules, &connection(asked));
    let by = (path.decided_by.as_ref()).map_or_else(
        || "-".to_owned(),
        |step| format!("{} {} {}", step.table, step.chain, step.number.unwrap_or(0)),
    );
    let found = format!("{} | {by}", path.outcome);
    (found != expected).then(|| {
        format!(
            "{name}: {asked}\n  expected {expected}\n  found    {found}\n{}",
            path.explain()
        )
    })
}

#[test]
fn every_connection_goes_where_it_must() {
    let mut wrong = Vec::new();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let expected = fs::read_to_string(folder.join("expect.txt")).unwrap();
        let mut worlds = 0;
        for backend in [Backend::Legacy, Backend::Nft, Backend::Native] {
            let Some(rules) = read(&folder, backend) else {
                continue;
            };
            let name = format!("{name} ({})", backend.as_str());
            assert_eq!(rules.problems, [], "{name}");
            worlds += 1;
            let lines = expected
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            wrong.extend(lines.filter_map(|line| check(&name, &rules, line)));
        }
        assert!(worlds > 0, "{name} has no rules");
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Inputs that the fuzzer found to reach something new, and those that broke something once.
#[test]
fn what_was_fuzzed_once_stays_mended() {
    corpus::each("save", inputs::save);
    corpus::each("nft", inputs::nft);
    corpus::each("evaluate", inputs::evaluate);
}
