//! What there is: scenarios by name, or findings with the scenarios that prove them.
//!
//! It runs nothing and needs no root.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::load::{self, Loaded};
use crate::spec::{Requirement, Scenario};
use crate::suite::tagged;

/// Names and descriptions, or the table of findings.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Folder of scenarios
    #[arg(long, default_value = "tests/scenarios")]
    dir: PathBuf,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
    /// By finding: what shows it, and the healthy twins that must stay silent
    #[arg(long)]
    findings: bool,
}

/// Lists the folder.
pub(crate) fn list(options: &Options) -> Result<ExitCode> {
    let all = load::folder(&options.dir)?;
    let all: Vec<&Loaded> = all
        .iter()
        .filter(|loaded| tagged(loaded, options.tag.as_deref()))
        .collect();
    let lines = if options.findings {
        by_finding(&all)
    } else {
        all.iter().map(|loaded| line(loaded)).collect()
    };
    print(&format!("{lines}{} scenarios\n", all.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that went away (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn line(loaded: &Loaded) -> String {
    let scenario = &loaded.scenario;
    format!(
        "{:<44} {}  [{}]{}\n",
        loaded.id,
        scenario.description,
        scenario.tags.join(" "),
        requires(scenario)
    )
}

/// What it needs, if it cannot run everywhere.
fn requires(scenario: &Scenario) -> String {
    let all = scenario.requires.iter().map(ToString::to_string);
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        String::new()
    } else {
        format!("  needs {}", all.join(", "))
    }
}

/// What proves one finding.
#[derive(Debug, Default)]
struct Proof<'a> {
    runs: usize,
    /// Runs that tracepoints alone can decide.
    anywhere: usize,
    broken: BTreeSet<&'a str>,
    twins: BTreeSet<&'a str>,
}

fn by_finding(all: &[&Loaded]) -> String {
    let mut proofs: BTreeMap<&str, Proof<'_>> = BTreeMap::new();
    for loaded in all {
        let scenario = &loaded.scenario;
        let narrow = [Requirement::Kprobes, Requirement::Vm];
        let anywhere = !narrow.iter().any(|r| scenario.requires.contains(r));
        for expect in &scenario.expect {
            let proof = proofs.entry(&expect.code).or_default();
            proof.runs += 1;
            proof.anywhere += usize::from(anywhere);
            proof.broken.insert(&scenario.name);
            proof.twins.extend(scenario.twin.as_deref());
        }
    }
    let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
    let row = |(code, proof): (&&str, &Proof<'_>)| {
        format!(
            "{code}: {} runs on every kernel of the matrix, {} of them also by tracepoints alone\n\
             \x20   broken: {}\n    silent: {}\n",
            proof.runs,
            proof.anywhere,
            list(&proof.broken),
            list(&proof.twins)
        )
    };
    proofs.iter().map(row).collect()
}
