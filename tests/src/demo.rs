//! The demo: a scenario with several pods, told as a story.
//!
//! It is the same machinery as every scenario (real namespaces, the mesh's exact rules, a real Envoy per pod, the real
//! agent), so what it shows is what is tested; only the telling differs. The table of findings is printed by
//! `sidestep findings` itself.
//!
//! It must never show anything that the agent did not say.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::actions::Stage;
use crate::agent::{self, Agent, Recipe};
use crate::judge::{self, Seen};
use crate::load::{self, Loaded};
use crate::reap::Session;
use crate::run::{self, Report, Setting};
use crate::suite;
use crate::world::{Net, World};

/// Series shown from `/metrics`, by prefix.
const SERIES: [&str; 2] = ["sidestep_findings{", "sidestep_interception"];
/// Lines shown of each.
const LINES: usize = 6;

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The scenario
    #[arg(long, default_value = "tests/demo/shop.toml")]
    file: PathBuf,
    /// The agent's binary
    #[arg(long, env = "SIDESTEP_AGENT")]
    agent: PathBuf,
    /// Envoy's binary
    #[arg(long, env = "SIDESTEP_ENVOY")]
    envoy: PathBuf,
    /// Name of the kernel in the output
    #[arg(long, default_value = "host")]
    kernel: String,
    /// Keep everything running, with traffic, until it is interrupted
    #[arg(long)]
    keep: bool,
}

/// Tells the story; success only if the agent found exactly what is wrong.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads probes: run as root"
    );
    agent::check_program(&options.agent)?;
    let loaded = load::file(&options.file)?
        .into_iter()
        .next()
        .context("the file holds no scenario")?;
    let session = Session::open(false)?;
    let program = options.agent.canonicalize().context("the agent's path")?;
    let setting = Setting {
        agent: Some(Recipe {
            program,
            args: Vec::new(),
        }),
        shared: None,
        envoy: suite::reachable(Some(&options.envoy), &session)?,
        kernel: options.kernel.clone(),
        base: session.dir.clone(),
        keep: false,
        kprobes: run::has_kprobes(),
    };
    let report = tell(options, &setting, &loaded, &session)?;
    Ok(if report.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(
    options: &Options,
    setting: &Setting,
    loaded: &Loaded,
    session: &Session,
) -> Result<Report> {
    let id = session.run_id(0);
    let scenario = &loaded.in_subnet(&Net::of(&id).prefix())?;
    let clock = Instant::now();
    let step = |what: &str, text: &str| {
        println!("{:>5.1} s  {what:<8} {text}", clock.elapsed().as_secs_f64());
        // A closed terminal is no reason to leave pods behind.
        let _ = std::io::stdout().flush();
    };
    println!("{}\n", scenario.description);
    let mut world = World::new(&id, &setting.base.join(&id), None, false)?;
    for pod in &scenario.pod {
        world.add_pod(scenario, pod)?;
        let note = pod.note.as_deref().unwrap_or_default();
        step("pod", &format!("{:<10} {note}", pod.name));
    }
    let mut stage = Stage::new(scenario, &world, setting.envoy.as_deref(), &session.stop);
    stage.start_pods()?;
    step(
        "running",
        &format!(
            "{} pods: apps, sidecars (Envoy), Istio's rules in each namespace",
            world.pods.len()
        ),
    );
    let recipe = setting.agent.as_ref().context("no agent")?;
    let agent = Agent::start_well_known(&world, recipe)?;
    agent.wait_for_pods(&world)?;
    step(
        "agent",
        &format!(
            "`sidestep agent` watches all of them, its API is {}",
            agent.url()
        ),
    );
    step(
        "traffic",
        "everybody calls somebody, a few connections per second",
    );
    let mut report = Report::new(setting, loaded);
    let mut seen = Seen::default();
    run::act_and_watch(&mut stage, Some(&agent), &mut seen)?;
    run::watch(&stage, &agent, &mut seen)?;
    agent.check_alive()?;
    judge::judge(&stage, &seen, setting.kprobes, &mut report);
    tell_sightings(&stage, &seen);
    show(recipe, &agent)?;
    tell_result(scenario.expect.len(), &report);
    if options.keep {
        keep(&mut stage, &agent, session)?;
    }
    Ok(report)
}

/// When each finding was first seen, in the order of sight.
fn tell_sightings(stage: &Stage<'_>, seen: &Seen) {
    let Some(start) = stage.affected else { return };
    println!("\nafter the first connection:");
    for (at, finding) in &seen.all {
        let who = finding
            .pod
            .as_ref()
            .map_or("the agent itself", |pod| &pod.name);
        let seconds = at.saturating_duration_since(start).as_secs_f64();
        println!("{seconds:>5.1} s  found    {:<22} {who}", finding.code);
    }
}

/// What a user would type next, and what they would see.
fn show(recipe: &Recipe, agent: &Agent) -> Result<()> {
    println!("\n$ sidestep findings");
    let status = Command::new(&recipe.program)
        .args(["findings", "--agent", agent.url()])
        .status()
        .context("cannot run `sidestep findings`")?;
    ensure!(status.success(), "`sidestep findings` failed: {status}");
    println!("\n$ curl {}/metrics", agent.url());
    let metrics = agent.get("/metrics")?;
    for prefix in SERIES {
        let lines: Vec<&str> = metrics
            .lines()
            .filter(|line| line.starts_with(prefix))
            .collect();
        for line in lines.iter().take(LINES) {
            println!("{line}");
        }
        if lines.len() > LINES {
            println!(
                "… and {} more of {}",
                lines.len() - LINES,
                prefix.trim_end_matches('{')
            );
        }
    }
    let all = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    println!("({all} series in all; docs/metrics.md explains them)");
    Ok(())
}

fn tell_result(expected: usize, report: &Report) {
    if report.problems.is_empty() {
        println!(
            "\n{expected} broken pods, {expected} found, nothing said about the healthy ones."
        );
        println!("`sidestep explain CODE` tells more about a finding.");
        return;
    }
    println!("\nThe agent was wrong here:");
    for problem in &report.problems {
        println!("  {problem}");
    }
}

fn keep(stage: &mut Stage<'_>, agent: &Agent, session: &Session) -> Result<()> {
    println!(
        "\nEverything keeps running; `sidestep findings --agent {}` asks it. Ctrl-C ends it.",
        agent.url()
    );
    if !std::io::stdout().is_terminal() {
        println!("(or kill -INT {})", std::process::id());
    }
    while !session.stop.load(Ordering::Relaxed) {
        let mut seen = Seen::default();
        // The end is asked for by a signal, which ends the actions, too.
        let acted = run::act_and_watch(stage, Some(agent), &mut seen);
        if !session.stop.load(Ordering::Relaxed) {
            acted?;
        }
    }
    Ok(())
}
