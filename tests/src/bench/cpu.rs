//! The agent's own CPU time while healthy connections pass at several rates.
//!
//! The claim under test: its cost follows the number of distinct edges and not the number of connections. Where the time
//! goes is told by thread; what threads took that have ended, and programs the agent ran, is what remains.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use super::lab::Lab;
use crate::agent::{Agent, Recipe};
use crate::reap::Session;
use crate::world::World;

const RATES: [u32; 3] = [500, 1000, 2000];
/// Seconds of traffic before the agent's time is taken, and while it is.
const LEAD: u32 = 2;
const WINDOW: u32 = 10;

/// Measures; milliseconds of CPU per second at each rate.
pub(super) fn measure(session: &Session, recipe: &Recipe) -> Result<Value> {
    let lab = Lab::new(session)?;
    let agent = Agent::start(&lab.world, recipe)?;
    thread::sleep(Duration::from_secs(3));
    lab.connections(100, 100.0)?;
    let mut rows = Vec::new();
    for rate in RATES {
        rows.push(at(&lab, agent.pid(), rate)?);
        eprintln!(
            "{rate} connections/s: {}",
            rows.last().unwrap_or(&Value::Null)
        );
    }
    let cpu = |index: usize| {
        rows.get(index)
            .and_then(|row| row["agent_ms_per_s"].as_f64())
            .unwrap_or(f64::NAN)
    };
    Ok(json!({"rates": rows, "ratio_2000_vs_500": cpu(2) / cpu(0)}))
}

fn at(lab: &Lab, agent: u32, rate: u32) -> Result<Value> {
    let count = rate * (LEAD + WINDOW + 1);
    thread::scope(|scope| {
        let client = scope.spawn(|| lab.connections(count, f64::from(rate)));
        thread::sleep(Duration::from_secs(LEAD.into()));
        let (before, threads, start) = (cpu_us(&lab.world)?, threads_us(agent)?, Instant::now());
        thread::sleep(Duration::from_secs(WINDOW.into()));
        let (after, elapsed) = (cpu_us(&lab.world)?, start.elapsed().as_secs_f64());
        let per_second = |us: f64| us / 1e3 / elapsed;
        let threads: BTreeMap<String, f64> = threads_us(agent)?
            .into_iter()
            .map(|(name, us)| (us - threads.get(&name).unwrap_or(&0.0), name))
            .map(|(us, name)| (name, per_second(us)))
            .collect();
        let tally = client
            .join()
            .map_err(|_| anyhow!("the client panicked"))??;
        let reached = tally.total() as f64 / (tally.elapsed_ns as f64 / 1e9);
        Ok(json!({
            "rate": rate, "reached": reached,
            "agent_ms_per_s": per_second(after.saturating_sub(before) as f64), "threads_ms_per_s": threads,
        }))
    })
}

/// CPU time of the agent's cgroup: its threads, those that have ended, and whatever it runs.
pub(super) fn cpu_us(world: &World) -> Result<u64> {
    usage_us(&world.own_cgroup().join("agent").join("cpu.stat"))
}

/// CPU time of a cgroup.
pub(super) fn usage_us(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
        .with_context(|| format!("no usage_usec in {}", path.display()))
}

/// CPU time of the agent's threads there are, by name.
fn threads_us(agent: u32) -> Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{agent}/task")).context("the agent's threads")? {
        let path = entry?.path();
        // One that ends meanwhile is no thread of interest.
        let read = |file: &str| fs::read_to_string(path.join(file)).ok();
        let (Some(name), Some(stat)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let ns: f64 = stat
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .unwrap_or(0.0);
        *threads.entry(name.trim().to_owned()).or_insert(0.0) += ns / 1e3;
    }
    Ok(threads)
}
