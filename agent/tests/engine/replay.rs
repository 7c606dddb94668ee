//! Replay goldens: recordings and the findings they must give, for ever.
//!
//! `agent/tests/recordings/NAME.jsonl` is a recording as `sidestep agent --record` writes it,
//! `NAME.findings.json` what its replay must tell and leave on the board. A user's recording
//! becomes a test by being put there. `SIDESTEP_BLESS=1` writes the expectations anew (look at
//! the difference!) and the stories of this file where their recording is missing.

use std::{fs, path::PathBuf};

use sidestep::{
    engine::{Change, Engine, Finding, Input, Output, record},
    model::{Arrival, Signal},
};

use crate::kit::*;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Expected {
    /// What was told, in order: `opened CODE` or `resolved CODE`.
    told: Vec<String>,
    /// What is on the board at the end.
    findings: Vec<Finding>,
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

fn bless() -> bool {
    std::env::var_os("SIDESTEP_BLESS").is_some()
}

fn replay(text: &str) -> Expected {
    let (header, entries) = record::read(text).unwrap();
    let mut engine = Engine::new(header.config, profiles(), header.started);
    let mut told = Vec::new();
    for entry in entries {
        engine.input(entry.at, entry.input);
        while let Some(output) = engine.next_output() {
            told.push(match output {
                Output::Opened(f) => format!("opened {}", f.code.as_str()),
                Output::Resolved(f) => format!("resolved {}", f.code.as_str()),
            });
        }
    }
    let findings = engine.board().findings.clone();
    Expected { told, findings }
}

#[test]
fn recordings_give_what_they_gave() {
    if bless() {
        write_stories();
    }
    let mut names: Vec<PathBuf> = fs::read_dir(dir())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    names.sort();
    assert!(names.len() >= 4, "recordings are missing: {names:?}");
    for path in names {
        let got = replay(&fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("findings.json");
        if bless() {
            let text = serde_json::to_string_pretty(&got).unwrap();
            fs::write(&expected, text + "\n").unwrap();
        }
        let wanted: Expected =
            serde_json::from_str(&fs::read_to_string(&expected).unwrap()).unwrap();
        assert_eq!(got, wanted, "{}", path.display());
    }
}

#[test]
fn a_recording_of_another_format_is_refused() {
    let text = "{\"sidestep_recording\":2,\"agent\":\"9.0.0\",\"started\":0,\"config\":{}}\n";
    let error = record::read(text).unwrap_err().to_string();
    assert!(error.contains("9.0.0"), "{error}");
}

type Story = fn() -> Node;

fn write_stories() {
    let stories: [(&str, Story); 4] = [
        ("healthy", healthy),
        ("rules-come-late", rules_come_late),
        ("proxy-killed", proxy_killed),
        ("no-rules-at-all", no_rules_at_all),
    ];
    for (name, story) in stories {
        let path = dir().join(name).with_extension("jsonl");
        if path.exists() {
            continue;
        }
        let header = record::Header::new(sidestep::engine::Config::default(), START);
        let mut text = record::write_header(&header).unwrap();
        for (at, input) in story().inputs {
            text += &record::write_input(at, &input).unwrap();
        }
        fs::write(path, text).unwrap();
    }
}

/// Captured both ways, a probe to a mesh port, a peer that refuses once, then the pod goes.
fn healthy() -> Node {
    let mut node = Node::running();
    node.signal(Signal::FirstSeen {
        key: out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        process: process("curl"),
    });
    let deltas = [
        delta(
            out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
            established(3),
        ),
        delta(
            out(PROXY, PROXY_UID, "10.9.0.1:80", Arrival::Nowhere),
            established(3),
        ),
        delta(
            out(PROXY, PROXY_UID, "127.0.0.1:8080", Arrival::Port(8080)),
            established(2),
        ),
        delta(into(PROXY, PROXY_UID, IN, "10.9.0.7"), established(2)),
        delta(into(PROXY, PROXY_UID, 15021, "10.0.0.1"), established(1)),
        delta(into(APP, 1000, 8080, "127.0.0.6"), established(2)),
    ];
    node.keep(3, &deltas);
    node.edge(
        out(PROXY, PROXY_UID, "10.9.0.2:81", Arrival::Nowhere),
        refused(1),
    );
    node.change(Change::PodGone(meshed().key));
    node.pass(2.0);
    node
}

/// Connections before the pod is known, no rules, then they are repaired.
fn rules_come_late() -> Node {
    let mut node = Node::empty();
    node.give(Input::Coverage(coverage(&[])));
    let direct = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
        established(1),
    );
    node.keep(1, std::slice::from_ref(&direct));
    node.announce();
    node.keep(4, &[direct]);
    let captured = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(1),
    );
    node.keep(2, &[captured]);
    node
}

/// The proxy dies: its listeners end, connections are refused by the pod itself.
fn proxy_killed() -> Node {
    let mut node = Node::running();
    let captured = delta(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(2),
    );
    node.keep(2, &[captured]);
    for address in ["0.0.0.0:15001", "[::]:15001"] {
        node.signal(Signal::ListeningEnded {
            netns: MESHED,
            listener: queue(address, 0).listener,
        });
    }
    let key = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.signal(Signal::Failed {
        key,
        outcome: sidestep::model::Outcome::Refused,
        errno: 111,
        refused_at: Some(OUT),
        process: process("curl"),
        after_us: 40,
        retransmits: 0,
    });
    node.keep(3, &[delta(key, refused(2))]);
    node
}

/// Neither direction is captured, both families: one cause, one finding.
fn no_rules_at_all() -> Node {
    let mut node = Node::running();
    let deltas = [
        delta(into(APP, 1000, 8080, "10.9.0.7"), established(1)),
        delta(
            out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere),
            established(1),
        ),
        delta(
            out(APP, 1000, "[fd00::9]:80", Arrival::Nowhere),
            established(1),
        ),
    ];
    node.keep(3, &deltas);
    node
}
