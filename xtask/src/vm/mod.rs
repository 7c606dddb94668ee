//! `cargo xtask vm`: boots a kernel of the matrix and runs a command in it.
//!
//! Other commands use [`Guest`] directly. There is no disk, no network to the outside and nothing to log in to: a
//! machine lives for one command, and the same inputs boot the same machine on every computer.

mod cpio;
mod guest;
mod host_files;
mod image;
mod qemu;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::setup::{self, Kernel};

pub(crate) use guest::{Cgroup, Guest};
pub(crate) use host_files::HostFiles;
pub(crate) use qemu::Accel;

/// `cargo xtask vm`
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a kernel of the matrix; its exit code is this command's
    Run(RunOptions),
    /// List the kernels of the matrix
    List,
}

#[derive(Args, Debug)]
struct RunOptions {
    /// The kernel to boot
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Count instructions instead of time: one CPU, exactly repeatable
    #[arg(long)]
    icount: bool,
    /// Number of CPUs
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Memory
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mem: u32,
    /// A file or folder to bring along, and its place in the guest
    #[arg(long, value_name = "HOST:GUEST", value_parser = host_and_guest)]
    file: Vec<(PathBuf, PathBuf)>,
    /// Modules to load beside those of netfilter
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Run it among this machine's files: all can be read, and what is written stays in the guest's memory
    #[arg(long)]
    host_files: bool,
    /// A folder of this machine's that is empty in the guest, and no overlay
    #[arg(long, value_name = "FOLDER", requires = "host_files")]
    fresh: Vec<PathBuf>,
    /// Load no module but those named
    #[arg(long)]
    bare: bool,
    /// How control groups are mounted
    #[arg(long, value_enum, default_value = "v2")]
    cgroup: Cgroup,
    /// What runs the guest's instructions; the fastest that works if not given
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Show the kernel's messages at the end
    #[arg(long)]
    kernel_log: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Command::Run(options) => run_guest(options),
        Command::List => {
            for kernel in Kernel::ALL {
                let files = setup::need_kernel(kernel)?;
                println!("{kernel:<5} {}", files.release);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_guest(options: &RunOptions) -> Result<ExitCode> {
    let mut guest = Guest::new(options.kernel, options.command.clone());
    if options.bare {
        guest.modules.clear();
    }
    guest.modules.extend(options.module.iter().cloned());
    guest.files.clone_from(&options.file);
    guest.cgroup = options.cgroup;
    guest.icount = options.icount;
    guest.smp = options.smp;
    guest.mem_mib = options.mem;
    guest.host_files = options.host_files.then(|| HostFiles {
        fresh: options.fresh.clone(),
    });
    guest.timeout = Duration::from_secs(options.timeout);
    let mut show = |line: &str| println!("{line}");
    let outcome = match options.accel {
        Some(accel) => guest.run_on(accel, &mut show)?,
        None => guest.run(&mut show)?,
    };
    if options.kernel_log {
        for line in &outcome.kernel_log {
            eprintln!("{line}");
        }
    }
    eprintln!(
        "vm: Linux {}: {} lines, exit code {}; command started after {:.1} s, ended after {:.1} s",
        options.kernel,
        outcome.lines.len(),
        outcome.code,
        outcome.boot.as_secs_f64(),
        outcome.total.as_secs_f64()
    );
    Ok(u8::try_from(outcome.code).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn host_and_guest(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (host, guest) = text
        .split_once(':')
        .ok_or("write it as HOST:GUEST, for example ./agent:/usr/local/bin/agent")?;
    if !guest.starts_with('/') {
        return Err(format!(
            "the place in the guest must begin with a slash, {guest:?} does not"
        ));
    }
    Ok((host.into(), guest.into()))
}

#[cfg(test)]
mod tests {
    use super::host_and_guest;

    #[test]
    fn a_file_needs_both_places() {
        assert!(host_and_guest("a:/b").is_ok());
        assert!(host_and_guest("a").is_err());
        assert!(host_and_guest("a:b").is_err());
    }
}
