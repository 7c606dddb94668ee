//! Scenario harness: real namespaces, real rules, real proxies, and the one right answer.
//!
//! One binary does everything, on this machine and inside virtual machines: it reads scenarios, builds their world,
//! plays every process in it, starts the agent and compares what it says with what is right. `cargo xtask scenario` is
//! the comfortable way to run it; docs/scenarios.md describes the files.
//!
//! It must never be part of the product: nothing in the agent depends on it.

mod actions;
mod actor;
mod agent;
mod bench;
mod cgroup;
mod command;
mod demo;
mod envoy;
mod faults;
mod hook;
mod judge;
mod listing;
mod load;
mod machine;
mod manifest;
mod place;
mod process;
mod reap;
mod rules;
mod run;
mod sidecar;
mod soak;
mod spec;
mod suite;
mod template;
mod turns;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "sidestep-tests", about = "Runs scenarios against the agent")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios
    Run(suite::Options),
    /// List scenarios
    List(listing::Options),
    /// Show what the agent does on a small mesh
    Demo(demo::Options),
    /// Measure the agent
    Bench(bench::Options),
    /// Run the agent under load for a long time
    Soak(soak::Options),
    /// One process of a pod (used by the harness itself)
    #[command(hide = true)]
    Actor(actor::Options),
    /// Cleans up after a harness that was killed (used by the harness itself)
    #[command(hide = true)]
    Reap(reap::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => suite::run(&options),
        Command::List(options) => listing::list(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Actor(options) => actor::run(&options),
        Command::Reap(options) => reap::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
