//! One scenario from nothing to nothing: world, agent, actions, judgement, clean-up.
//!
//! Expected findings must turn up in time, and then a window of silence shows that nothing else does: for every pod
//! of the scenario and for the agent itself, a code that is neither expected nor allowed fails the run, even if it was
//! seen only once in passing. Findings about pods of other runs on the same machine are not ours to judge.
//!
//! It must never pass a scenario whose world did not do what its text says.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Serialize;

use crate::actions::{self, Stage};
use crate::agent::{Agent, Recipe};
use crate::cgroup;
use crate::judge::{Seen, attached, codes, fact, judge, steady};
use crate::load::Loaded;
use crate::machine;
use crate::spec::{AgentStart, Requirement, Scenario};
use crate::world::{self, Net, World};

/// Between two looks at the findings.
const POLL: Duration = Duration::from_millis(200);

/// What a run needs from outside the scenario.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The agent; none to build the world and act without one.
    pub(crate) agent: Option<Recipe>,
    /// An agent that several runs share; each starts its own if there is none.
    pub(crate) shared: Option<Shared>,
    /// Envoy, if there is one.
    pub(crate) envoy: Option<PathBuf>,
    /// Name of the kernel in the output.
    pub(crate) kernel: String,
    /// Parent of the runs' folders.
    pub(crate) base: PathBuf,
    /// Leave everything standing.
    pub(crate) keep: bool,
    /// Kernel functions can be probed here.
    pub(crate) kprobes: bool,
}

/// An agent for several runs at once.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The agent.
    pub(crate) agent: Arc<Agent>,
    /// Its folder of manifests.
    pub(crate) manifests: PathBuf,
}

/// How one scenario went, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Name with its combination.
    pub(crate) scenario: String,
    /// Kernel.
    pub(crate) kernel: String,
    /// Codes that must be there.
    pub(crate) expected: Vec<String>,
    /// Codes of those that were.
    pub(crate) found: Vec<String>,
    /// Codes that must not be there and were.
    pub(crate) unexpected: Vec<String>,
    /// From the first affected connection to the last expected finding.
    pub(crate) seconds_to_detect: Option<f64>,
    /// All is right.
    pub(crate) pass: bool,
    /// How long it took, clean-up and all.
    #[serde(skip)]
    pub(crate) took: Duration,
    /// What went wrong, for people.
    #[serde(skip)]
    pub(crate) problems: Vec<String>,
    /// Everything that helps to understand a failure.
    #[serde(skip)]
    pub(crate) details: String,
}

impl Report {
    /// Nothing is known yet.
    pub(crate) fn new(setting: &Setting, loaded: &Loaded) -> Self {
        Self {
            scenario: loaded.id.clone(),
            kernel: setting.kernel.clone(),
            expected: codes(loaded.scenario.expect.iter().map(|expect| &expect.code)),
            found: Vec::new(),
            unexpected: Vec::new(),
            seconds_to_detect: None,
            pass: false,
            took: Duration::ZERO,
            problems: Vec::new(),
            details: String::new(),
        }
    }
}

/// Why a scenario is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// This kernel cannot decide it; others do.
    NotHere(String),
    /// Something is not installed.
    Missing(String),
}

/// Whether this kernel lets programs attach to its functions.
pub(crate) fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

/// Whether the kernel is of this version at least.
fn is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Whether the scenario can be run at all.
pub(crate) fn skip(setting: &Setting, scenario: &Scenario) -> Option<Skip> {
    scenario
        .requires
        .iter()
        .find_map(|requirement| match requirement {
            Requirement::Kprobes if !setting.kprobes => Some(Skip::NotHere(
                "this kernel has no kprobes, and tracepoints alone cannot decide it".to_owned(),
            )),
            Requirement::Registers if !is_at_least(5, 15) => Some(Skip::NotHere(
                "before Linux 5.15 no program can read what a system call was given".to_owned(),
            )),
            Requirement::Direct if !is_at_least(5, 12) => Some(Skip::NotHere(
                "before Linux 5.12 no program can compare and swap".to_owned(),
            )),
            Requirement::Envoy if setting.envoy.is_none() => Some(Skip::Missing(
                "Envoy is missing: run `cargo xtask setup`, or give --envoy PATH".to_owned(),
            )),
            Requirement::Cpu if cgroup::CPU.root().is_none() => Some(Skip::NotHere(
                "no cgroup hierarchy limits CPU time here".to_owned(),
            )),
            Requirement::Memory if cgroup::MEMORY.root().is_none() => Some(Skip::NotHere(
                "no cgroup hierarchy limits memory here".to_owned(),
            )),
            Requirement::Vm if !machine::is_ours() => Some(Skip::NotHere(
                "it changes what belongs to the whole machine: run it with --kernel".to_owned(),
            )),
            _ => None,
        })
}

/// Runs one scenario.
pub(crate) fn run(setting: &Setting, loaded: &Loaded, id: &str, stop: &AtomicBool) -> Report {
    let mut report = Report::new(setting, loaded);
    let dir = actions::run_dir(&setting.base, id);
    let begun = Instant::now();
    let played = loaded
        .in_subnet(&Net::of(id).prefix())
        .and_then(|scenario| play(setting, &scenario, id, &dir, stop, &mut report));
    if let Err(error) = played {
        report.problems.push(format!("{error:#}"));
    }
    if !setting.keep {
        report.problems.extend(
            world::leftovers(id)
                .into_iter()
                .map(|what| format!("left behind: {what}")),
        );
        let _ = std::fs::remove_dir_all(&dir);
    }
    report.took = begun.elapsed();
    report.pass = report.problems.is_empty();
    report
}

