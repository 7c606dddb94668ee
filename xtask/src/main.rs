//! Everything a developer of Sidestep runs: one file per command, each with its `Options` and its `run`.
//!
//! A crate and not scripts: the compiler checks it, and each command fetches what it needs through [`setup::need`]. It must
//! never write outside `target/` and the cache folder, apart from packages of the host that it names first.

mod bench;
mod build;
mod cache;
mod cluster;
mod demo;
mod differential;
mod fuzz;
mod image;
mod lint;
mod manifests;
mod monitors;
mod paths;
mod process;
mod scenario;
mod setup;
mod soak;
mod stamp;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Build, check and try Sidestep")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what the other commands need
    Setup(setup::Options),
    /// Build the probes and the agent
    Build(build::Options),
    /// Check everything about the sources that a machine can check
    Lint(lint::Options),
    /// Run every test, on this machine and on every kernel of the matrix
    Test(test::Options),
    /// Boot a kernel of the test matrix and run a command in it
    Vm(vm::Options),
    /// Write the agent's container image
    Image(image::Options),
    /// Render the plain manifests from the chart
    Manifests(manifests::Options),
    /// A real one-node Kubernetes cluster to try and test on
    Cluster(cluster::Options),
    /// Show what Sidestep finds on a small mesh
    Demo(demo::Options),
    /// Measure what the agent costs and how fast it is
    Bench(bench::Options),
    /// Give the parsers inputs that nobody would write
    Fuzz(fuzz::Options),
    /// Run the agent under load for a long time
    Soak(soak::Options),
    /// Compare the evaluation of random rules with what the kernel does
    Differential(differential::Options),
    /// Run scenarios: a small world, the agent, and the one right answer
    Scenario(scenario::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Image(options) => image::run(&options),
        Command::Manifests(options) => manifests::run(&options),
        Command::Cluster(options) => cluster::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Differential(options) => differential::run(&options),
        Command::Scenario(options) => scenario::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
