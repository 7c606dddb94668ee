//! The engine: takes inputs in order, owns everything that is known, gives out a board.
//!
//! Sans-IO: the caller brings every input with its time and asks for outputs, the next
//! deadline and the board. Nothing here reads a clock, a file or a random number, and
//! every order that can show is a sorted one; so a recording replays bit for bit.
//! One drain is learned from as a whole before any of it is judged: what order the kernel
//! handed its edges over in must not matter.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Board, Code, Config, Input, Output, diagnose,
    directory::PodId,
    draw,
    edges::Edges,
    findings::{Case, Findings},
    itself::Itself,
    ledger::Ledger,
    surroundings::{Known, Surroundings},
};
use crate::{
    mesh::Profiles,
    model::{AgentStats, Coverage, Time},
};

/// The engine. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(super) config: Config,
    pub(super) profiles: Profiles,
    pub(super) started: Time,
    pub(super) now: Time,
    pub(super) known: Known,
    pub(super) retry_at: Option<Time>,
    pub(super) ledger: Ledger,
    pub(super) edges: Edges,
    pub(super) findings: Findings,
    pub(super) stats: AgentStats,
    pub(super) sources: BTreeMap<String, String>,
    pub(super) itself: Itself,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(config: Config, profiles: Profiles, started: Time) -> Self {
        let edges = Edges::new(config.max_edges);
        Self {
            config,
            profiles,
            started,
            now: started,
            known: Known::default(),
            retry_at: None,
            ledger: Ledger::default(),
            edges,
            findings: Findings::default(),
            stats: AgentStats::default(),
            sources: BTreeMap::new(),
            itself: Itself::default(),
        }
    }

    /// Takes one input. Times never go back: an earlier one counts as the latest so far.
    pub fn input(&mut self, at: Time, input: Input) {
        self.now = self.now.max(at);
        match input {
            Input::Tick => {}
            Input::Edges(deltas) => self.edges(&deltas),
            Input::Datagrams(all) => self.datagrams(all),
            Input::Rewrites(all) => self.rewrites(all),
            Input::Signal(signal) => self.signal(signal),
            Input::Change(change) => self.change(change),
            Input::Queues {
                netns,
                queues,
                overflows,
            } => self.queues(netns, &queues, overflows),
            Input::Streams {
                netns,
                streams,
                left,
            } => self.streams(netns, streams, left),
            Input::Cpu { cgroup, limits } => self.limits(cgroup, limits),
            Input::Memory { cgroup, uses } => self.memory(cgroup, uses),
            Input::Conntrack { netns, own, node } => self.tables(netns, [own, node]),
            Input::Ports { netns, uses } => self.ports(netns, &uses),
            Input::Rules(reading) => self.rules(*reading),
            Input::LostPackets(all) => self.lost_packets(&all),
            Input::Passage(passage) => self.passage(passage),
            Input::Marked(way) => self.marked(way),
            Input::Coverage(coverage) => self.coverage(coverage),
            Input::Stats(stats) => self.stats(stats),
        }
        self.advance();
    }

    /// When the engine wants an input (a [`Input::Tick`] will do) although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let expiry = self
            .known
            .directory
            .next_expiry(u64::from(self.config.keep_resolved_s));
        let all = [
            self.known.late.due,
            self.known.flows.due,
            self.known.rewrites.due,
            self.known.rulebook.due(self.now),
            self.retry_at,
            self.findings.due,
            expiry,
        ];
        all.into_iter().flatten().min()
    }

    /// The next thing to tell at once, oldest first.
    pub fn next_output(&mut self) -> Option<Output> {
        self.findings.outputs.pop_front()
    }

    /// The picture of the node now, drawn anew each time.
    #[must_use]
    pub fn board(&mut self) -> Arc<Board> {
        Arc::new(draw::board(self))
    }

    /// Sources of identity in trouble, and what is wrong.
    #[must_use]
    pub const fn sources(&self) -> &BTreeMap<String, String> {
        &self.sources
    }

    /// Connections held back because their pod is not known yet, by edge.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.known.late.len()
    }

    /// Connections counted so far: under pods (also those gone since), as the node's own, and as
    /// unattributed. Equal to what the drains brought, less what waits.
    #[must_use]
    pub const fn accounted(&self) -> u64 {
        self.ledger.total()
    }

    /// Everything that time brings about.
    fn advance(&mut self) {
        let now = self.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.retry_at) || due(self.known.late.due) || due(self.known.flows.due) {
            self.retry();
        }
        if due(self.known.rewrites.due) {
            self.retry_rewrites();
        }
        let linger = u64::from(self.config.keep_resolved_s);
        if due(self.known.directory.next_expiry(linger)) {
            for pod in self.known.directory.expire(now, linger) {
                self.ledger.forget(pod);
                self.known.watches.remove(&pod);
                self.known.memories.forget(pod);
                self.known.drops.forget(pod);
                self.findings.forget(pod);
            }
            self.forget_earlier();
        }
        if self.findings.touched || due(self.findings.due) {
            self.advance_findings();
        }
    }

    fn advance_findings(&mut self) {
        self.ask_about_deserted();
        let surroundings = Surroundings::of(&self.known);
        let ripe = |case: &Case| surroundings.ripe(case);
        self.findings.advance(
            self.now,
            u64::from(self.config.resolve_after_s),
            u64::from(self.config.keep_resolved_s),
            &ripe,
            &|case| surroundings.render(case),
        );
    }

    /// A pod's finding of this code is over.
    pub(super) fn resolve(&mut self, pod: PodId, code: Code) {
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        self.findings.resolve(self.now, Some(pod), code, &render);
    }

    fn coverage(&mut self, coverage: Coverage) {
        self.known.coverage = coverage;
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        diagnose::coverage(self.now, &self.known.coverage, &mut self.findings, &render);
    }
}
