//! A long run in which things break and are mended, at random: every fault found in time, every finding over after
//! its fault, nothing said about anybody else, nothing lost, memory flat.
//!
//! Three meshed pods and their peers: one whose outbound traffic breaks, one whose inbound traffic breaks, and one that
//! nothing ever happens to. What is done, to whom and when comes from the seed alone, so that a run can be had again;
//! each fault has its turn before any has its second.
//!
//! It must never call a fault found that was found before it was there: before each one, nothing may be open. Time in which
//! the whole machine stood still is nobody's delay: it is measured by sleeping, taken off, and told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::actions::Stage;
use crate::agent::{Agent, Finding};
use crate::judge;
use crate::spec::{Action, Scenario};

/// Between two looks at the findings.
const POLL: Duration = Duration::from_millis(200);
/// Who sleeps for a moment and wakes up so much later was not let run.
const STALL: Duration = Duration::from_millis(300);
/// A machine this slow would not find a healthy pod healthy.
const SETTLE: Duration = Duration::from_secs(20);

/// The world, and what may happen in it.
const WORLD: &str = include_str!("faults.toml");

/// One thing that may happen.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    name: String,
    /// The pod it happens to, of whose faults there is one at a time.
    pod: String,
    /// What must be found.
    code: String,
    /// What may be found besides, each a part of the same picture.
    #[serde(default)]
    beside: Vec<String>,
    /// Seconds until it must be found.
    found: f64,
    /// Seconds until it must be over, once it is mended.
    over: f64,
    breaks: Vec<Action>,
    mends: Vec<Action>,
}

#[derive(Debug, Deserialize)]
struct Faults {
    fault: Vec<Fault>,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Faults made.
    pub(crate) made: usize,
    /// Seconds until each was found.
    pub(crate) found: Vec<f64>,
    /// Seconds until each was over, once it was mended.
    pub(crate) over: Vec<f64>,
    /// Time in which the machine did not let anybody run.
    pub(crate) stalled: Duration,
    /// What went wrong, for people.
    pub(crate) problems: Vec<String>,
}

/// The scenario without its faults.
pub(crate) fn world(seconds: f64, rate: f64) -> Result<Scenario> {
    let (world, _) = WORLD.split_once("[[fault]]").context("no faults")?;
    let text = world
        .replace("{seconds}", &format!("{seconds:.1}"))
        .replace("{rate}", &format!("{rate:.1}"))
        .replace("{count}", &format!("{:.0}", (seconds * rate).ceil()));
    toml::from_str(&text).context("the soak's own world")
}

/// A run under way.
pub(crate) struct Run<'a, 'b> {
    stage: &'a mut Stage<'b>,
    agent: &'a Agent,
    random: Random,
    tally: Tally,
    /// Findings that are part of what was done.
    part: BTreeSet<(String, String)>,
    clock: Instant,
}

/// Breaks and mends until the time is over; at the end nothing is broken.
pub(crate) fn run(
    stage: &mut Stage<'_>,
    agent: &Agent,
    seed: u64,
    until: Instant,
) -> Result<Tally> {
    let (_, faults) = WORLD.split_once("[[fault]]").context("no faults")?;
    let faults: Faults = toml::from_str(&format!("[[fault]]{faults}")).context("the faults")?;
    let mut run = Run {
        stage,
        agent,
        random: Random(seed),
        tally: Tally::default(),
        part: BTreeSet::new(),
        clock: Instant::now(),
    };
    let mut turns = Vec::new();
    while Instant::now() < until {
        if turns.is_empty() {
            turns.clone_from(&faults.fault);
            run.random.shuffle(&mut turns);
        }
        let Some(first) = turns.pop() else {
            bail!("there are no faults")
        };
        // Now and then two pods break at once.
        let other = turns.iter().rposition(|fault| fault.pod != first.pod);
        let second = other
            .filter(|_| run.random.below(3) == 0)
            .map(|at| turns.remove(at));
        let both: Vec<Fault> = [first].into_iter().chain(second).collect();
        run.once(&both)?;
        run.tally.made += both.len();
    }
    Ok(run.tally)
}