fn play(
    setting: &Setting,
    scenario: &Scenario,
    id: &str,
    dir: &Path,
    stop: &AtomicBool,
    report: &mut Report,
) -> Result<()> {
    let _changed = machine::change(&scenario.machine)?;
    let shared = setting.shared.as_ref();
    let manifests = shared.map(|shared| shared.manifests.as_path());
    let mut world = World::new(id, dir, manifests, setting.keep)?;
    let first = scenario.agent == AgentStart::First;
    let mut agent = shared.map(|shared| Arc::clone(&shared.agent));
    if first && agent.is_none() {
        agent = start_agent(setting, &world)?;
    }
    world.set_up_node(scenario)?;
    for pod in &scenario.pod {
        world
            .add_pod(scenario, pod)
            .with_context(|| format!("pod `{}`", pod.name))?;
    }
    let mut stage = Stage::new(scenario, &world, setting.envoy.as_deref(), stop);
    stage.start_pods()?;
    if agent.is_none() {
        agent = start_agent(setting, &world)?;
    }
    let mut seen = Seen::default();
    let outcome = observe(
        &mut stage,
        agent.as_deref(),
        &mut seen,
        setting.kprobes,
        report,
    );
    if outcome.is_err() || !report.problems.is_empty() {
        report.details = details(&stage, agent.as_deref(), &seen);
    }
    outcome
}

fn start_agent(setting: &Setting, world: &World) -> Result<Option<Arc<Agent>>> {
    let recipe = setting.agent.as_ref();
    recipe
        .map(|recipe| Agent::start(world, recipe).map(Arc::new))
        .transpose()
}

/// Acts, watches, judges.
fn observe(
    stage: &mut Stage<'_>,
    agent: Option<&Agent>,
    seen: &mut Seen,
    kprobes: bool,
    report: &mut Report,
) -> Result<()> {
    let scenario = stage.scenario;
    if let Some(agent) = agent {
        agent.wait_for_pods(stage.world)?;
        attached(agent, &scenario.signals)?;
    }
    let acted = act_and_watch(stage, agent, seen);
    if let Some(agent) = agent {
        agent.check_alive()?;
        if acted.is_ok() {
            watch(stage, agent, seen)?;
            agent.check_alive()?;
        }
        judge(stage, seen, kprobes, report);
        steady(agent, seen, report)?;
    }
    acted?;
    for check in &scenario.check {
        if let Err(error) = fact(stage, check) {
            report.problems.push(format!("{error:#}"));
        }
    }
    Ok(())
}

/// Does all actions while another thread looks at the findings.
pub(crate) fn act_and_watch(
    stage: &mut Stage<'_>,
    agent: Option<&Agent>,
    seen: &mut Seen,
) -> Result<()> {
    let done = AtomicBool::new(false);
    let world = stage.world;
    std::thread::scope(|scope| {
        let watcher = agent.map(|agent| {
            let done = &done;
            scope.spawn(move || {
                let mut seen = Seen::default();
                while !done.load(Ordering::Relaxed) {
                    // An answer that fails now is asked for again after the actions.
                    let _ = seen.look(agent, world);
                    std::thread::sleep(POLL);
                }
                seen
            })
        });
        let scenario = stage.scenario;
        let acted = scenario
            .action
            .iter()
            .enumerate()
            .try_for_each(|(index, action)| {
                stage
                    .act(action)
                    .with_context(|| format!("[[action]] number {}", index + 1))
            });
        let acted = acted.and_then(|()| stage.finish());
        done.store(true, Ordering::Relaxed);
        if let Some(watcher) = watcher {
            *seen = watcher
                .join()
                .map_err(|_| anyhow!("the watcher panicked"))?;
        }
        acted
    })
}

/// Waits for what is expected, then for silence.
pub(crate) fn watch(stage: &Stage<'_>, agent: &Agent, seen: &mut Seen) -> Result<()> {
    let scenario = stage.scenario;
    let start = stage.affected.unwrap_or_else(Instant::now);
    let limit = start + Duration::from_secs_f64(scenario.detect_within);
    while !seen.complete(scenario) && Instant::now() < limit {
        seen.look(agent, stage.world)?;
        stage.sleep(POLL);
    }
    let end = Instant::now() + Duration::from_secs_f64(scenario.silence);
    while Instant::now() < end {
        ensure!(!stage.stop.load(Ordering::Relaxed), "interrupted");
        seen.look(agent, stage.world)?;
        stage.sleep(POLL);
    }
    seen.look_at_all(agent, stage.world)
}

fn details(stage: &Stage<'_>, agent: Option<&Agent>, seen: &Seen) -> String {
    let mut text = String::new();
    for pod in &stage.world.pods {
        let _ = writeln!(
            text,
            "pod {}: {:?}, uid {}, {}",
            pod.spec.name,
            pod.addresses,
            pod.uid,
            pod.netns.display()
        );
    }
    for (_, finding) in &seen.all {
        let _ = writeln!(
            text,
            "finding {}",
            serde_json::to_string_pretty(finding).unwrap_or_default()
        );
    }
    if let Some(agent) = agent {
        for path in ["/v1/edges?limit=100", "/v1/pods?limit=20", "/v1/coverage"] {
            let answer = agent.get(path).unwrap_or_else(|error| format!("{error:#}"));
            let _ = writeln!(text, "{path}: {answer}");
        }
        let _ = writeln!(text, "the agent's log:\n{}", agent.log_tail(20));
    }
    for running in stage.running.values() {
        let _ = writeln!(
            text,
            "{}: counters {}; log: {}",
            running.name,
            running.counters(),
            running.log_tail(3)
        );
    }
    text
}
