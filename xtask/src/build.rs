//! `cargo xtask build`: the probes first, then the programs that carry them.
//!
//! The probes are a crate of their own target (`bpfel-unknown-none`), compiled against core from source and linked by
//! bpf-linker; the agent embeds the object, so there is one file to ship. Programs for virtual machines, demo and
//! scenarios are linked statically under the target's own folder: they run in any root file system, and alternating with
//! an ordinary `cargo build` rebuilds nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, Component};
use crate::{paths, process};

/// The target of the static programs; given explicitly so that its flags do not touch build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const BPF_TARGET: &str = "bpfel-unknown-none";
/// Where `agent/build.rs` may be told of another object than ours.
const OBJECT_VARIABLE: &str = "SIDESTEP_EBPF_OBJECT";

/// `cargo xtask build`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Optimise
    #[arg(long)]
    release: bool,
    /// Link statically, as for virtual machines
    #[arg(long = "static")]
    fixed: bool,
    /// Build the scenario harness too
    #[arg(long)]
    tests: bool,
    /// Let the probes log what they do, line by line (`SIDESTEP_LOG=debug`): for whoever changes them
    #[arg(long, conflicts_with_all = ["release", "fixed", "tests"])]
    probe_log: bool,
}

/// How the compiler optimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build
    Dev,
    /// What is tested and measured
    Release,
    /// What is shipped
    Dist,
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// Against this machine's libraries
    Dynamic,
    /// With everything inside
    Static,
}

/// A package of the workspace with one program in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `sidestep`
    Agent,
    /// `sidestep-tests`
    Tests,
    /// `sidestep-differential`
    Differential,
}

impl Program {
    fn package(self) -> &'static str {
        match self {
            Self::Agent => "sidestep",
            Self::Tests => "sidestep-tests",
            Self::Differential => "sidestep-differential",
        }
    }
}

/// Builds what was asked for and says where it is.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.probe_log {
        return with_probe_log();
    }
    let profile = if options.release {
        Profile::Release
    } else {
        Profile::Dev
    };
    let linkage = if options.fixed {
        Linkage::Static
    } else {
        Linkage::Dynamic
    };
    let mut wanted = vec![Program::Agent];
    if options.tests {
        wanted.push(Program::Tests);
    }
    println!("{}", ebpf()?.display());
    for path in programs(&wanted, profile, linkage)? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent and its probes with their log. The object has a place of its own: nobody should get it unasked.
fn with_probe_log() -> Result<ExitCode> {
    let built = executable(ebpf_cargo("build")?.args(["--release", "--features", "debug"]))?;
    let object = paths::target().join("bpf").join("sidestep-log.bpf.o");
    fs::copy(&built, &object).with_context(|| format!("cannot copy {}", built.display()))?;
    let mut command = Command::new("cargo");
    command
        .args(["build", "--package", "sidestep", "--features", "debug-log"])
        .arg("--target-dir")
        .arg(paths::target().join("probe-log"))
        .current_dir(paths::workspace())
        .env(OBJECT_VARIABLE, &object);
    process::run(&mut command)?;
    println!(
        "{}",
        paths::target().join("probe-log/debug/sidestep").display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Compiles the probes; the object is rewritten only when it changed, so that nothing after it is rebuilt for nothing.
pub(crate) fn ebpf() -> Result<PathBuf> {
    let built = executable(ebpf_cargo("build")?.arg("--release"))?;
    let object = paths::ebpf_object();
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        return Ok(object);
    }
    if let Some(dir) = object.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

/// A cargo command on the probes' crate, with all that its target needs.
pub(crate) fn ebpf_cargo(subcommand: &str) -> Result<Command> {
    setup::need(Component::CoreSources)?;
    let linker = setup::need(Component::BpfLinker)?;
    let flags = format!(
        "-C linker={} -C debuginfo=2 -C link-arg=--btf",
        linker.display()
    );
    let mut command = Command::new("cargo");
    command
        .arg(subcommand)
        .args(["-Z", "build-std=core", "--target", BPF_TARGET])
        .arg("--target-dir")
        .arg(paths::target().join("bpf-build"))
        .current_dir(paths::workspace().join("agent-ebpf"))
        // build-std is not stable; this is the one place that needs it, with a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS");
    Ok(command)
}

/// Builds programs of the workspace around the probes as they are now; returns the paths in the order asked for.
pub(crate) fn programs(
    wanted: &[Program],
    profile: Profile,
    linkage: Linkage,
) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("cargo");
    command
        .arg("build")
        .current_dir(paths::workspace())
        // Not set to our own object, which is found without: cargo would rebuild the agent whenever a build with the
        // variable follows one without.
        .env_remove(OBJECT_VARIABLE);
    for program in wanted {
        command.args(["--package", program.package()]);
    }
    command.args(match profile {
        Profile::Dev => [].as_slice(),
        Profile::Release => &["--release"],
        Profile::Dist => &["--profile", "dist"],
    });
    let mut dir = paths::target();
    if linkage == Linkage::Static {
        command
            .args(["--target", TARGET])
            .env(
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                "-C target-feature=+crt-static",
            )
            .env_remove("RUSTFLAGS");
        dir.push(TARGET);
    }
    process::run(&mut command)?;
    dir.push(match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
        Profile::Dist => "dist",
    });
    wanted
        .iter()
        .map(|program| existing(dir.join(program.package())))
        .collect()
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !process::is_executable(&path) {
        bail!("cargo built no {}", path.display());
    }
    Ok(path)
}

/// Runs a cargo build and returns the one program it says it made.
fn executable(command: &mut Command) -> Result<PathBuf> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", process::line(command)))?;
    if !output.status.success() {
        bail!("the probes do not build: {} failed", process::line(command));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            message
                .get("executable")?
                .as_str()
                .map(|path| Path::new(path).to_path_buf())
        })
        .context("the probes' crate has no program")
}
