//! `cargo xtask lint`: everything about the sources that a machine can check, all of it, before it says what failed.
//!
//! rustfmt and clippy for both worlds (the workspace and the probes' own target), the layering of ARCHITECTURE.md, the house
//! measures, names that tie the sources to one machine, and the dependencies. Warnings are errors. Only what cannot be checked
//! without a network is left out without failing, and then loudly.

mod dependencies;
mod hygiene;
mod layering;
mod measures;
mod source;

use std::fmt;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build, manifests, monitors, paths, process};
use source::Source;

/// `cargo xtask lint`
#[derive(Args, Debug, Default)]
pub(crate) struct Options {
    /// Only what needs no compiler: formatting, layering, measures, names
    #[arg(long)]
    quick: bool,
}

/// Something a file must not do.
#[derive(Debug)]
pub(crate) struct Violation {
    /// From the root of the checkout.
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

type Step = (&'static str, fn() -> Result<()>);

const QUICK: [Step; 2] = [
    ("formatting", formatting),
    ("layering, measures, names", sources),
];
const COMPILED: [Step; 5] = [
    ("clippy on the probes", clippy_probes),
    ("clippy on the workspace", clippy_workspace),
    ("dependencies", dependencies::check),
    ("chart and manifests", manifests::check),
    ("the chart's monitors", monitors::check),
];

/// Runs every step and lists those that failed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let steps = QUICK
        .iter()
        .chain(COMPILED.iter().filter(|_| !options.quick));
    let mut failed = Vec::new();
    for (name, step) in steps {
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("lint: {name}: ok ({seconds:.1} s)"),
            Err(error) => {
                println!("lint: {name}: FAILED ({seconds:.1} s)\n{error:#}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("lint failed: {}", failed.join("; "));
    Ok(ExitCode::FAILURE)
}

fn formatting() -> Result<()> {
    process::output(cargo().args(["fmt", "--all", "--check"]))?;
    for alone in ["agent-ebpf", "fuzz"] {
        process::output(
            cargo()
                .args(["fmt", "--check"])
                .current_dir(paths::workspace().join(alone)),
        )?;
    }
    Ok(())
}

fn clippy_probes() -> Result<()> {
    process::run(build::ebpf_cargo("clippy")?.args([
        "--release",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]))
}

fn clippy_workspace() -> Result<()> {
    build::ebpf()?;
    process::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// The checks of this module's own, over every tracked file.
fn sources() -> Result<()> {
    let mut found = Vec::new();
    let mut lengths = Vec::new();
    for path in tracked()? {
        // A file may be binary, or deleted but not yet committed as such.
        let Ok(content) = fs::read_to_string(paths::workspace().join(&path)) else {
            continue;
        };
        // The lock files name the registry; the rules here name what they forbid.
        if !path.ends_with("Cargo.lock") {
            found.extend(hygiene::check(&path, &content));
        }
        if path.ends_with(".rs") {
            let is_test = layering::is_test(&path);
            if !is_test {
                found.extend(layering::check(&path, &Source::new(content.clone(), true)));
            }
            let whole = Source::new(content, false);
            found.extend(measures::check(&path, &whole, is_test));
            lengths.extend(whole.functions().iter().map(|function| function.lines));
        }
    }
    lengths.sort_unstable();
    if let (Some(median), Some(high)) = (
        lengths.get(lengths.len() / 2),
        lengths.get(lengths.len() * 9 / 10),
    ) {
        println!(
            "lint: {} functions, median {median} lines, 90th percentile {high}",
            lengths.len()
        );
    }
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"))
}

/// Files git knows, or would add.
fn tracked() -> Result<Vec<String>> {
    let text = process::output(
        Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(paths::workspace()),
    )
    .context("the checks look at the files git tracks")?;
    Ok(text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect())
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(paths::workspace());
    command
}
