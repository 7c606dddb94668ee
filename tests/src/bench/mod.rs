//! What the agent costs and how fast it is: measurements, made in a virtual machine by `cargo xtask bench`.
//!
//! Under instruction counting one guest nanosecond is one instruction on the one CPU, so elapsed time is a count that
//! repeats within a percent, on any machine and under any load around it. Every part prints one JSON object.
//!
//! It must never measure in the same breath what it sets up: each part settles and warms up first.

mod cpu;
mod detect;
pub(crate) mod lab;
mod memory;
mod overhead;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::agent::{self, Recipe};
use crate::process::{self, Running};
use crate::reap::Session;
use crate::spec::Scenario;
use crate::world::World;

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The part
    #[arg(value_enum)]
    part: Part,
    /// The agent's binary
    #[arg(long, env = "SIDESTEP_AGENT")]
    agent: PathBuf,
    /// Repetitions
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Connections per measurement
    #[arg(long, default_value_t = 3000)]
    connections: u32,
    /// Pods (memory, detect, start)
    #[arg(long, default_value_t = 250)]
    pods: u16,
    /// Not used here
    #[arg(long, hide = true)]
    envoy: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Instructions per redirected connection and per MiB: nothing, probes only, agent
    Overhead,
    /// The agent's own CPU time at several connection rates
    Cpu,
    /// Peak memory with many pods and edges
    Memory,
    /// From the first connection to the finding
    Detect,
    /// The agent's start on a full node: processors it takes, and what reading a pod's rules costs
    Start,
}

/// Measures one part and prints it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    agent::check_program(&options.agent)?;
    let session = Session::open(false)?;
    let recipe = Recipe {
        program: options.agent.clone(),
        args: Vec::new(),
    };
    let value = match options.part {
        Part::Overhead => {
            overhead::measure(&session, &recipe, options.rounds, options.connections)?
        }
        Part::Cpu => cpu::measure(&session, &recipe)?,
        Part::Memory => memory::measure(&session, &recipe, options.pods)?,
        Part::Start => start::measure(&session, &recipe, options.pods)?,
        Part::Detect => detect::measure(&session, &recipe, options.pods)?,
    };
    println!("{value}");
    Ok(ExitCode::SUCCESS)
}

pub(crate) use memory::status_kib;

/// The pods of a scenario, as many as fill a node, and the processes that keep their namespaces.
fn full_node(session: &Session, text: &str) -> Result<(World, Vec<Running>)> {
    let id = session.run_id(0);
    let mut world = World::new(&id, &session.dir.join(&id), None, false)?;
    let scenario: Scenario = toml::from_str(text).context("the bench's own world")?;
    let mut running = Vec::new();
    for (index, pod) in scenario.pod.iter().enumerate() {
        world.add_pod(&scenario, pod)?;
        let standing = world.pods.last().context("no pod")?;
        running.push(process::pause(&world, standing)?);
        if index % 50 == 49 {
            eprintln!("{} pods", index + 1);
        }
    }
    Ok((world, running))
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of all values lies (nearest rank).
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // A handful of values: the rank is small and not negative.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among a few values"
    )]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.95), median(&values)), (19.0, 10.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
