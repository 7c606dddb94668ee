//! `cargo xtask test`: everything, on this machine and on every kernel of the matrix, in the order of its cost.
//!
//! A failed stage does not keep the others from running, except that nothing is tried that was not built. The unit tests
//! come last, so that the output ends with the test runner's own summary; what came of the stages before is listed above it.
//! Scenarios on a place where nothing changed since they passed are not run again, unless asked for or in CI.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build::{self, Linkage, Profile, Program};
use crate::cache::Cache;
use crate::scenario::{self, Programs, Target};
use crate::setup::{self, Kernel};
use crate::stamp::{Inputs, Stamp};
use crate::{lint, paths, process};

/// So many failed scenarios of a place may be tried again alone: one starved moment of a shared
/// computer must not cost half an hour, and a fault is not rare enough to hide behind it.
const AGAIN: &str = "3";

/// `cargo xtask test`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Run scenarios again where nothing changed since they passed
    #[arg(long)]
    force: bool,
    /// Every combination of every scenario on every kernel; else a kernel runs every scenario, the
    /// combinations of backend and family take turns, and the four kernels together run them all
    #[arg(long)]
    full: bool,
    /// No scenarios: neither on this machine nor in virtual machines
    #[arg(long)]
    quick: bool,
    /// Virtual machines at once; as many as there are processors if not given
    #[arg(long)]
    machines: Option<usize>,
}

/// What came of a stage.
#[derive(Debug)]
struct Outcome {
    stage: String,
    good: bool,
    seconds: f64,
    note: String,
}

/// Runs all stages; success only if every one is good.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut outcomes = Vec::new();
    outcomes.push(stage("lint", || {
        let code = lint::run(&lint::Options::default())?;
        ensure!(code == ExitCode::SUCCESS, "see above");
        Ok(String::new())
    }));
    if !options.quick {
        let mut programs = None;
        outcomes.push(stage("build", || {
            let here = scenario::programs(Some(None), Target::Host)?;
            let machines = scenario::programs(Some(None), Target::Machine)?;
            build::programs(&[Program::Differential], Profile::Dev, Linkage::Dynamic)?;
            build::programs(&[Program::Differential], Profile::Release, Linkage::Static)?;
            programs = Some((here, machines));
            Ok(String::new())
        }));
        if let Some((here, machines)) = programs {
            outcomes.push(stage("scenarios on this machine", || {
                on_host(options, &here)
            }));
            outcomes.extend(in_machines(options, &machines));
        }
    }
    outcomes.push(stage("documentation examples", || {
        process::run(cargo().args(["test", "--doc", "--workspace", "--quiet"]))?;
        Ok(String::new())
    }));
    heading("unit tests, properties, goldens");
    show(&outcomes);
    let good = outcomes.iter().all(|outcome| outcome.good);
    process::run(&mut unit_tests())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// nextest where it is installed; cargo's own runner runs the same tests, only slower and one crate at a time, and building
/// nextest costs more than it saves.
fn unit_tests() -> Command {
    let mut command = cargo();
    if process::find("cargo-nextest").is_some() {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
    }
    command
}

fn on_host(options: &Options, programs: &Programs) -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        ensure!(!in_ci(), "CI must run them, and they need root");
        eprintln!(
            "WARNING: SCENARIOS WERE NOT RUN ON THIS MACHINE: they make network namespaces and need root"
        );
        return Ok("not run: not root".to_owned());
    }
    let mut inputs = inputs(programs)?;
    inputs.text(&std::fs::read_to_string("/proc/version")?);
    place(options, "host", None, inputs, "")
}

