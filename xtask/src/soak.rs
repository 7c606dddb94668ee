//! `cargo xtask soak`: the agent under steady load for a long time, in a machine of the matrix.
//!
//! The harness loads and judges (`tests/src/soak.rs`); this command boots and passes its words on. Under instruction
//! counting ten minutes are ten minutes of the guest, however busy the computer around it is.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::scenario::{self, Programs, Target};
use crate::setup::Kernel;

/// `cargo xtask soak`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Minutes of load
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Connections per second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// By the clock of this computer and not by counted instructions: as long as it says, if it can keep the rate
    #[arg(long)]
    real_time: bool,
    /// An agent that is built already, in place of this checkout's
    #[arg(long, value_name = "PATH")]
    agent: Option<std::path::PathBuf>,
}

/// Runs it; succeeds if the harness says so.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let programs = scenario::programs(Some(options.agent.as_deref()), Target::Machine)?;
    let programs = Programs {
        envoy: None,
        ..programs
    };
    let command = [
        "/usr/local/bin/sidestep-tests",
        "soak",
        "--minutes",
        &options.minutes.to_string(),
        "--rate",
        &options.rate.to_string(),
    ];
    let command = command.map(str::to_owned).to_vec();
    let mut guest = scenario::machine(options.kernel, command, &programs);
    // An emulated machine may need several minutes for one of its own.
    guest.timeout = Duration::from_mins(u64::from(options.minutes) * 6 + 10);
    if !options.real_time {
        guest.icount = true;
        guest.smp = 1;
    }
    let outcome = guest.run(&mut |line| println!("{line}"))?;
    Ok(u8::try_from(outcome.code).map_or(ExitCode::FAILURE, ExitCode::from))
}