impl Run<'_, '_> {
    /// Breaks, waits until it is found, mends, waits until it is over.
    fn once(&mut self, faults: &[Fault]) -> Result<()> {
        let names: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
        let name = names.join(" and ");
        for fault in faults {
            let all = fault.beside.iter().chain([&fault.code]);
            self.part
                .extend(all.map(|code| (fault.pod.clone(), code.clone())));
        }
        for action in faults.iter().flat_map(|fault| &fault.breaks) {
            self.stage
                .act(action)
                .with_context(|| format!("making `{name}`"))?;
        }
        let begun = self.now();
        let mut waits: Vec<&Fault> = faults.iter().collect();
        let mut took = Vec::new();
        while let Some(longest) = waits.iter().map(|fault| fault.found).reduce(f64::max) {
            let open = self.look()?;
            let seconds = self.seconds_since(begun);
            let is_open = |fault: &&Fault| open.contains(&(fault.pod.clone(), fault.code.clone()));
            for fault in waits.iter().filter(|fault| is_open(fault)) {
                took.push(seconds);
                if seconds > fault.found {
                    let late = format!("{}: found after {seconds:.1} s only", fault.name);
                    self.tally.problems.push(late);
                }
            }
            waits.retain(|fault| !is_open(fault));
            if seconds > longest + SETTLE.as_secs_f64() {
                let missed = waits
                    .iter()
                    .map(|fault| format!("{}: never found", fault.name));
                self.tally.problems.extend(missed);
                break;
            }
            self.pause();
        }
        // Broken for a while, found or not.
        let time = Duration::from_millis(self.random.below(3_000));
        self.watch(time)?;
        for action in faults.iter().flat_map(|fault| &fault.mends) {
            self.stage
                .act(action)
                .with_context(|| format!("mending `{name}`"))?;
        }
        let over = self.until_over(faults)?;
        eprintln!(
            "{:>5.0} s: {name}: found after {took:.1?} s, over after {over:.1} s",
            self.clock.elapsed().as_secs_f64()
        );
        self.tally.found.extend(took);
        self.tally.over.push(over);
        self.part.clear();
        let time = Duration::from_millis(1_000 + self.random.below(3_000));
        self.watch(time)
    }

    fn until_over(&mut self, faults: &[Fault]) -> Result<f64> {
        let mended = self.now();
        let bound = faults.iter().map(|fault| fault.over).fold(0.0, f64::max);
        loop {
            let open = self.look()?;
            let seconds = self.seconds_since(mended);
            if open.is_empty() {
                if seconds > bound {
                    let names: Vec<&str> = faults.iter().map(|f| f.name.as_str()).collect();
                    let late = format!("{}: over after {seconds:.1} s only", names.join(" and "));
                    self.tally.problems.push(late);
                }
                return Ok(seconds);
            }
            // What does not end would be taken for the next fault.
            ensure!(
                seconds < bound + 150.0,
                "still open {seconds:.0} s after everything was mended: {open:?}"
            );
            self.pause();
        }
    }

    fn watch(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look()?;
            self.pause();
        }
        Ok(())
    }

    /// Sleeps between two looks, and measures what the machine made of it.
    fn pause(&mut self) {
        let slept = Instant::now();
        self.stage.sleep(POLL);
        let late = slept.elapsed().saturating_sub(POLL);
        if late >= STALL {
            let at = self.clock.elapsed().as_secs_f64();
            eprintln!(
                "{at:>5.0} s: the machine stood still for {:.1} s",
                late.as_secs_f64()
            );
            self.tally.stalled += late;
        }
    }

    /// Now, and how long the machine stood still until now.
    fn now(&self) -> (Instant, Duration) {
        (Instant::now(), self.tally.stalled)
    }

    /// Seconds since then in which the machine ran.
    fn seconds_since(&self, (then, stalled): (Instant, Duration)) -> f64 {
        let still = self.tally.stalled.saturating_sub(stalled);
        then.elapsed().saturating_sub(still).as_secs_f64()
    }

    /// Findings about pods that are open now; whatever is no part of what was done is a problem.
    fn look(&mut self) -> Result<BTreeSet<(String, String)>> {
        interrupted(self.stage.stop)?;
        self.agent.check_alive()?;
        let all = self.agent.findings(None)?;
        // Other runs on this machine have pods of their own.
        let ours = |finding: &&Finding| judge::is_ours(finding, self.stage.world);
        let open = all.iter().filter(ours).filter(|finding| is_open(finding));
        let open: BTreeSet<(String, String)> = open
            .filter_map(|finding| Some((finding.pod.as_ref()?.name.clone(), finding.code.clone())))
            .collect();
        for (pod, code) in open.difference(&self.part) {
            let text = format!("{code} of {pod} is no part of what was done");
            if !self.tally.problems.contains(&text) {
                let at = self.clock.elapsed().as_secs_f64();
                eprintln!("{at:>5.0} s: {text}");
                let its =
                    |f: &&Finding| f.code == *code && f.pod.iter().any(|key| key.name == *pod);
                for finding in all.iter().filter(its) {
                    eprintln!("{}", serde_json::to_string(finding).unwrap_or_default());
                }
                self.tally.problems.push(text);
            }
        }
        Ok(open)
    }
}

/// Whether a finding is open.
fn is_open(finding: &Finding) -> bool {
    finding
        .rest
        .get("state")
        .is_some_and(|state| state == "open")
}

fn interrupted(stop: &AtomicBool) -> Result<()> {
    ensure!(!stop.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Numbers that a seed decides (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            let other = usize::try_from(self.below(end as u64 + 1)).unwrap_or_default();
            all.swap(end, other);
        }
    }
}