fn in_machines(options: &Options, programs: &Programs) -> Vec<Outcome> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let machines = options
        .machines
        .unwrap_or(processors)
        .clamp(1, Kernel::ALL.len());
    let waiting = Mutex::new(Kernel::ALL.to_vec());
    let outcomes = Mutex::new(Vec::new());
    let next = || {
        waiting
            .lock()
            .ok()
            .and_then(|mut waiting| (!waiting.is_empty()).then(|| waiting.remove(0)))
    };
    std::thread::scope(|scope| {
        for _ in 0..machines {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let prefix = if machines > 1 {
                        format!("{kernel} | ")
                    } else {
                        String::new()
                    };
                    let outcome = stage(&format!("scenarios on Linux {kernel}"), || {
                        in_machine(options, programs, kernel, &prefix)
                    });
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_default()
}

fn in_machine(
    options: &Options,
    programs: &Programs,
    kernel: Kernel,
    prefix: &str,
) -> Result<String> {
    let files = setup::need_kernel(kernel)?;
    let mut inputs = inputs(programs)?;
    inputs.text(&files.release);
    inputs.text(&files.fingerprint);
    inputs.text(&setup::need_guest_tools()?.fingerprint);
    let turn = (!options.full)
        .then(|| Kernel::ALL.iter().position(|k| *k == kernel))
        .flatten();
    place(options, &kernel.to_string(), turn, inputs, prefix)
}

/// What decides how scenarios end, wherever they run.
fn inputs(programs: &Programs) -> Result<Inputs> {
    let mut inputs = Inputs::default();
    inputs.path(&programs.harness)?;
    for program in programs.agent.iter().chain(&programs.envoy) {
        inputs.path(program)?;
    }
    inputs.path(&paths::workspace().join("tests/scenarios"))?;
    inputs.path(&paths::workspace().join("tests/rules"))?;
    inputs.path(&paths::workspace().join("xtask/src/vm"))?;
    Ok(inputs)
}

/// Runs all scenarios in one place, or says since when they are known to pass there.
fn place(
    options: &Options,
    place: &str,
    turn: Option<usize>,
    mut inputs: Inputs,
    prefix: &str,
) -> Result<String> {
    let turn = turn.map(|turn| turn.to_string());
    inputs.text(turn.as_deref().unwrap_or("all"));
    let stamp: Stamp = inputs.stamp(&Cache::open()?, &format!("scenarios-{place}"));
    if let Some(when) = stamp.passed().filter(|_| !options.force && !in_ci()) {
        println!("{prefix}NOT RUN: UNCHANGED SINCE IT PASSED AT {when} (--force runs it again)");
        return Ok(format!("not run: unchanged since it passed at {when}"));
    }
    stamp.forget()?;
    let mut arguments = vec!["scenario", "run", "--all", "--again", AGAIN];
    arguments.extend(["--kernel", place]);
    if let Some(turn) = &turn {
        arguments.extend(["--turn", turn]);
    }
    let last = xtask(&arguments, prefix)?;
    let compared = xtask(&["differential", "--kernel", place], prefix)
        .context("the evaluation of rules against the kernel")?;
    stamp.write()?;
    Ok(format!("{last}; rules: {compared}"))
}

/// Runs a command of ours in a process of its own, whose lines are passed on; returns the last, which is the sum.
fn xtask(arguments: &[&str], prefix: &str) -> Result<String> {
    // This very program, even if it has been rebuilt since it was started.
    let ourselves = format!("/proc/{}/exe", std::process::id());
    let mut child = process::dies_with_us(Path::new(&ourselves))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start ourselves")?;
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{prefix}{line}");
        if !line.trim().is_empty() {
            last = line;
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{last}");
    }
    Ok(last)
}

fn stage(name: &str, run: impl FnOnce() -> Result<String>) -> Outcome {
    heading(name);
    let start = Instant::now();
    let (good, note) = match run() {
        Ok(note) => (true, note),
        Err(error) => (false, format!("{error:#}")),
    };
    if !good {
        println!("{name}: FAILED: {note}");
    }
    Outcome {
        stage: name.to_owned(),
        good,
        seconds: start.elapsed().as_secs_f64(),
        note,
    }
}

fn heading(name: &str) {
    println!("\n=== {name}");
}

fn show(outcomes: &[Outcome]) {
    println!("before these:");
    for Outcome {
        stage,
        good,
        seconds,
        note,
    } in outcomes
    {
        let word = if *good { "ok" } else { "FAILED" };
        println!(
            "  {word:<6} {seconds:>7.1} s  {stage}  {}",
            note.lines().next().unwrap_or_default()
        );
    }
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(paths::workspace());
    command
}
