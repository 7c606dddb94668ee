//! The page as a scraper sees it: exact text, strict parse, and agreement with the docs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is the test's failure"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{engine::Board, output::fixture};

fn page(board: Board) -> String {
    Metrics::new(fixture::view(board)).text().unwrap()
}

/// The part that does not depend on this process.
fn without_process(page: &str) -> String {
    let own = |line: &&str| !line.contains("process_");
    page.lines()
        .filter(own)
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn every_row_type_has_its_series() {
    fixture::golden(
        "output/metrics/golden.txt",
        &without_process(&page(fixture::board())),
    );
}

#[test]
fn an_empty_board_has_no_series_of_rows() {
    let text = page(Board::default());
    let families = parse(&text);
    assert!(families["sidestep_connections"].samples.is_empty());
    assert!(families["sidestep_findings"].samples.is_empty());
}

#[test]
fn a_series_goes_with_its_row() {
    let mut board = fixture::board();
    board.findings.retain(|finding| finding.pod.is_none());
    let text = page(board);
    assert!(text.contains(r#"code="agent-degraded""#));
    assert!(!text.contains(r#"code="bypass-proxy-uid""#));
}

proptest! {
    /// A page is well-formed whatever pods are called.
    #[test]
    fn any_name_stays_one_label(name in "(?s).{0,40}", other in ".{0,40}") {
        let mut board = fixture::board();
        for row in &mut board.connections {
            row.pod = fixture::key(&name, &other);
        }
        board.sources = vec![(name.clone(), other)];
        let families = parse(&page(board));
        let source = &families["sidestep_agent_sources_failed"].samples[0];
        prop_assert_eq!(&source.labels["source"], &name);
    }
}

#[test]
fn the_page_holds_the_catalogue_and_nothing_else() {
    let families = parse(&page(fixture::board()));
    let names: BTreeSet<String> = families.keys().cloned().collect();
    let catalogue: BTreeSet<String> = METRICS.iter().map(|metric| family_name(metric)).collect();
    assert_eq!(names, catalogue);
    for metric in METRICS {
        let family = &families[&family_name(metric)];
        assert_eq!(family.kind, metric.kind.as_str(), "{}", metric.name());
        assert!(
            !family.samples.is_empty(),
            "the fixture has no row for {}",
            metric.name()
        );
        let wanted: BTreeSet<&str> = metric.labels.iter().copied().collect();
        for sample in &family.samples {
            let labels: BTreeSet<&str> = sample
                .labels
                .keys()
                .map(String::as_str)
                .filter(|name| *name != "le")
                .collect();
            assert_eq!(labels, wanted, "{}", metric.name());
        }
    }
}

#[test]
fn the_docs_name_the_same_metrics() {
    let docs = include_str!("../../../../docs/metrics.md");
    let rows: BTreeMap<&str, Vec<&str>> = docs
        .lines()
        .filter(|line| line.starts_with("| `sidestep_") || line.starts_with("| `process_"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`'), cells)
        })
        .collect();
    let code: BTreeSet<String> = METRICS.iter().map(|metric| metric.name()).collect();
    let documented: BTreeSet<String> = rows.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(documented, code, "docs/metrics.md and catalog.rs differ");
    for metric in METRICS {
        let row = &rows[metric.name().as_str()];
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = if labels.is_empty() {
            "–".to_owned()
        } else {
            labels.join(", ")
        };
        let unit = metric.unit.as_ref().map_or("–", |unit| unit.as_str());
        assert_eq!(
            row[1..4],
            [metric.kind.as_str(), unit, &labels],
            "{}",
            metric.name()
        );
    }
}

/// The alerts and queries of the docs, as one rules file for `promtool`.
fn rules_of_the_docs() -> String {
    let docs = include_str!("../../../../docs/metrics.md");
    let blocks = |language: &'static str| {
        docs.split("```")
            .skip(1)
            .step_by(2)
            .filter_map(move |block| block.strip_prefix(language))
    };
    let mut rules: String = blocks("yaml\n").collect();
    for (number, query) in blocks("promql\n").enumerate() {
        rules.push_str(&format!(
            "      - record: query:{number}\n        expr: |\n"
        ));
        rules.extend(query.lines().map(|line| format!("          {line}\n")));
    }
    rules
}

#[test]
fn the_docs_rules_are_sound() {
    let rules = rules_of_the_docs();
    let known: BTreeSet<String> = METRICS.iter().map(|metric| metric.name()).collect();
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    for name in rules
        .split(word)
        .filter(|word| word.starts_with("sidestep_"))
    {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            known.contains(base),
            "the docs query {name}, which does not exist"
        );
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &rules).unwrap();
    match std::process::Command::new("promtool")
        .args(["check", "rules"])
        .arg(file.path())
        .output()
    {
        Ok(run) => assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        ),
        Err(_) => eprintln!("promtool (package prometheus) is not installed: PromQL NOT checked"),
    }
}

#[test]
fn the_parser_refuses_what_a_scraper_refuses() {
    let bad = [
        "# TYPE a gauge\na 1\n",
        "# TYPE a gauge\na 1\n# TYPE a gauge\na 1\n# EOF\n",
        "# TYPE a gauge\na 1\na 2\n# EOF\n",
        "# TYPE a counter\na 1\n# EOF\n",
        "# TYPE a gauge\na{x=\"1} 1\n# EOF\n",
        "# TYPE a_seconds gauge\n# UNIT a_seconds bytes\na_seconds 1\n# EOF\n",
        "# TYPE a counter\na_total -1\n# EOF\n",
        "# TYPE a histogram\na_sum 1\na_count 2\na_bucket{le=\"1.0\"} 3\na_bucket{le=\"+Inf\"} 2\n# EOF\n",
    ];
    for text in bad {
        assert!(try_parse(text).is_err(), "accepted:\n{text}");
    }
}

fn family_name(metric: &Metric) -> String {
    let name = metric.name();
    let suffix = match metric.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    };
    name.strip_suffix(suffix).unwrap().to_owned()
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn parse(text: &str) -> BTreeMap<String, Family> {
    try_parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// OpenMetrics 1.0 as far as it is used here, as strictly as the specification reads.
fn try_parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text
        .strip_suffix("# EOF\n")
        .ok_or("does not end with # EOF")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    // Not `lines`: a carriage return may stand in a label.
    for line in body.split_terminator('\n') {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').ok_or("comment")?;
            let (name, value) = rest.split_once(' ').ok_or("descriptor without a value")?;
            match word {
                "TYPE" if families.contains_key(name) => return Err(format!("{name} twice")),
                "TYPE" => {
                    current = name.to_owned();
                    let family = Family {
                        kind: value.to_owned(),
                        samples: vec![],
                    };
                    families.insert(current.clone(), family);
                }
                "UNIT" if !name.ends_with(&format!("_{value}")) => {
                    return Err(format!("unit {value} is not the end of {name}"));
                }
                "HELP" | "UNIT" => {}
                _ => return Err(format!("unknown descriptor {word}")),
            }
        } else {
            let family = families.get_mut(&current).ok_or("sample before its TYPE")?;
            let sample = sample(line)?;
            check_sample(&current, family, &sample)?;
            family.samples.push(sample);
        }
    }
    families
        .iter()
        .try_for_each(|(name, family)| check_histogram(name, family))?;
    Ok(families)
}

fn check_sample(name: &str, family: &Family, sample: &Sample) -> Result<(), String> {
    let suffix = sample
        .name
        .strip_prefix(name)
        .ok_or(format!("{} below {name}", sample.name))?;
    let allowed: &[&str] = match family.kind.as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        kind => return Err(format!("unknown type {kind}")),
    };
    if !allowed.contains(&suffix) {
        return Err(format!("{} is no sample of a {}", sample.name, family.kind));
    }
    if family.kind != "gauge" && sample.value < 0.0 {
        return Err(format!("{} is negative", sample.name));
    }
    let same = |other: &Sample| other.name == sample.name && other.labels == sample.labels;
    if family.samples.iter().any(same) {
        return Err(format!("{} {:?} twice", sample.name, sample.labels));
    }
    Ok(())
}

/// Buckets must grow with their bounds, and the last must be the count.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    if family.kind != "histogram" {
        return Ok(());
    }
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for bucket in family
        .samples
        .iter()
        .filter(|s| s.name.ends_with("_bucket"))
    {
        let mut labels = bucket.labels.clone();
        let bound = labels.remove("le").ok_or("bucket without le")?;
        let bound: f64 = bound.parse().map_err(|_| format!("le {bound}"))?;
        series
            .entry(labels)
            .or_default()
            .push((bound, bucket.value));
    }
    for (labels, buckets) in series {
        let grows = buckets
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let count = family
            .samples
            .iter()
            .find(|s| s.name.ends_with("_count") && s.labels == labels);
        let last = buckets.last().copied();
        if !grows || last != count.map(|count| (f64::INFINITY, count.value)) {
            return Err(format!("{name} {labels:?}: {buckets:?}"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let bad = || format!("not a sample: {line}");
    let end = line.find(['{', ' ']).ok_or_else(bad)?;
    let (name, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest).ok_or_else(bad)?,
        None => (BTreeMap::new(), rest),
    };
    let value = value
        .strip_prefix(' ')
        .ok_or_else(bad)?
        .parse()
        .map_err(|_| bad())?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        return Err(bad());
    }
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = match after.strip_prefix(',') {
            Some(next) if !next.starts_with('}') => next,
            Some(_) => return None,
            None if after.starts_with('}') => after,
            None => return None,
        };
    }
}

/// A value up to its closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}
