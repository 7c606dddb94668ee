//! Recordings, whole and broken, through the command.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;
use crate::{
    engine::{Config, Input},
    mesh::Profiles,
    model::{Coverage, SignalCoverage},
};

const START: Time = Time(1_772_330_400_000_000);

/// A node on which a kernel signal is missing: the smallest recording with a finding.
fn recording() -> String {
    let config = Config {
        node: "node-1".into(),
        ..Config::default()
    };
    let coverage = Coverage {
        kernel: "6.12.1".into(),
        signals: vec![SignalCoverage {
            signal: "nat_decision".into(),
            variant: None,
            target: "nf_nat_setup_info".into(),
            without_it: "why a connection to a dead proxy is refused".into(),
            reason: "kprobes are refused here (EPERM)".into(),
            required: false,
            idle: false,
        }],
        limits: vec![],
    };
    let mut text = record::write_header(&record::Header::new(config, START)).unwrap();
    text += &record::write_input(START.plus_secs(1), &Input::Coverage(coverage)).unwrap();
    text += &record::write_input(START.plus_secs(90), &Input::Tick).unwrap();
    text
}

fn run_on(text: &str) -> Result<Replayed, ReplayError> {
    replay(text.as_bytes(), Profiles::embedded().unwrap())
}

#[test]
fn a_recording_shows_when_and_what() {
    let replayed = run_on(&recording()).unwrap();
    assert_eq!(replayed.inputs, 2);
    assert_eq!(replayed.page.head.node, "node-1");
    assert_eq!(replayed.timeline.len(), 1);
    let text = show(
        &replayed,
        Style {
            width: Some(100),
            colour: false,
        },
        Detail::Full,
    );
    assert!(
        text.starts_with("2 inputs over 1m30s, recorded by agent"),
        "{text}"
    );
    assert!(
        text.contains("+1s  opened  warning   agent-degraded  (this agent)"),
        "{text}"
    );
    assert!(text.contains("kprobes are refused here"), "{text}");
}

#[test]
fn json_has_the_timeline_beside_the_page() {
    let value = serde_json::to_value(run_on(&recording()).unwrap()).unwrap();
    assert_eq!(value["timeline"][0]["event"], "opened");
    assert_eq!(value["timeline"][0]["finding"]["code"], "agent-degraded");
    assert_eq!(value["findings"][0]["code"], "agent-degraded");
    assert_eq!(value["node"], "node-1");
}

#[test]
fn a_last_line_cut_off_is_left_out_and_said() {
    let mut text = recording();
    text.truncate(text.len() - 5);
    let replayed = run_on(&text).unwrap();
    assert!(replayed.cut_off);
    assert_eq!(replayed.inputs, 1);
    let style = Style {
        width: None,
        colour: false,
    };
    assert!(show(&replayed, style, Detail::Brief).contains("cut off"));
}

#[test]
fn broken_recordings_are_refused_with_the_line() {
    let whole = recording();
    let cases = [
        (String::new(), "header"),
        ("hello\n".to_owned(), "line 1"),
        (format!("{whole}{{\"at\":1}}\n"), "line 4"),
    ];
    for (text, hint) in cases {
        let error = malformed(Path::new("x.jsonl"), &run_on(&text).unwrap_err());
        assert_eq!(error.exit, Exit::BadInput);
        assert!(
            error.place.contains(hint) && error.place.contains("x.jsonl"),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let options = Options {
        file: "/nonexistent/incident.jsonl".into(),
        profiles: None,
        json: false,
        brief: false,
        wide: false,
        fail_on: None,
    };
    let error = run(&options).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::BadInput);
}
