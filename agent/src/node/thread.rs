//! The thread that looks at the node, and the handle by which the agent holds it.
//!
//! A thread and not tasks: everything here blocks, and nothing here may be delayed by the
//! event loop. It waits for a notice (something appeared), for a request (the kernel told of
//! somebody unknown), or for the time of the next scan or sample.

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
    time::{ClockId, clock_gettime},
};
use tokio::sync::mpsc;

use super::{
    hooks::Hooks,
    inquiries::Inquiries,
    looks::{Looks, Most, Told},
    notice::Notices,
    options::Options,
    rules,
    scanner::Scanner,
    schedule::{Known, Schedule},
    tell::{Closed, tell},
};
use crate::{
    engine::{Input, Inquiry},
    model::{CgroupId, NetnsId, RulesStats},
};

/// Holds the thread; dropping it ends the thread.
#[derive(Debug)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    rules: rules::Rules,
}

#[derive(Debug)]
struct Shared {
    wake: EventFd,
    stop: AtomicBool,
    everything: AtomicBool,
    /// What the engine wants to know.
    inquiries: Inquiries,
    /// Namespaces whose next sample is told whatever it says.
    anew: Mutex<BTreeSet<NetnsId>>,
    /// Where a connection is known to wait; `None` while that is not known.
    waiting: Mutex<Option<BTreeSet<NetnsId>>>,
    hooked: AtomicBool,
    known: Mutex<Known>,
    limits: Mutex<Vec<String>>,
}

impl NodeHandle {
    /// The kernel told of this namespace and cgroup. If nobody knows them, they are looked for
    /// at once; if they are not found, not again for a while. Cheap, never blocks on a scan.
    pub fn seen(&self, netns: NetnsId, cgroup: CgroupId) {
        let mut known = self
            .shared
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.seen(netns, cgroup, Instant::now()) {
            drop(known);
            self.shared.everything.store(true, Ordering::Relaxed);
            self.shared.ring();
        }
    }

    /// What was told of the accept queues of this namespace was forgotten: tells them again soon.
    pub fn sample_anew(&self, netns: NetnsId) {
        let anew = self.shared.anew.lock();
        anew.unwrap_or_else(PoisonError::into_inner).insert(netns);
    }

    /// A connection waits in each of these namespaces, and nowhere else; `None` if that is not known.
    /// Their connections are looked at in the next round.
    pub fn waits(&self, found: Option<BTreeSet<NetnsId>>) {
        let waiting = self.shared.waiting.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(found) => waiting.get_or_insert_default().extend(found),
            None => *waiting = None,
        }
    }

    /// Answered within a sample's time, once; not at all if what it is about is gone.
    pub fn ask(&self, inquiry: Inquiry) {
        let waits = matches!(
            inquiry,
            Inquiry::Passage(_) | Inquiry::Marked(_) | Inquiry::Memory(_)
        );
        self.shared.inquiries.put(inquiry);
        // A finding waits for it.
        if waits {
            self.shared.ring();
        }
    }

    /// Whether a container was found that has a BPF hook inside connect(2).
    #[must_use]
    pub fn is_hooked(&self) -> bool {
        self.shared.hooked.load(Ordering::Relaxed)
    }

    /// What this node does not let the agent see, for [`crate::model::Coverage::limits`];
    /// empty before the first scan.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let limits = self.shared.limits.lock();
        limits.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The rules of namespaces.
impl NodeHandle {
    /// The kernel told that somebody changes the rules of a namespace: they are read once the
    /// changes have settled.
    pub fn rules_changed(&self, netns: NetnsId) {
        self.rules.teller().changed(netns);
    }

    /// Somebody wants to know the rules of a namespace as they are now. Answered by an input,
    /// soon, though not more often than every other second; not at all if there is no such namespace.
    pub fn read_rules(&self, netns: NetnsId) {
        self.rules.teller().asked(netns);
    }

    /// Whether the kernel tells of changes; where it does not, rules are looked at more often.
    pub fn rules_are_told(&self, told: bool) {
        self.rules.teller().told(told);
    }

    /// Readings so far.
    #[must_use]
    pub fn rules_stats(&self) -> RulesStats {
        self.rules.teller().stats()
    }
}

impl Shared {
    fn ring(&self) {
        // Full means that it rings already.
        let _ = self.wake.write(1);
    }

    fn take_waiting(&self) -> Option<BTreeSet<NetnsId>> {
        let waiting = self.waiting.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.as_mut().map(std::mem::take)
    }

