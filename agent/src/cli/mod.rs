//! EDGE: the command line, for people and their scripts.
//!
//! One file per subcommand. The reading commands talk to a running agent over its JSON API
//! and know nothing else about it. Printing to stdout is allowed here and nowhere else, and
//! goes through one function, so that a closed pipe (`| head`) ends a command quietly.

pub mod agent;
mod client;
pub mod cluster;
mod completions;
pub mod exit;
mod explain;
mod findings;
pub mod kubectl;
mod live_rules;
mod pod_name;
mod pods;
pub mod port;
pub mod profiles;
mod replay;
mod report;
pub mod rules;
mod text;
mod why;

use clap::{Parser, Subcommand};

pub use agent::AgentOptions;
pub use exit::{Exit, Fault};

use crate::output::log;

/// Shows, for every pod, whether its traffic really goes through the service-mesh sidecar,
/// and where connections fail or hang.
#[derive(Debug, Parser)]
#[command(name = "sidestep", version, after_long_help = exit::table(), propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this node: load the probes, judge connections, serve metrics and JSON.
    ///
    /// Needs a kernel with BTF, and root or the capabilities CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW,
    /// CAP_SYS_ADMIN and CAP_SYS_PTRACE.
    Agent(Box<AgentOptions>),
    /// Show what is wrong, with evidence and what to do about it.
    Findings(findings::Options),
    /// Show every pod: its mesh, what should be captured, and what was.
    Pods(pods::Options),
    /// Explain one connection of a pod: what its spec wants, what the live rules do, and what was seen.
    Why(why::Options),
    /// Show the live netfilter rules of a pod, with those marked that take its connections.
    Rules(live_rules::Options),
    /// Tell what a finding's code means and what to do about it.
    Explain(explain::Options),
    /// Run a recording (`sidestep agent --record FILE`) through the engine and show what it finds.
    Replay(replay::Options),
    /// Ask all agents of a cluster through its API server; as `kubectl-sidestep` this is `kubectl sidestep`.
    Kubectl(kubectl::Options),
    /// Print the completions of a shell.
    Completions(completions::Options),
}

/// Runs a command; `run_agent` is the composition root, which this module does not know.
///
/// # Errors
/// The command failed; [`Exit::of`] has its exit code.
pub fn run(
    cli: Cli,
    run_agent: impl FnOnce(AgentOptions) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Agent(options) => {
            log::init(options.log_format, &options.log)?;
            run_agent(*options).map(|()| Exit::Ok)
        }
        Command::Findings(options) => findings::run(&options),
        Command::Pods(options) => pods::run(&options),
        Command::Why(options) => why::run(&options),
        Command::Rules(options) => live_rules::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Kubectl(options) => kubectl::run(&options),
        Command::Completions(options) => completions::run(&options),
    }
}

#[cfg(test)]
mod tests;
