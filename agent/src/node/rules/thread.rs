//! The thread that reads rules, and the handle by which the node holds it.
//!
//! It is told which namespaces there are, where rules change, and what somebody wants to
//! know; it tells readings, and what is wrong with reading. A reading that says what the one
//! before said is told only to those who asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    super::{
        enter,
        tell::{Closed, tell},
    },
    child::Limits,
    look::{self, Found, Look},
    plan::{Done, Every, Next, Plan, Why},
    tables::Nftables,
    tools::Tools,
    trouble::{self, Troubles},
};
use crate::{
    engine::{Change, Input, RulesReading},
    model::{NetnsId, RulesStats},
};

/// Name of the rules as a source in [`Change::Source`].
const SOURCE: &str = "rules";
/// Name of a reading that was not necessary, in metrics.
const UNCHANGED: &str = "unchanged";
/// Sleeps no longer, whatever happens.
const LONGEST: Duration = Duration::from_secs(3600);

/// How to read rules.
#[derive(Clone, Debug)]
pub struct Options {
    /// The programs that print them.
    pub tools: Tools,
    /// Time between two readings without a reason, where the kernel tells of changes.
    pub every: Duration,
    /// The same where it does not.
    pub every_untold: Duration,
    /// What one program may take.
    pub time: Duration,
    /// What one program may print.
    pub bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tools: Tools::default(),
            every: Duration::from_secs(60),
            every_untold: Duration::from_secs(5),
            time: Duration::from_secs(2),
            bytes: 4 << 20,
        }
    }
}

/// Holds the thread; dropping it ends the thread and the program it runs.
#[derive(Debug)]
pub(in super::super) struct Rules {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    stats: RulesStats,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cheap clone of what may be told to the thread.
#[derive(Clone, Debug)]
pub(in super::super) struct Teller(Arc<Shared>);

impl Teller {
    /// The namespaces there are, and which of them is the node's own.
    pub(in super::super) fn places(&self, there: Vec<(NetnsId, PathBuf)>, node: Option<NetnsId>) {
        self.plan(|plan, now| {
            plan.node(node);
            plan.places(there, now)
        });
    }

    /// Somebody changes the rules of a namespace.
    pub(in super::super) fn changed(&self, netns: NetnsId) {
        self.plan(|plan, now| plan.changed(netns, now));
    }

    /// Somebody wants to know the rules of a namespace.
    pub(in super::super) fn asked(&self, netns: NetnsId) {
        self.plan(|plan, now| plan.asked(netns, now));
    }

    /// Whether the kernel tells of changes.
    pub(in super::super) fn told(&self, told: bool) {
        self.0.state().plan.told(told);
    }

    /// What was read so far.
    pub(in super::super) fn stats(&self) -> RulesStats {
        let state = self.0.state();
        RulesStats {
            refused: state.plan.refused(),
            ..state.stats.clone()
        }
    }

    fn plan(&self, act: impl FnOnce(&mut Plan, Instant) -> bool) {
        if act(&mut self.0.state().plan, Instant::now()) {
            self.0.bell.notify_one();
        }
    }
}

impl Rules {
    pub(in super::super) fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.shared))
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // Under the lock, so that the thread cannot be between its look and its sleep.
        let state = self.shared.state();
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts to read.
///
/// # Errors
/// The thread could not be started.
pub(in super::super) fn spawn(options: &Options, inputs: mpsc::Sender<Input>) -> io::Result<Rules> {
    let every = Every {
        told: options.every,
        untold: options.every_untold,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            plan: Plan::new(every, Instant::now()),
            stats: RulesStats::default(),
        }),
        bell: Condvar::new(),
        stop: AtomicBool::new(false),
    });
    let work = Work {
        tools: options.tools.clone(),
        limits: Limits {
            time: options.time,
            bytes: options.bytes,
        },
        nftables: Nftables::default(),
        last: BTreeMap::new(),
        troubles: Troubles::default(),
        inputs,
        shared: Arc::clone(&shared),
    };
    let thread = thread::Builder::new()
        .name(SOURCE.to_owned())
        .spawn(move || work.run())?;
    Ok(Rules {
        shared,
        thread: Some(thread),
    })
}

