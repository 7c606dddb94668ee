//! Many scenarios: selection, running some at a time, one line for each, and the sum.
//!
//! Most of a scenario is waiting for silence, so several run at once, each with its own agent, namespaces and names.
//! What cannot run is said loudly; where `CI` is set, something that is not installed is a failure.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::agent::{self, Agent, Recipe};
use crate::load::{self, Loaded};
use crate::machine;
use crate::reap::{HUB, Session};
use crate::run::{self, Report, Setting, Shared, Skip};
use crate::turns;
use crate::world::World;

/// Which scenarios, and what they need.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Names (`NAME`, or `NAME/legacy/ipv4` for one combination)
    names: Vec<String>,
    /// All of the folder
    #[arg(long)]
    all: bool,
    /// A file in place of the folder
    #[arg(long)]
    file: Vec<PathBuf>,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Folder of scenarios
    #[arg(long, default_value = "tests/scenarios")]
    dir: PathBuf,
    /// The agent's binary
    #[arg(long, env = "SIDESTEP_AGENT")]
    agent: Option<PathBuf>,
    /// Build the world and act, without an agent
    #[arg(long)]
    no_agent: bool,
    /// One more argument for the agent
    #[arg(long, allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Envoy's binary
    #[arg(long, env = "SIDESTEP_ENVOY")]
    envoy: Option<PathBuf>,
    /// Name of the kernel in the output
    #[arg(long, default_value = "host")]
    kernel: String,
    /// One JSON object per scenario and nothing else on stdout
    #[arg(long)]
    json: bool,
    /// How many run at once
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Of each scenario's combinations only those whose turn it is in this place, 0 to 3
    #[arg(long, value_name = "PLACE")]
    turn: Option<usize>,
    /// One agent for all of them, as on a node, and not one for each
    #[arg(long)]
    shared: bool,
    /// If no more than so many fail, they run once more, one at a time; what passes then is
    /// counted as flaky and told
    #[arg(long, default_value_t = 0, conflicts_with = "json")]
    again: usize,
    /// Leave namespaces, processes and files standing
    #[arg(long)]
    keep: bool,
    /// Seconds after which no new scenario starts
    #[arg(long, default_value_t = 3600)]
    limit: u64,
}

/// Runs what was selected; success only if all of it passed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let selected = select(options)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "scenarios make network namespaces and load probes: run as root"
    );
    let session = Session::open(options.keep)?;
    let mut setting = setting(options, &session)?;
    // Dropped last: every run is over before the agent goes.
    let _hub = if options.shared {
        share(&mut setting, &session)?
    } else {
        None
    };
    let sums = Sums::default();
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let play = |index: usize, loaded| {
        if session.stop.load(Ordering::Relaxed) || started.elapsed().as_secs() > options.limit {
            count(&sums.not_run);
            return;
        }
        let report = one(&setting, loaded, &session, index);
        let passed = report.as_ref().map_or(true, |report| report.pass);
        sums.add(options, loaded, &report);
        if !passed && let Ok(mut failed) = failed.lock() {
            failed.push(loaded);
        }
    };
    let (alone, beside): (Vec<_>, Vec<_>) = selected
        .iter()
        .enumerate()
        .partition(|(_, loaded)| machine::is_alone(&loaded.scenario));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, 32).min(beside.len()) {
            scope.spawn(|| {
                while let Some((index, loaded)) = take(&next, &beside) {
                    play(index, loaded);
                }
            });
        }
    });
    alone
        .into_iter()
        .for_each(|(index, loaded)| play(index, loaded));
    let failed = failed.into_inner().unwrap_or_default();
    if options.again > 0 && failed.len() <= options.again {
        for (index, loaded) in failed.iter().enumerate() {
            let report = one(&setting, loaded, &session, selected.len() + index);
            sums.again(options, loaded, &report);
        }
    }
    sums.tell(options, started);
    Ok(if sums.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts the agent that all runs share, with a node of its own.
fn share(setting: &mut Setting, session: &Session) -> Result<Option<World>> {
    let Some(recipe) = &setting.agent else {
        return Ok(None);
    };
    let id = session.run_id(HUB);
    let hub = World::new(&id, &session.dir.join(&id), None, setting.keep)?;
    setting.shared = Some(Shared {
        agent: Arc::new(Agent::start(&hub, recipe)?),
        manifests: hub.manifests(),
    });
    Ok(Some(hub))
}

fn take<'a>(next: &AtomicUsize, all: &[(usize, &'a Loaded)]) -> Option<(usize, &'a Loaded)> {
    all.get(next.fetch_add(1, Ordering::Relaxed)).copied()
}

