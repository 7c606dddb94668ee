//! A long run under load: nothing lost, nothing unattributed, memory flat, and every connection counted.
//!
//! The same small mesh as the measurements', healthy all the time, dialed at a steady rate. Every window the agent is asked
//! what a user would ask; at the end what the client did is compared with what the agent counted.
//!
//! With `--faults` the mesh is not healthy: see `faults.rs` for what happens to it.
//!
//! It must never call a run good that ended early: the minutes asked for are the minutes run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::json;

use crate::actions::Stage;
use crate::agent::{self, Agent, Recipe};
use crate::bench::lab::Lab;
use crate::bench::{median, status_kib};
use crate::faults;
use crate::machine;
use crate::reap::Session;
use crate::world::World;

/// Seconds of load between two looks.
const WINDOW_S: u32 = 10;
/// The last drain comes within a second, the scrape's picture within another; a loaded machine gets more.
const SETTLE: Duration = Duration::from_secs(5);
/// Growth of resident memory from the second minute to the last, in KiB: an allocator's page or two, no leak.
const FLAT_KIB: f64 = 512.0;

/// An app is given so long to start: what happens to younger pods is told later.
const GROWN_UP: Duration = Duration::from_secs(32);

/// How long and how much.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The agent's binary
    #[arg(long, env = "SIDESTEP_AGENT")]
    agent: PathBuf,
    /// Minutes of load
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Connections per second; with faults 10 from each of three pods, unless said otherwise
    #[arg(long)]
    rate: Option<u32>,
    /// Breaks things and mends them, at random
    #[arg(long)]
    faults: bool,
    /// What decides that; printed, so that a run can be had again
    #[arg(long, requires = "faults")]
    seed: Option<u64>,
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
        program: options.agent.canonicalize().context("the agent's path")?,
        args: Vec::new(),
    };
    if options.faults {
        return with_faults(options, &session, &recipe);
    }
    let lab = Lab::new(&session)?;
    let agent = Agent::start(&lab.world, &recipe)?;
    agent.wait_for_pods(&lab.world)?;
    let (made, looks) = load(&lab, &agent, options)?;
    thread::sleep(SETTLE);
    let last = look(&agent, "client")?;
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

/// Things break and are mended; fails also if a fault was missed or late, or anything was found that was none.
fn with_faults(options: &Options, session: &Session, recipe: &Recipe) -> Result<ExitCode> {
    let time = Duration::from_secs(u64::from(options.minutes) * 60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = options.seed.unwrap_or(now.unwrap_or_default().as_secs());
    eprintln!("--seed {seed}");
    // The last fault is mended after the time is over, and its end is waited for under load.
    let seconds = time.as_secs_f64() + 90.0;
    let scenario = faults::world(seconds, f64::from(options.rate.unwrap_or(10)))?;
    let id = session.run_id(0);
    let mut world = World::new(&id, &session.dir.join(&id), None, false)?;
    for pod in &scenario.pod {
        world.add_pod(&scenario, pod)?;
    }
    let mut stage = Stage::new(&scenario, &world, None, &session.stop);
    stage.start_pods()?;
    let agent = Agent::start(&world, recipe)?;
    agent.wait_for_pods(&world)?;
    for action in &scenario.action {
        stage.act(action)?;
    }
    stage.sleep(GROWN_UP);
    let until = Instant::now() + time;
    let done = AtomicBool::new(false);
    let (tally, looks) = thread::scope(|scope| {
        let looks = scope.spawn(|| looks(&agent, &done));
        let tally = faults::run(&mut stage, &agent, seed, until);
        done.store(true, Ordering::Relaxed);
        let looks = looks.join().map_err(|_| anyhow!("the watcher panicked"));
        tally.and_then(|tally| Ok((tally, looks??)))
    })?;
    stage.finish()?;
    thread::sleep(SETTLE);
    let last = look(&agent, "bystander")?;
    let store = stage.running.get("store/web").context("no store")?;
    let served = store.counters()["served"].as_f64().unwrap_or(f64::NAN);
    let growth = growth(looks.get(looks.len() / 3..).unwrap_or_default());
    let good = last.lost == 0.0
        // Others on this machine have namespaces that this agent knows no pod for.
        && (last.unattributed == 0.0 || !machine::is_ours())
        && last.counted == served
        && growth <= FLAT_KIB
        && tally.problems.is_empty();
    println!(
        "{}",
        json!({
            "seed": seed, "minutes": options.minutes, "faults": tally.made, "found_max_s": most(&tally.found),
            "found_median_s": median(&tally.found), "over_max_s": most(&tally.over), "problems": tally.problems,
            "connections": served, "counted": last.counted, "lost": last.lost, "unattributed": last.unattributed,
            "rss_mib": last.rss_kib / 1024.0, "growth_kib": growth, "stalled_s": tally.stalled.as_secs_f64(),
            "pass": good,
        })
    );
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn looks(agent: &Agent, done: &AtomicBool) -> Result<Vec<Look>> {
    let mut all = Vec::new();
    let every = Duration::from_secs(u64::from(WINDOW_S));
    let mut next = Instant::now();
    while !done.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            next += every;
            all.push(look(agent, "bystander")?);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(all)
}

fn most(all: &[f64]) -> f64 {
    all.iter().copied().fold(0.0, f64::max)
}

fn load(lab: &Lab, agent: &Agent, options: &Options) -> Result<(u64, Vec<Look>)> {
    let rate = options.rate.unwrap_or(500);
    let end = Duration::from_secs(u64::from(options.minutes) * 60);
    let (start, mut made, mut looks) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < end {
        let tally = lab.connections(rate * WINDOW_S, f64::from(rate))?;
        made += tally.total();
        let look = look(agent, "client")?;
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

fn look(agent: &Agent, pod: &str) -> Result<Look> {
    let page = agent.get("/metrics")?;
    let sum = |metric: &str, labels: &[&str]| {
        page.lines()
            .filter(|line| line.starts_with(metric) && labels.iter().all(|l| line.contains(l)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    };
    let pod = format!("pod=\"{pod}\"");
    let counted = [
        pod.as_str(),
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
