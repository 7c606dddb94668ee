//! What there is: scenarios by name, or findings with the scenarios that prove them.
//!
//! It runs nothing and needs no root.

use std::collections::{BTreeMap, BTreeSet};
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
    if options.findings {
        by_finding(&all);
    } else {
        for loaded in &all {
            let scenario = &loaded.scenario;
            println!(
                "{:<44} {}  [{}]{}",
                loaded.id,
                scenario.description,
                scenario.tags.join(" "),
                requires(scenario)
            );
        }
    }
    println!("{} scenarios", all.len());
    Ok(ExitCode::SUCCESS)
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

fn by_finding(all: &[&Loaded]) {
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
    for (code, proof) in &proofs {
        let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(", ");
        println!(
            "{code}: {} runs on every kernel of the matrix, {} of them also by tracepoints alone",
            proof.runs, proof.anywhere
        );
        println!("    broken: {}", list(&proof.broken));
        println!("    silent: {}", list(&proof.twins));
    }
}
