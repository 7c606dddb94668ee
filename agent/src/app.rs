//! The event loop and, in `start`, the composition root: the one place that sees both ends.
//!
//! Whatever arrives is stamped with a time, recorded if asked for, and handed to the
//! engine; what the engine says goes to the log, its board to outputs that ask for it. Nothing here
//! decides anything about connections, and nobody imports this module but `main`'s commands.

mod clock;
mod port;
mod recorder;
mod sources;
mod start;

use std::time::Duration;

use anyhow::Context;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    cli::agent::AgentOptions,
    cluster::ClusterHandle,
    engine::{Engine, Input},
    model::{AgentStats, CgroupId, Coverage, EdgeDelta, Loss, Signal},
    node::NodeHandle,
    output::{BoardSender, log::FindingLog},
    probe::{self, Probes},
};
use clock::Clock;
use recorder::Recorder;
use start::{start, start_probes};

/// Reading the edge map.
const DRAIN: Duration = Duration::from_secs(1);
/// Settling connections that came out nowhere: a bypass is told within this.
const SWEEP: Duration = Duration::from_millis(250);
/// Every so many drains the kernel's run statistics are on for one drain; they cost every
/// program about 1 %, so never always.
const SAMPLE_EVERY: u32 = 60;
/// Every so many drains is looked whether something else is seen, or not, than before.
const COVERAGE_EVERY: u32 = 5;
/// What failed when readiness did.
const RING: &str = "cannot wait for the ring buffer";
/// Inputs of node and cluster waiting for the engine; senders wait when it is full.
const INPUTS: usize = 1024;
/// Inputs taken at once, so that a flood of changes does not starve the kernel's signals.
const BATCH: usize = 256;

/// Runs the agent until it is told to stop.
///
/// The event loop has a thread to itself, and what serves and watches another beside it: in one runtime each would wake the
/// other for whatever it waits for.
///
/// # Errors
/// Something at start cannot work: privileges, kernel, port, profiles, recording file.
pub fn run(options: &AgentOptions) -> anyhow::Result<()> {
    probe::bound_memory();
    if options.probes_only {
        return probes_only(options);
    }
    let beside = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let own = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut agent, inputs, server) = beside.block_on(start(options))?;
    own.block_on(agent.run(inputs, options.duration()))?;
    beside.block_on(server.end())
}

/// Attaches the probes and reads nothing: what the benchmark compares the agent with.
fn probes_only(options: &AgentOptions) -> anyhow::Result<()> {
    let _probes = start_probes(options)?;
    tracing::info!("probes attached, nothing is read");
    loop {
        std::thread::park_timeout(options.duration().unwrap_or(Duration::MAX));
        if options.duration().is_some() {
            return Ok(());
        }
    }
}

/// Everything the event loop owns.
struct Agent {
    engine: Engine,
    clock: Clock,
    probes: Probes,
    recorder: Recorder,
    log: FindingLog,
    boards: BoardSender,
    drains: u32,
    coverage: Coverage,
    node: NodeHandle,
    cluster: ClusterHandle,
}