struct Work {
    tools: Tools,
    limits: Limits,
    nftables: Nftables,
    /// Fingerprints of what was told last, to tell only what is new.
    last: BTreeMap<NetnsId, u64>,
    troubles: Troubles,
    inputs: mpsc::Sender<Input>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self) {
        while let Some(next) = self.wait() {
            let look = Look {
                tools: &self.tools,
                limits: self.limits,
                stop: &self.shared.stop,
                nftables: self.nftables.is_there(),
                known: next.known,
            };
            let place = [(next.netns, next.path.clone())];
            let mut visited = enter::visit(&place, |_| Ok(look::look(&look)));
            let Some((_, found)) = visited.pop() else {
                return;
            };
            if self.take(&next, found).is_err() {
                return;
            }
        }
    }

    /// What to read next; `None` at the end.
    fn wait(&mut self) -> Option<Next> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        loop {
            if shared.stopped() {
                return None;
            }
            let now = Instant::now();
            if let Some(next) = state.plan.begin(now) {
                self.forget(&state.plan);
                return Some(next);
            }
            let wakes = state.plan.wakes().unwrap_or(now + LONGEST);
            let time = wakes.saturating_duration_since(now).min(LONGEST);
            let woken = shared.bell.wait_timeout(state, time);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn forget(&mut self, plan: &Plan) {
        self.last.retain(|netns, _| plan.knows(*netns));
        self.troubles.retain(|netns| plan.knows(netns));
    }

    fn take(&mut self, next: &Next, found: io::Result<Found>) -> Result<(), Closed> {
        let (result, inputs, took_us, known) = match found {
            Ok(found) => {
                let (took_us, known) = (found.took_us, found.generation);
                let (result, inputs) = self.learn(next, found);
                (result, inputs, took_us, known)
            }
            Err(error) => (self.not_entered(next, &error), None, 0, None),
        };
        let done = Done {
            cost: Duration::from_micros(took_us),
            full: result != UNCHANGED,
            known,
        };
        {
            let mut state = self.shared.state();
            state.stats.count(result, took_us);
            state.plan.done(next.netns, Instant::now(), done);
        }
        let trouble = self.troubles.news().map(|trouble| {
            Input::Change(Change::Source {
                source: SOURCE.to_owned(),
                trouble,
            })
        });
        self.tell(inputs.into_iter().chain(trouble))
    }

    /// Takes in what was found; its name in metrics, and what to tell.
    fn learn(&mut self, next: &Next, found: Found) -> (&'static str, Option<Input>) {
        if found.unchanged {
            return (UNCHANGED, None);
        }
        let reading = RulesReading {
            netns: next.netns,
            sources: found.sources,
            ruleset: found.ruleset,
            took_us: found.took_us,
            lasted_us: found.lasted_us,
        };
        let wrong = reading.sources.iter();
        let wrong = wrong.filter_map(|(source, read)| trouble::of(*source, read, self.limits));
        self.troubles.note(next.netns, wrong.collect());
        let result = reading.result();
        let print = fingerprint(&reading);
        let same = self.last.insert(next.netns, print) == Some(print);
        if same && next.why < Why::Asked {
            return (result, None);
        }
        (result, Some(Input::Rules(Box::new(reading))))
    }

    fn not_entered(&mut self, next: &Next, error: &io::Error) -> &'static str {
        match error.kind() {
            // Gone since the last scan, or its number is another's.
            io::ErrorKind::NotFound => "vanished",
            kind => {
                let wrong = trouble::not_entered(error);
                self.troubles.note(next.netns, BTreeSet::from([wrong]));
                if kind == io::ErrorKind::PermissionDenied {
                    "denied"
                } else {
                    "failed"
                }
            }
        }
    }

    fn tell(&self, inputs: impl IntoIterator<Item = Input>) -> Result<(), Closed> {
        tell(&self.inputs, || self.shared.stopped(), inputs)
    }
}

/// A number by which two readings of the same rules are known to be the same.
fn fingerprint(reading: &RulesReading) -> u64 {
    let mut hash = Hashed::default();
    let what = (&reading.sources, &reading.ruleset);
    // Neither plain data nor a hash has a way to fail; if they did, every reading would be news.
    if serde_json::to_writer(&mut hash, &what).is_err() {
        hash.0.write_u64(reading.took_us);
    }
    hash.0.finish()
}

/// A hash to write into.
#[derive(Default)]
struct Hashed(DefaultHasher);

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
