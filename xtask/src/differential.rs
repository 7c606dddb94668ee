//! `cargo xtask differential`: random rules and connections, the evaluation against the kernel.
//!
//! The program is `tests/differential`; here it is built, brought to where it shall run, and started. In a machine the
//! clock counts instructions, so that waiting for a dropped packet takes no time at all.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::build::{self, Linkage, Profile, Program};
use crate::process;
use crate::scenario::{self, Place};
use crate::setup::{self, Component, Kernel};
use crate::vm::Guest;

/// Where the program is in a machine.
const IN_GUEST: &str = "/usr/local/bin/sidestep-differential";

/// `cargo xtask differential`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// host, all, or a kernel of the matrix
    #[arg(long, default_value = "host")]
    kernel: String,
    /// Connections to compare
    #[arg(long, default_value_t = 2000)]
    cases: u64,
    /// Repeats a run; chosen by the clock if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these: legacy, nft, native
    dialects: Vec<String>,
}

/// Runs it wherever it is asked for; stops at the first disagreement.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    for place in scenario::places(&options.kernel)? {
        let code = match place {
            Place::Host => on_host(options)?,
            Place::Vm(kernel) => in_machine(options, kernel)?,
        };
        if code != 0 {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn arguments(options: &Options) -> Vec<String> {
    let mut arguments = vec!["--cases".to_owned(), options.cases.to_string()];
    if let Some(seed) = options.seed {
        arguments.extend(["--seed".to_owned(), seed.to_string()]);
    }
    arguments.extend(options.dialects.iter().cloned());
    arguments
}

fn on_host(options: &Options) -> Result<i32> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "rules are installed in network namespaces made for it, which needs root: run as root, or use --kernel 6.12"
    );
    setup::need(Component::HostTools)?;
    build::ebpf()?;
    let built = build::programs(&[Program::Differential], Profile::Dev, Linkage::Dynamic)?;
    let program = built.first().context("nothing was built")?;
    Ok(process::dies_with_us(program)
        .args(arguments(options))
        .status()?
        .code()
        .unwrap_or(1))
}

fn in_machine(options: &Options, kernel: Kernel) -> Result<i32> {
    build::ebpf()?;
    let built = build::programs(&[Program::Differential], Profile::Release, Linkage::Static)?;
    let mut command = vec![IN_GUEST.to_owned()];
    command.extend(arguments(options));
    let mut guest = Guest::new(kernel, command);
    let program = built.first().context("nothing was built")?;
    guest.files.push((program.clone(), IN_GUEST.into()));
    guest.timeout = Duration::from_mins(60);
    guest.icount = true;
    guest.smp = 1;
    Ok(guest.run(&mut |line| println!("{kernel} | {line}"))?.code)
}
