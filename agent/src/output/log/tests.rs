//! The log lines as a pipeline reads them, and their limit.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::{io, sync::Mutex};

use serde_json::Value;

use super::*;
use crate::output::fixture;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `act` logs, line by line.
fn logged(act: impl FnOnce()) -> Vec<Value> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = lines.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn output(index: usize) -> Output {
    let finding = Box::new(fixture::board().findings.remove(index));
    match finding.state {
        FindingState::Open => Output::Opened(finding),
        FindingState::Resolved { .. } => Output::Resolved(finding),
    }
}

#[test]
fn an_opened_finding_is_one_line_with_the_apis_field_names() {
    let lines = logged(|| {
        FindingLog::default().write(fixture::NOW, &output(0));
    });
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["code"], "bypass-proxy-uid");
    assert_eq!(line["pod"], "shop/cart-7d9f8c6b5-x2x4z");
    assert_eq!(line["container"], "app");
    assert!(
        line["evidence"]
            .as_str()
            .unwrap()
            .contains("process=curl (pid 4711)")
    );
    assert!(line["remedy"].as_str().unwrap().contains("runAsUser"));
    assert!(
        line["message"]
            .as_str()
            .unwrap()
            .starts_with("finding opened: Container app")
    );
}

#[test]
fn a_resolved_finding_tells_how_long_it_was_open() {
    let lines = logged(|| {
        FindingLog::default().write(fixture::NOW, &output(3));
    });
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["code"], "stuck-upstream-refused");
    assert_eq!(lines[0]["open_seconds"], 420);
}

#[test]
fn a_flood_is_cut_and_counted() {
    let mut log = FindingLog::default();
    let count = log.suppressed_total();
    let lines = logged(|| {
        for _ in 0..BURST + 30 {
            log.write(fixture::NOW, &output(0));
        }
        assert_eq!(count.load(Ordering::Relaxed), 30);
        assert!(log.write(fixture::NOW.plus_secs(1), &output(0)));
        assert!(!log.write(fixture::NOW.plus_secs(1), &output(0)));
    });
    let told: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("suppressed").is_some())
        .collect();
    assert_eq!(
        told.len(),
        1,
        "told once, with the next line that is let through"
    );
    assert_eq!(told[0]["suppressed"], 30);
    assert_eq!(lines.len() as u64, BURST + 2);
}

#[test]
fn a_source_is_told_when_its_trouble_changes() {
    let trouble = |text: &str| BTreeMap::from([("pods-dir".to_owned(), text.to_owned())]);
    let none = BTreeMap::new;
    let mut log = FindingLog::default();
    let lines = logged(|| {
        for sources in [trouble("a"), trouble("a"), trouble("b"), none(), none()] {
            log.sources(fixture::NOW, &sources);
        }
    });
    let told: Vec<(&str, Option<&str>)> = lines
        .iter()
        .map(|line| {
            (
                line["level"].as_str().unwrap(),
                line.get("trouble").and_then(Value::as_str),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("WARN", Some("a")), ("WARN", Some("b")), ("INFO", None)]
    );
}

#[test]
fn a_bad_filter_is_named() {
    let error = init(LogFormat::Text, "sidestep=loud=1").unwrap_err();
    assert!(error.to_string().contains("sidestep=loud=1"), "{error}");
}
