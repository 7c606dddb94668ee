//! The agent's start on a full node: many pods, each with a mesh's rules for both families in tables of its own.
//!
//! The claims under test: one reading of a pod's tables is cheap, and readings are spread so that the agent never takes
//! more than one processor. Its control group counts whatever it runs, the programs that print rules included.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::{cpu, full_node};
use crate::agent::{Agent, Recipe};
use crate::reap::Session;
use crate::world::World;

/// Between two looks at what the agent has used.
const EVERY: Duration = Duration::from_millis(50);
/// What is called a moment.
const WINDOW: f64 = 1.0;
/// Whoever is not done by then never will be.
const PATIENCE: Duration = Duration::from_mins(5);

/// Processor time used until then, both in seconds.
type Used = (f64, f64);

/// Measures; processors, and milliseconds for a pod.
pub(super) fn measure(session: &Session, recipe: &Recipe, pods: u16) -> Result<Value> {
    let (world, _running) = full_node(session, &text(pods))?;
    let group = world.own_cgroup().join("agent").join("cpu.stat");
    let (done, start) = (AtomicBool::new(false), Instant::now());
    let (read, used) = thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(&group, start, &done));
        let read = until_read(&world, recipe, u64::from(pods), start);
        done.store(true, Ordering::Relaxed);
        let used = sampler
            .join()
            .map_err(|_| anyhow!("the sampler panicked"))?;
        Ok::<_, anyhow::Error>((read?, used))
    })?;
    let (seconds, took_us, reads) = read;
    let total = used.last().map_or(0.0, |(_, used)| *used);
    Ok(json!({
        "pods": pods, "seconds_until_read": seconds, "busiest_second": busiest(&used), "cpu_seconds": total,
        "readings": reads, "reading_ms": took_us / 1e3 / reads.max(1) as f64,
    }))
}

/// Starts the agent and waits until it has read every pod: when, in how much processor time, in how many readings.
fn until_read(
    world: &World,
    recipe: &Recipe,
    pods: u64,
    start: Instant,
) -> Result<(f64, f64, u64)> {
    let agent = Agent::start(world, recipe)?;
    loop {
        let page = agent.coverage()?;
        let rules = &page["kernel"]["rules"];
        let reads = rules["reads"]["complete"].as_u64().unwrap_or(0);
        if reads >= pods {
            let took = rules["took_us"].as_f64().context("no took_us")?;
            return Ok((start.elapsed().as_secs_f64(), took, reads));
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "{reads} of {pods} pods were read: {rules}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn sample(group: &Path, start: Instant, done: &AtomicBool) -> Vec<Used> {
    let mut all = Vec::new();
    while !done.load(Ordering::Relaxed) {
        // The group is not there before the agent is.
        if let Ok(us) = cpu::usage_us(group) {
            all.push((start.elapsed().as_secs_f64(), us as f64 / 1e6));
        }
        thread::sleep(EVERY);
    }
    all
}

/// The most processors that were used over any moment.
fn busiest(used: &[Used]) -> f64 {
    let over = |(index, (from, before)): (usize, &Used)| {
        let later = used.get(index..)?;
        let (to, after) = later.iter().find(|(at, _)| at - from >= WINDOW)?;
        Some((after - before) / (to - from))
    };
    let all = used.iter().enumerate().filter_map(over);
    all.fold(0.0, f64::max)
}

fn text(pods: u16) -> String {
    let mut text =
        "name = \"bench\"\ndescription = \"a full node that starts\"\nbackend = \"nft\"\n"
            .to_owned();
    for index in 0..pods {
        text.push_str(&format!(
            "[[pod]]\nname = \"p{index}\"\nmesh = \"istio\"\nfamilies = [\"ipv4\", \"ipv6\"]\nproxy = {{ kind = \"none\" }}\n"
        ));
    }
    text
}