fn one(
    setting: &Setting,
    loaded: &Loaded,
    session: &Session,
    index: usize,
) -> Result<Report, Skip> {
    match run::skip(setting, &loaded.scenario) {
        Some(skip) => Err(skip),
        None => Ok(run::run(
            setting,
            loaded,
            &session.run_id(index),
            &session.stop,
        )),
    }
}

fn select(options: &Options) -> Result<Vec<Loaded>> {
    let mut all = Vec::new();
    for path in &options.file {
        all.extend(load::file(path)?);
    }
    if options.file.is_empty() {
        all = load::folder(&options.dir)?;
        ensure!(
            options.all || options.tag.is_some() || !options.names.is_empty(),
            "name a scenario, or say --all, --tag TAG or --file PATH; `list` shows them"
        );
    }
    if let Some(place) = options.turn {
        turns::keep(&mut all, place);
    }
    for name in &options.names {
        let known = all.iter().any(|loaded| names(loaded, name));
        ensure!(known, "there is no scenario `{name}`; `list` shows them");
    }
    all.retain(|loaded| {
        options.names.is_empty() || options.names.iter().any(|name| names(loaded, name))
    });
    all.retain(|loaded| tagged(loaded, options.tag.as_deref()));
    // Load disturbs the timing of whatever runs beside it: it comes last, when little does.
    all.sort_by_key(|loaded| tagged(loaded, Some("load")));
    if all.is_empty() {
        bail!("no scenario is left to run");
    }
    Ok(all)
}

fn names(loaded: &Loaded, name: &str) -> bool {
    loaded.id == name || loaded.scenario.name == name
}

pub(crate) fn tagged(loaded: &Loaded, tag: Option<&str>) -> bool {
    tag.is_none_or(|tag| loaded.scenario.tags.iter().any(|known| known == tag))
}

fn setting(options: &Options, session: &Session) -> Result<Setting> {
    let agent = match (&options.agent, options.no_agent) {
        (_, true) => None,
        (Some(program), false) => {
            agent::check_program(program)?;
            let program = program.canonicalize().context("the agent's path")?;
            Some(Recipe {
                program,
                args: options.agent_arg.clone(),
            })
        }
        (None, false) => {
            bail!("which agent? give --agent PATH or set SIDESTEP_AGENT (or --no-agent)")
        }
    };
    Ok(Setting {
        agent,
        shared: None,
        envoy: reachable(options.envoy.as_deref(), session)?,
        kernel: options.kernel.clone(),
        base: session.dir.clone(),
        keep: options.keep,
        kprobes: run::has_kprobes(),
    })
}

/// Envoy where the sidecar's user can run it: a cache below root's home is closed to others.
pub(crate) fn reachable(envoy: Option<&Path>, session: &Session) -> Result<Option<PathBuf>> {
    let Some(envoy) = envoy.filter(|path| path.is_file()) else {
        return Ok(None);
    };
    let place = session.dir.join("envoy");
    std::fs::hard_link(envoy, &place)
        .or_else(|_| std::fs::copy(envoy, &place).map(drop))
        .with_context(|| format!("cannot copy {} to {}", envoy.display(), place.display()))?;
    Ok(Some(place))
}

#[derive(Debug, Default)]
struct Sums {
    passed: AtomicUsize,
    failed: AtomicUsize,
    skipped: AtomicUsize,
    elsewhere: AtomicUsize,
    not_run: AtomicUsize,
    flaky: AtomicUsize,
    /// Which failed, and why: told at the end, where it is not lost among four hundred others. Also keeps
    /// one scenario's lines together.
    failures: Mutex<BTreeMap<String, String>>,
}

