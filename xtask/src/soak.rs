//! `cargo xtask soak`: the agent under steady load for a long time, in a machine of the matrix or on this one; with
//! `--faults` the pods break and are mended meanwhile.
//!
//! The harness loads and judges (`tests/src/soak.rs`); this command boots and passes its words on. Under instruction
//! counting ten minutes are ten minutes of the guest, however busy the computer around it is.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::scenario::{self, Place, Programs, Target};
use crate::setup::{self, Component, Kernel};

/// `cargo xtask soak`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A kernel of the matrix, or `host` for this machine
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Minutes of load
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Connections per second: 500 unless said otherwise; with faults 10 from each of three pods
    #[arg(long)]
    rate: Option<u32>,
    /// Breaks things and mends them at random: every fault must be found in time, and be over in time once mended
    #[arg(long)]
    faults: bool,
    /// What decides which faults come when; printed, so that a run can be had again
    #[arg(long, requires = "faults")]
    seed: Option<u64>,
    /// By the clock of this computer and not by counted instructions: as long as it says, if it can keep the rate
    #[arg(long)]
    real_time: bool,
    /// An agent that is built already, in place of this checkout's
    #[arg(long, value_name = "PATH")]
    agent: Option<std::path::PathBuf>,
}

/// Runs it; succeeds if the harness says so.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let place = match scenario::places(&options.kernel)?.as_slice() {
        [place] => *place,
        _ => bail!("it runs in one place: name one kernel"),
    };
    let target = match place {
        Place::Host => Target::Host,
        Place::Vm(_) => Target::Machine,
    };
    let programs = scenario::programs(Some(options.agent.as_deref()), target)?;
    let programs = Programs {
        envoy: None,
        ..programs
    };
    let mut words = vec!["soak".to_owned()];
    words.extend(["--minutes".to_owned(), options.minutes.to_string()]);
    if let Some(rate) = options.rate {
        words.extend(["--rate".to_owned(), rate.to_string()]);
    }
    if options.faults {
        words.push("--faults".to_owned());
    }
    if let Some(seed) = options.seed {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    match place {
        Place::Host => {
            setup::need(Component::HostTools)?;
            let agent = programs.agent.context("no agent")?;
            let mut command = Command::new(&programs.harness);
            scenario::exit_code(command.args(&words).arg("--agent").arg(agent))
        }
        Place::Vm(kernel) => in_machine(options, &programs, kernel, words),
    }
}

fn in_machine(
    options: &Options,
    programs: &Programs,
    kernel: Kernel,
    words: Vec<String>,
) -> Result<ExitCode> {
    let mut command = vec!["/usr/local/bin/sidestep-tests".to_owned()];
    command.extend(words);
    let mut guest = scenario::machine(kernel, command, programs);
    // An emulated machine may need several minutes for one of its own.
    guest.timeout = Duration::from_mins(u64::from(options.minutes) * 6 + 10);
    if !options.real_time {
        guest.icount = true;
        guest.smp = 1;
    }
    let outcome = guest.run(&mut |line| println!("{line}"))?;
    Ok(u8::try_from(outcome.code).map_or(ExitCode::FAILURE, ExitCode::from))
}
