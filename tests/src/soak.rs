//! A long run under load: nothing lost, nothing unattributed, memory flat, and every connection counted.
//!
//! The same small mesh as the measurements', healthy all the time, dialed at a steady rate. Every window the agent is asked
//! what a user would ask; at the end what the client did is compared with what the agent counted.
//!
//! It must never call a run good that ended early: the minutes asked for are the minutes run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::agent::{self, Agent, Recipe};
use crate::bench::lab::Lab;
use crate::bench::{median, status_kib};
use crate::reap::Session;

/// Seconds of load between two looks.
const WINDOW_S: u32 = 10;
/// The last drain comes within a second, the scrape's picture within another; a loaded machine gets more.
const SETTLE: Duration = Duration::from_secs(5);
/// Growth of resident memory from the second minute to the last, in KiB: an allocator's page or two, no leak.
const FLAT_KIB: f64 = 512.0;

/// How long and how much.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The agent's binary
    #[arg(long, env = "SIDESTEP_AGENT")]
    agent: PathBuf,
    /// Minutes of load
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Connections per second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Not used here
    #[arg(long, hide = true)]
    envoy: Option<PathBuf>,
}

/// One look at the agent.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    rss_kib: f64,
    lost: f64,
    unattributed: f64,
    counted: f64,
}

/// Runs it and prints one JSON object; fails if anything was lost, unattributed, miscounted, found, or grew.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    agent::check_program(&options.agent)?;
    let session = Session::open(false)?;
    let recipe = Recipe {
        program: options.agent.clone(),
        args: Vec::new(),
    };
    let lab = Lab::new(&session)?;
    let agent = Agent::start(&lab.world, &recipe)?;
    agent.wait_for_pods(&lab.world)?;
    let (made, looks) = load(&lab, &agent, options)?;
    thread::sleep(SETTLE);
    let last = look(&agent)?;
    let growth = growth(&looks);
    let findings: Vec<String> = agent
        .findings(lab.world.namespace())?
        .into_iter()
        .map(|f| f.code)
        .collect();
    let good = last.lost == 0.0
        && last.unattributed == 0.0
        && last.counted == made as f64
        && growth <= FLAT_KIB
        && findings.is_empty();
    println!(
        "{}",
        json!({
            "minutes": options.minutes, "connections": made, "counted": last.counted, "lost": last.lost,
            "unattributed": last.unattributed, "findings": findings, "rss_mib": last.rss_kib / 1024.0,
            "growth_kib": growth, "pass": good,
        })
    );
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn load(lab: &Lab, agent: &Agent, options: &Options) -> Result<(u64, Vec<Look>)> {
    let end = Duration::from_secs(u64::from(options.minutes) * 60);
    let (start, mut made, mut looks) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < end {
        let tally = lab.connections(options.rate * WINDOW_S, f64::from(options.rate))?;
        made += tally.total();
        let look = look(agent)?;
        eprintln!(
            "{:>4.0} s: {made} connections, {:.1} MiB, lost {}, unattributed {}",
            start.elapsed().as_secs_f64(),
            look.rss_kib / 1024.0,
            look.lost,
            look.unattributed
        );
        looks.push(look);
    }
    Ok((made, looks))
}

fn look(agent: &Agent) -> Result<Look> {
    let page = agent.get("/metrics")?;
    let sum = |metric: &str, labels: &[&str]| {
        page.lines()
            .filter(|line| line.starts_with(metric) && labels.iter().all(|l| line.contains(l)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    };
    let counted = [
        "pod=\"client\"",
        "leg=\"app_to_proxy\"",
        "result=\"established\"",
    ];
    Ok(Look {
        rss_kib: status_kib(agent.pid(), "VmRSS:")? as f64,
        lost: sum("sidestep_agent_lost_total{", &[]),
        unattributed: sum("sidestep_unattributed_connections_total{", &[]),
        counted: sum("sidestep_connections_total{", &counted),
    })
}

/// From the second minute's middle value to that of the last minute.
fn growth(looks: &[Look]) -> f64 {
    let minute = (60 / WINDOW_S) as usize;
    let rss: Vec<f64> = looks.iter().map(|look| look.rss_kib).collect();
    let middle = |part: Option<&[f64]>| part.map_or(f64::NAN, median);
    middle(rss.rchunks(minute).next()) - middle(rss.chunks(minute).nth(1))
}
