//! `cargo xtask demo`: README's first command. Sets up, builds, and shows the agent on a small mesh.
//!
//! The mesh is `tests/demo/shop.toml`, a scenario like all others; the harness builds it and tells what happens. On
//! this machine it needs root; `--vm` shows the same in a kernel of the matrix.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::paths;
use crate::scenario::{self, Programs, Target};
use crate::setup::{self, Component, Kernel};

/// Where the scenario is in a machine.
const GUEST_FILE: &str = "/root/shop.toml";

/// `cargo xtask demo`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Show it in a kernel of the matrix and not on this machine
    #[arg(long, value_enum, value_name = "KERNEL")]
    vm: Option<Kernel>,
    /// Keep everything running until it is interrupted
    #[arg(long, conflicts_with = "vm")]
    keep: bool,
    /// An agent that is built already, in place of this checkout's
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// Shows the demo.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.vm.is_none() && !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and loads probes, which needs root: \
             run it as root, or in a virtual machine with `cargo xtask demo --vm 6.12`"
        );
    }
    println!("Setting up and building (the first time takes some minutes) …");
    setup::need(Component::Envoy).context("the demo's sidecars are real Envoys")?;
    let target = options.vm.map_or(Target::Host, |_| Target::Machine);
    let programs = scenario::programs(Some(options.agent.as_deref()), target)?;
    match options.vm {
        None => on_host(options, &programs),
        Some(kernel) => in_machine(kernel, &programs),
    }
}

fn file() -> PathBuf {
    paths::workspace()
        .join("tests")
        .join("demo")
        .join("shop.toml")
}

fn on_host(options: &Options, programs: &Programs) -> Result<ExitCode> {
    setup::need(Component::HostTools)?;
    let mut command = Command::new(&programs.harness);
    command.arg("demo").arg("--file").arg(file());
    command
        .arg("--agent")
        .arg(programs.agent.as_deref().context("no agent was built")?);
    command
        .arg("--envoy")
        .arg(programs.envoy.as_deref().context("there is no Envoy")?);
    if options.keep {
        command.arg("--keep");
    }
    scenario::exit_code(&mut command)
}

fn in_machine(kernel: Kernel, programs: &Programs) -> Result<ExitCode> {
    println!("Booting Linux {kernel} …");
    let command = [
        "/usr/local/bin/sidestep-tests",
        "demo",
        "--file",
        GUEST_FILE,
        "--kernel",
    ];
    let mut command: Vec<String> = command.map(str::to_owned).to_vec();
    command.push(kernel.to_string());
    let mut guest = scenario::machine(kernel, command, programs);
    guest.files.push((file(), GUEST_FILE.into()));
    guest.timeout = Duration::from_mins(15);
    guest.icount = true;
    guest.smp = 1;
    let outcome = guest.run(&mut |line| println!("{line}"))?;
    Ok(u8::try_from(outcome.code).map_or(ExitCode::FAILURE, ExitCode::from))
}
