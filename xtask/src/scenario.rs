//! `cargo xtask scenario`: runs scenarios on this machine or in kernels of the matrix.
//!
//! The work is done by the harness (`tests/`), the same program here and in a machine; this command builds it with the
//! agent, brings both to where they run, and passes their lines on. One boot runs everything that was selected.
//!
//! It must never judge: the harness's exit code is this command's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum as _};

use crate::build::{self, Linkage, Profile, Program};
use crate::setup::{self, Component, Kernel};
use crate::vm::Guest;
use crate::{paths, process};

/// Where things are in a machine.
const GUEST_SCENARIOS: &str = "/root/scenarios";
const GUEST_ENVOY: &str = "/usr/local/bin/envoy";
/// The places that take turns.
const KERNELS: i64 = Kernel::ALL.len() as i64;

/// `cargo xtask scenario`
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the scenarios
    List {
        /// Only those with this tag
        #[arg(long)]
        tag: Option<String>,
        /// By finding: what shows it, and the healthy twins that must stay silent
        #[arg(long)]
        findings: bool,
    },
    /// Run scenarios; success only if all pass
    Run(RunOptions),
}

/// Which scenarios, where.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Names, as `list` shows them; a name without combination means all of its combinations
    names: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// A file of your own
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
    /// A kernel of the matrix, `host` for this machine, `all` for the matrix and this machine
    #[arg(long, default_value = "host")]
    kernel: String,
    /// One JSON object per scenario and nothing else on stdout
    #[arg(long)]
    json: bool,
    /// How many run at once; by default as many as the place bears
    #[arg(long)]
    jobs: Option<usize>,
    /// Leave everything standing at the end (host only)
    #[arg(long)]
    keep: bool,
    /// Build the world and act, without an agent
    #[arg(long)]
    no_agent: bool,
    /// Of each scenario's combinations only those whose turn it is in this place, 0 to 3: the four
    /// together run them all
    #[arg(long, value_name = "PLACE", requires = "all", value_parser = clap::value_parser!(u8).range(0..KERNELS))]
    turn: Option<u8>,
    /// One agent for each scenario, also with --all, where one serves them all
    #[arg(long)]
    isolated: bool,
    /// If no more than so many fail, they run once more, one at a time; what passes then is
    /// told as flaky
    #[arg(long, value_name = "COUNT", conflicts_with = "json")]
    again: Option<usize>,
    /// An agent that is built already, in place of this checkout's
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// One more argument for the agent
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    agent_arg: Vec<String>,
}

/// The programs a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// `sidestep-tests`
    pub(crate) harness: PathBuf,
    /// `sidestep`
    pub(crate) agent: Option<PathBuf>,
    /// The real Envoy, where it can be had.
    pub(crate) envoy: Option<PathBuf>,
}

/// Where scenarios run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This machine.
    Host,
    /// A virtual machine.
    Vm(Kernel),
}

/// How programs are built for where they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This machine: quick to build, and what an ordinary `cargo build` has built already.
    Host,
    /// A machine, whose CPU is emulated: optimised, and small enough to bring along.
    Machine,
}

/// Lists or runs.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Action::List { tag, findings } => list(tag.as_deref(), *findings),
        Action::Run(options) => scenarios(options),
    }
}

fn list(tag: Option<&str>, findings: bool) -> Result<ExitCode> {
    let harness = only_harness()?;
    let mut command = Command::new(harness);
    command.arg("list").arg("--dir").arg(folder());
    if let Some(tag) = tag {
        command.args(["--tag", tag]);
    }
    if findings {
        command.arg("--findings");
    }
    exit_code(&mut command)
}

/// Runs what was selected in every place asked for.
pub(crate) fn scenarios(options: &RunOptions) -> Result<ExitCode> {
    let places = places(&options.kernel)?;
    let agent = (!options.no_agent).then_some(options.agent.as_deref());
    let mut good = true;
    for place in places {
        good &= match place {
            Place::Host => on_host(options, &programs(agent, Target::Host)?)?,
            Place::Vm(kernel) => in_machine(options, &programs(agent, Target::Machine)?, kernel)?,
        };
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Where `--kernel` says.
pub(crate) fn places(text: &str) -> Result<Vec<Place>> {
    match text {
        "host" => Ok(vec![Place::Host]),
        "all" => Ok(std::iter::once(Place::Host)
            .chain(Kernel::ALL.map(Place::Vm))
            .collect()),
        name => match Kernel::from_str(name, true) {
            Ok(kernel) => Ok(vec![Place::Vm(kernel)]),
            Err(_) => bail!("there is no kernel `{name}`: use host, all, 5.10, 6.1, 6.12 or 7.2"),
        },
    }
}

/// Builds the harness and the agent; `agent` is `None` for no agent, `Some(None)` for this checkout's.
pub(crate) fn programs(agent: Option<Option<&Path>>, target: Target) -> Result<Programs> {
    let envoy = setup::need(Component::Envoy)
        .inspect_err(|error| eprintln!("scenarios that need Envoy are skipped: {error:#}"))
        .ok();
    let mut wanted = vec![Program::Tests];
    if agent == Some(None) {
        build::ebpf()?;
        wanted.push(Program::Agent);
    }
    let (profile, linkage) = match target {
        Target::Host => (Profile::Dev, Linkage::Dynamic),
        Target::Machine => (Profile::Release, Linkage::Static),
    };
    let built = build::programs(&wanted, profile, linkage)?;
    let harness = built
        .first()
        .cloned()
        .context("the harness was not built")?;
    let agent = match agent {
        None => None,
        Some(Some(path)) => Some(path.to_path_buf()),
        Some(None) => built.get(1).cloned(),
    };
    Ok(Programs {
        harness,
        agent,
        envoy,
    })
}

fn only_harness() -> Result<PathBuf> {
    build::programs(&[Program::Tests], Profile::Dev, Linkage::Dynamic)?
        .pop()
        .context("the harness was not built")
}

fn folder() -> PathBuf {
    paths::workspace().join("tests").join("scenarios")
}

fn on_host(options: &RunOptions, programs: &Programs) -> Result<bool> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "scenarios on this machine make network namespaces and load probes: run as root, or use --kernel 6.12"
    );
    setup::need(Component::HostTools)?;
    let files: Vec<OsString> = options.file.iter().map(OsString::from).collect();
    let mut command = Command::new(&programs.harness);
    command.args(arguments(options, "host", &folder(), &files));
    if let Some(agent) = &programs.agent {
        command.arg("--agent").arg(agent);
    }
    if let Some(envoy) = &programs.envoy {
        command.arg("--envoy").arg(envoy);
    }
    command.args(["--jobs", &options.jobs.unwrap_or(12).to_string()]);
    if options.keep {
        command.arg("--keep");
    }
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", process::line(&command)))?;
    Ok(status.success())
}