    fn take_busy(&self) -> BTreeSet<NetnsId> {
        let known = self.known.lock();
        known.unwrap_or_else(PoisonError::into_inner).take_busy()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts to look at the node and sends what is found, the whole picture first. Waits while
/// the channel is full; ends when nobody receives any more or the handle is dropped.
///
/// # Errors
/// The thread could not be started.
pub fn spawn(options: Options, inputs: mpsc::Sender<Input>) -> io::Result<NodeHandle> {
    let shared = Arc::new(Shared {
        wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        stop: AtomicBool::new(false),
        everything: AtomicBool::new(false),
        inquiries: Inquiries::default(),
        anew: Mutex::default(),
        waiting: Mutex::default(),
        hooked: AtomicBool::new(false),
        known: Mutex::new(Known::default()),
        limits: Mutex::new(Vec::new()),
    });
    let rules = rules::spawn(&options.rules, inputs.clone())?;
    let work = Work {
        scanner: Scanner::new(options.paths.clone()),
        notices: Notices::new()
            .inspect_err(|error| tracing::warn!(%error, "inotify cannot be used: new pods are seen after up to two seconds, and looked for as often"))
            .ok(),
        hooks: Hooks::new(options.ask_hook),
        looks: Looks::default(),
        inputs,
        shared: Arc::clone(&shared),
        rules: rules.teller(),
        options,
    };
    let thread = thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || work.run())?;
    Ok(NodeHandle {
        shared,
        thread: Some(thread),
        rules,
    })
}

struct Work {
    options: Options,
    scanner: Scanner,
    notices: Option<Notices>,
    hooks: Hooks,
    looks: Looks,
    inputs: mpsc::Sender<Input>,
    shared: Arc<Shared>,
    rules: rules::Teller,
}

impl Work {
    fn run(mut self) {
        let mut scans = Schedule::new(Instant::now());
        let mut sample_at = Instant::now();
        while !self.shared.stopped() {
            let now = Instant::now();
            let done = match (scans.is_due(now), now >= sample_at) {
                (true, _) => self.scan(&mut scans),
                (false, true) => {
                    sample_at = now + self.options.sample_every;
                    self.sample(&mut scans)
                }
                (false, false) => {
                    self.wait(scans.next.min(sample_at), &mut scans);
                    self.tell(self.shared.inquiries.answers(&self.scanner))
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn scan(&mut self, scans: &mut Schedule) -> Result<(), Closed> {
        let (started, spent) = (Instant::now(), processor_time());
        let everything = self.shared.everything.swap(false, Ordering::Relaxed);
        let changes = self.scanner.scan(started, everything);
        let new = match &mut self.notices {
            Some(notices) => notices.watch(self.scanner.parents()),
            None => false,
        };
        self.hooks.look(self.scanner.containers());
        self.share();
        self.rules
            .places(self.scanner.places_and_node(), self.scanner.node());
        let end = Instant::now();
        let cost = processor_time().saturating_sub(spent);
        let every = match self.notices.is_some() && self.scanner.is_settled(end) {
            true => self.options.scan_settled,
            false => self.options.scan_every,
        };
        scans.done((started, end), cost, every);
        // What appeared in a directory before it was watched gave no notice.
        if new {
            scans.notice(end);
        }
        self.tell(changes.into_iter().map(Input::Change))
    }

    fn share(&self) {
        self.shared
            .hooked
            .store(self.hooks.found, Ordering::Relaxed);
        let known = self.shared.known.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .learn(&self.scanner);
        let limits = self.shared.limits.lock();
        let mut limits = limits.unwrap_or_else(PoisonError::into_inner);
        let now = self.scanner.limits().iter().chain(&self.hooks.trouble);
        if !limits.iter().eq(now.clone()) {
            *limits = now.cloned().collect();
        }
    }

    fn sample(&mut self, scans: &mut Schedule) -> Result<(), Closed> {
        let anew = self.shared.anew.lock();
        for netns in std::mem::take(&mut *anew.unwrap_or_else(PoisonError::into_inner)) {
            self.looks.anew(netns);
        }
        let most = Most {
            queues: self.options.samples,
            streams: self.options.stream_samples,
        };
        let places = self.scanner.places();
        let mut news = self.shared.inquiries.answers(&self.scanner);
        let told = Told {
            waiting: self.shared.take_waiting(),
            busy: self.shared.take_busy(),
        };
        let (looks, every) = (&mut self.looks, self.options.sample_every);
        news.extend(looks.round(&places, most, every, &told));
        // Another process may be in there.
        if looks.lost {
            scans.notice(Instant::now());
        }
        self.tell(news)
    }

    fn tell(&self, inputs: impl IntoIterator<Item = Input>) -> Result<(), Closed> {
        tell(&self.inputs, || self.shared.stopped(), inputs)?;
        if self.inputs.is_closed() {
            Err(Closed)
        } else {
            Ok(())
        }
    }

    fn wait(&mut self, until: Instant, scans: &mut Schedule) {
        let time = until.saturating_duration_since(Instant::now());
        let time =
            PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.notices
                .as_ref()
                .map(|n| PollFd::new(n.as_fd(), PollFlags::POLLIN)),
        );
        if poll(&mut fds, time).is_err() {
            return;
        }
        // Whoever inquires asks for no scan.
        let asked =
            self.shared.wake.read().is_ok() && self.shared.everything.load(Ordering::Relaxed);
        let noticed = self.notices.as_mut().is_some_and(Notices::take);
        if asked || noticed {
            scans.notice(Instant::now());
        }
    }
}

/// Of the calling thread, so far.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
