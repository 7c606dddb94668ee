//! `cargo xtask manifests`: the plain manifests, rendered from the chart by the real helm.
//!
//! The chart is the one source; `deploy/manifests` is for those who install without helm. `lint` compares the two, so they
//! cannot drift apart. The chart is also linted, and its schema must refuse what it should.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::setup::{self, Component};
use crate::{monitors, paths, process};

/// The chart, from the root of the checkout.
pub(crate) const CHART: &str = "deploy/chart/sidestep";
const RENDERED: &str = "deploy/manifests/sidestep.yaml";
/// Values that the schema must refuse, each for another reason.
const REFUSED: [&str; 5] = [
    "port=80",
    "image.digest=latest",
    "unknown=1",
    "capabilities.add[0]=CAP_BPF",
    "agent.rulesEvery=0",
];
const HEAD: &str = "# Sidestep's agent on every node, rendered from deploy/chart/sidestep by `cargo xtask manifests`: change that, not this.
# Name your image below before `kubectl apply -f`.
apiVersion: v1
kind: Namespace
metadata:
  name: sidestep
";

/// `cargo xtask manifests`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Write nothing; fail if they are not what the chart renders
    #[arg(long)]
    check: bool,
}

/// Renders or compares.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.check {
        check()?;
        monitors::check()?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = paths::workspace().join(RENDERED);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&path, render()?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Fails if the manifests are not current, or the chart is not right.
pub(crate) fn check() -> Result<()> {
    process::output(helm()?.args(["lint", "--strict", CHART]))?;
    for value in REFUSED {
        let answer = process::output(helm()?.args(["template", CHART, "--set", value]));
        ensure!(
            answer
                .is_err_and(|error| format!("{error:#}").contains("specifications of the schema")),
            "the chart's schema takes {value}, which it should refuse"
        );
    }
    let path = paths::workspace().join(RENDERED);
    if fs::read_to_string(&path).unwrap_or_default() != render()? {
        bail!("{RENDERED} is not what the chart renders: run `cargo xtask manifests`");
    }
    Ok(())
}

fn render() -> Result<String> {
    let text =
        process::output(helm()?.args(["template", "sidestep", CHART, "--namespace", "sidestep"]))?;
    let kept: Vec<&str> = text
        .lines()
        // No release manages these.
        .filter(|line| line.trim() != "app.kubernetes.io/managed-by: Helm")
        .collect();
    Ok(format!("{HEAD}{}\n", kept.join("\n")))
}

/// helm, in the checkout.
pub(crate) fn helm() -> Result<Command> {
    let mut command = Command::new(setup::need(Component::Helm)?);
    command.current_dir(paths::workspace());
    Ok(command)
}