impl Agent {
    async fn run(
        &mut self,
        mut inputs: mpsc::Receiver<Input>,
        run_for: Option<Duration>,
    ) -> anyhow::Result<()> {
        let ring = self.probes.readiness().context(RING)?;
        let mut stop = std::pin::pin!(told_to_stop(run_for)?);
        let mut drain = every(DRAIN);
        let mut sweep = every(SWEEP);
        let mut batch = Vec::with_capacity(BATCH);
        self.tell_coverage();
        loop {
            let deadline = self.engine.next_deadline().map(|at| self.clock.instant(at));
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = drain.tick() => self.drain()?,
                _ = sweep.tick() => self.sweep(),
                () = self.boards.wanted() => self.boards.show(|| self.engine.board()),
                ready = ring.readable() => {
                    ready.context(RING)?;
                    self.signals();
                }
                _ = inputs.recv_many(&mut batch, BATCH) => {
                    for input in batch.drain(..) {
                        self.give(input);
                    }
                }
                () = wait_until(deadline) => self.give(Input::Tick),
            }
        }
        self.drain()?;
        self.recorder.flush();
        Ok(())
    }

    /// The one way into the engine.
    fn give(&mut self, input: Input) {
        let at = self.clock.now();
        self.recorder.write(at, &input);
        self.engine.input(at, input);
        let mut told = false;
        while let Some(output) = self.engine.next_output() {
            self.log.write(at, &output);
            self.cluster.tell(&output);
            told = true;
        }
        while let Some(netns) = self.engine.next_wanted_rules() {
            self.node.read_rules(netns);
        }
        while let Some(inquiry) = self.engine.next_inquiry() {
            self.node.ask(inquiry);
        }
        if let Some(addresses) = self.engine.next_watched() {
            self.probes.watch_drops(&addresses);
        }
        while let Some(netns) = self.engine.next_wanted_queues() {
            self.node.sample_anew(netns);
        }
        // A finding is rare, and whoever waits for it should not wait for the next drain too.
        if told {
            self.boards.outdate();
        }
    }

    fn signals(&mut self) {
        let mut told = Vec::new();
        self.probes.read_signals(|_, signal| told.push(signal));
        for signal in told {
            match &signal {
                Signal::RulesChanged { netns, .. } => self.node.rules_changed(*netns),
                // Whose it was is not told.
                Signal::ListeningEnded { netns, .. } => self.node.seen(*netns, CgroupId(0)),
                _ => {}
            }
            if let Some(owner) = signal.owner() {
                self.node.seen(owner.netns, owner.cgroup);
            }
            self.give(Input::Signal(signal));
        }
    }

    fn edges(&mut self, deltas: Vec<EdgeDelta>) {
        // First sights carry the process; they come before the counts they belong to.
        self.signals();
        for delta in &deltas {
            let owner = delta.key.owner;
            self.node.seen(owner.netns, owner.cgroup);
        }
        if !deltas.is_empty() {
            self.give(Input::Edges(deltas));
        }
    }

    fn sweep(&mut self) {
        let deltas = self.probes.sweep();
        self.edges(deltas);
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        let deltas = self.probes.drain().context("cannot read the edges")?;
        self.edges(deltas);
        let flows = self.probes.datagrams().context("cannot read UDP flows")?;
        if !flows.is_empty() {
            let owners = flows.iter().map(|flow| flow.key.owner);
            owners.for_each(|owner| self.node.seen(owner.netns, owner.cgroup));
            self.give(Input::Datagrams(flows));
        }
        let rewrites = self.probes.rewrites(self.node.is_hooked());
        match rewrites.context("cannot read destinations")? {
            none if none.is_empty() => {}
            some => self.give(Input::Rewrites(some)),
        }
        let lost = self.probes.lost_packets().context("cannot read drops")?;
        if !lost.is_empty() {
            self.give(Input::LostPackets(lost));
        }
        self.node.waits(self.probes.waiting());
        self.sample_programs();
        if self.probes.attach_late() || self.drains.is_multiple_of(COVERAGE_EVERY) {
            self.tell_coverage();
        }
        self.give(Input::Stats(self.stats()));
        let now = self.clock.now();
        self.log.sources(now, self.engine.sources());
        self.boards.drained(now);
        self.recorder.flush();
        Ok(())
    }

    fn stats(&self) -> AgentStats {
        let cluster = self.cluster.stats();
        let mut stats = AgentStats {
            rules: self.node.rules_stats(),
            ..self.probes.stats()
        };
        stats.losses.push(Loss {
            at: "cluster_objects".to_owned(),
            count: cluster.refused,
        });
        AgentStats { cluster, ..stats }
    }

    fn sample_programs(&mut self) {
        match self.drains % SAMPLE_EVERY {
            1 => {
                if let Err(error) = self.probes.start_sample() {
                    tracing::debug!(%error, "no run statistics");
                }
            }
            2 => self.probes.end_sample(),
            3 => {
                probe::give_back_memory();
                probe::give_back_program();
            }
            _ => {}
        }
        self.drains = self.drains.wrapping_add(1);
    }

    fn tell_coverage(&mut self) {
        let coverage = Coverage {
            limits: self.node.limits(),
            ..self.probes.coverage()
        };
        if coverage != self.coverage {
            self.node.rules_are_told(rules_are_told(&coverage));
            self.coverage = coverage.clone();
            self.give(Input::Coverage(coverage));
        }
    }
}

/// Whether the kernel tells of every change of rules there can be.
fn rules_are_told(coverage: &Coverage) -> bool {
    let told = |name: &str| {
        let mut signals = coverage.signals.iter();
        signals.any(|s| s.signal == name && (s.variant.is_some() || s.idle))
    };
    told("rules_change_legacy") && told("rules_change_nft")
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn wait_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => sleep_until(Instant::from_std(at)).await,
        None => std::future::pending().await,
    }
}

/// Done when the agent shall stop: SIGTERM, SIGINT, or its time is over.
fn told_to_stop(after: Option<Duration>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let over = async {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = over => {}
        }
    })
}