impl Sums {
    fn add(&self, options: &Options, loaded: &Loaded, result: &Result<Report, Skip>) {
        // A poisoned lock still orders the lines.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(report) if report.pass => count(&self.passed),
            Ok(report) => {
                count(&self.failed);
                let why = report.problems.first().map_or("", String::as_str);
                failures.insert(loaded.id.clone(), why.to_owned());
            }
            Err(Skip::NotHere(_)) => count(&self.elsewhere),
            Err(Skip::Missing(_)) => count(&self.skipped),
        }
        match result {
            Ok(report) => tell_report(options, loaded, report),
            Err(Skip::NotHere(why)) => eprintln!("not here  {}: {why}", loaded.id),
            Err(Skip::Missing(why)) => eprintln!("SKIPPED   {}: {why}", loaded.id),
        }
    }

    /// A scenario that failed ran once more, with nothing beside it.
    fn again(&self, options: &Options, loaded: &Loaded, result: &Result<Report, Skip>) {
        let Ok(report) = result else {
            return;
        };
        tell_report(options, loaded, report);
        if report.pass {
            println!("FLAKY {}: failed first, passed alone", loaded.id);
            self.failed.fetch_sub(1, Ordering::Relaxed);
            count(&self.passed);
            count(&self.flaky);
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.remove(&loaded.id);
        }
    }

    fn good(&self) -> bool {
        let get = |sum: &AtomicUsize| sum.load(Ordering::Relaxed);
        let in_ci =
            std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
        get(&self.failed) == 0 && get(&self.not_run) == 0 && !(in_ci && get(&self.skipped) > 0)
    }

    fn tell(&self, options: &Options, started: Instant) {
        let get = |sum: &AtomicUsize| sum.load(Ordering::Relaxed);
        let mut line = format!("{} passed, {} failed", get(&self.passed), get(&self.failed));
        for (sum, what) in [
            (&self.skipped, "skipped (something is missing, see above)"),
            (&self.elsewhere, "left to other kernels"),
            (&self.not_run, "not run (interrupted)"),
            (&self.flaky, "of the passed FLAKY (see above)"),
        ] {
            if get(sum) > 0 {
                line = format!("{line}, {} {what}", get(sum));
            }
        }
        let mut line = format!(
            "{line} on {} in {:.0} s",
            options.kernel,
            started.elapsed().as_secs_f64()
        );
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, why) in failures.iter() {
            let why: String = why
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(160)
                .collect();
            line = format!("{line}; {id}: {why}");
        }
        drop(failures);
        if options.json {
            eprintln!("{line}")
        } else {
            println!("{line}")
        }
    }
}

fn count(sum: &AtomicUsize) {
    sum.fetch_add(1, Ordering::Relaxed);
}

fn tell_report(options: &Options, loaded: &Loaded, report: &Report) {
    if options.json {
        let text = serde_json::to_string(report).unwrap_or_default();
        let mut out = std::io::stdout();
        // A reader that went away is no failure of the scenario.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    } else {
        let word = if report.pass { "pass" } else { "FAIL" };
        let found = match (options.no_agent, report.found.is_empty()) {
            (true, _) => "world as described, no agent".to_owned(),
            (false, true) => "silent".to_owned(),
            (false, false) => report.found.join(" "),
        };
        let time = report
            .seconds_to_detect
            .map_or_else(String::new, |seconds| format!(" after {seconds:.2} s"));
        println!(
            "{word}  {:<44} {}: {found}{time} ({:.0} s)",
            report.scenario,
            report.kernel,
            report.took.as_secs_f64()
        );
    }
    if report.pass {
        return;
    }
    for problem in &report.problems {
        eprintln!("      {problem}");
    }
    eprintln!("{}", report.details);
    let what = if options.file.is_empty() {
        report.scenario.clone()
    } else {
        format!("--file {}", loaded.file.display())
    };
    eprintln!(
        "      to run it again: cargo xtask scenario run {what} --kernel {}",
        report.kernel
    );
}