fn in_machine(options: &RunOptions, programs: &Programs, kernel: Kernel) -> Result<bool> {
    let in_guest = |path: &PathBuf, index: usize| {
        let name = path.file_name().map(OsString::from).unwrap_or_default();
        Path::new("/root/files").join(index.to_string()).join(name)
    };
    let files: Vec<(PathBuf, PathBuf)> = options
        .file
        .iter()
        .enumerate()
        .map(|(index, path)| (path.clone(), in_guest(path, index)))
        .collect();
    let names: Vec<OsString> = files
        .iter()
        .map(|(_, guest)| OsString::from(guest))
        .collect();
    let mut command = vec!["/usr/local/bin/sidestep-tests".to_owned()];
    for argument in arguments(
        options,
        &kernel.to_string(),
        Path::new(GUEST_SCENARIOS),
        &names,
    ) {
        command.push(argument.to_string_lossy().into_owned());
    }
    command.extend(["--jobs".to_owned(), options.jobs.unwrap_or(8).to_string()]);
    let mut guest = machine(kernel, command, programs);
    guest.files.extend(files);
    guest.files.push((folder(), GUEST_SCENARIOS.into()));
    guest.timeout = Duration::from_mins(60);
    // The guest's clock counts instructions: seconds mean the same on every computer, loaded or not, and waiting for
    // silence takes no time at all.
    guest.icount = true;
    guest.smp = 1;
    let outcome = guest.run(&mut |line| pass_on(line, options.json))?;
    Ok(outcome.code == 0)
}

/// A machine with everything the harness needs; its command ends with the options for agent and Envoy.
pub(crate) fn machine(kernel: Kernel, command: Vec<String>, programs: &Programs) -> Guest {
    let mut guest = Guest::new(kernel, command);
    guest.modules.push("bridge".to_owned());
    guest.mem_mib = 3072;
    guest.files.push((
        programs.harness.clone(),
        "/usr/local/bin/sidestep-tests".into(),
    ));
    if let Some(agent) = &programs.agent {
        guest
            .files
            .push((agent.clone(), "/usr/local/bin/sidestep".into()));
        guest
            .command
            .extend(["--agent", "/usr/local/bin/sidestep"].map(str::to_owned));
    }
    if let Some(envoy) = &programs.envoy {
        guest.files.push((envoy.clone(), GUEST_ENVOY.into()));
        guest
            .command
            .extend(["--envoy", GUEST_ENVOY].map(str::to_owned));
    }
    guest
}

/// In a machine, results and messages come on one line: in JSON mode only the objects are results.
fn pass_on(line: &str, json: bool) {
    if json && !line.starts_with("{\"scenario\"") {
        eprintln!("{line}");
    } else {
        println!("{line}");
    }
}

fn arguments(options: &RunOptions, kernel: &str, dir: &Path, files: &[OsString]) -> Vec<OsString> {
    let mut all: Vec<OsString> = ["run", "--kernel", kernel].map(OsString::from).to_vec();
    all.extend(["--dir".into(), dir.into()]);
    all.extend(options.names.iter().map(OsString::from));
    for file in files {
        all.extend(["--file".into(), file.clone()]);
    }
    if let Some(tag) = &options.tag {
        all.extend(["--tag".into(), tag.into()]);
    }
    if let Some(again) = options.again {
        all.extend(["--again".into(), again.to_string().into()]);
    }
    if let Some(turn) = options.turn {
        all.extend(["--turn".into(), turn.to_string().into()]);
    }
    for argument in &options.agent_arg {
        all.extend(["--agent-arg".into(), argument.into()]);
    }
    for (on, flag) in [
        (options.all, "--all"),
        (options.json, "--json"),
        (options.no_agent, "--no-agent"),
        (options.all && !options.isolated, "--shared"),
    ] {
        if on {
            all.push(flag.into());
        }
    }
    all
}

/// Runs a command to its end and takes its exit code over.
pub(crate) fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", process::line(command)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn places_are_named() {
        assert_eq!(places("host").unwrap(), [Place::Host]);
        assert_eq!(places("5.10").unwrap(), [Place::Vm(Kernel::V5_10)]);
        assert_eq!(places("all").unwrap().len(), 5);
        assert!(places("4.4").unwrap_err().to_string().contains("7.2"));
    }
}
