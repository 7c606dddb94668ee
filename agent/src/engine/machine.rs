//! The engine: takes inputs in order, owns everything that is known, gives out a board.
//!
//! Sans-IO: the caller brings every input with its time and asks for outputs, the next
//! deadline and the board. Nothing here reads a clock, a file or a random number, and
//! every order that can show is a sorted one; so a recording replays bit for bit.
//! One drain is learned from as a whole before any of it is judged: what order the kernel
//! handed its edges over in must not matter.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Board, Config, Finding, Input, Leg, Output, Verdict,
    diagnose::{self, Judged, Scene},
    directory::{Directory, PodId, Who},
    draw,
    edges::Edges,
    facts::{self, View},
    findings::{Case, Findings},
    input::Change,
    late::{CONTAINER_WAIT_US, Held, Late, POD_WAIT_US},
    ledger::{self, Ledger},
    sockets::Sockets,
    verdict::{Facts, judge},
    watch::{Refuser, Watch},
};
use crate::{
    mesh::{IntentSource, Profiles},
    model::{
        AgentStats, Coverage, Direction, EdgeDelta, ListenerQueue, NetnsId, Outcome, PodKey, Time,
    },
};

/// Retries of what waits are bundled: a burst of changes is one retry.
const RETRY_US: u64 = 50_000;

/// The engine. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(super) config: Config,
    profiles: Profiles,
    pub(super) started: Time,
    pub(super) now: Time,
    pub(super) directory: Directory,
    pub(super) sockets: Sockets,
    late: Late,
    retry_at: Option<Time>,
    pub(super) ledger: Ledger,
    pub(super) edges: Edges,
    pub(super) watches: BTreeMap<PodId, Watch>,
    pub(super) findings: Findings,
    pub(super) coverage: Coverage,
    pub(super) stats: AgentStats,
    pub(super) sources: BTreeMap<String, String>,
    board: Option<Arc<Board>>,
}

/// A delta whose pod is known.
struct Bound {
    pod: PodId,
    container: Option<u16>,
    delta: EdgeDelta,
    view: View,
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
            directory: Directory::default(),
            sockets: Sockets::default(),
            late: Late::default(),
            retry_at: None,
            ledger: Ledger::default(),
            edges,
            watches: BTreeMap::new(),
            findings: Findings::default(),
            coverage: Coverage::default(),
            stats: AgentStats::default(),
            sources: BTreeMap::new(),
            board: None,
        }
    }

    /// Takes one input. Times never go back: an earlier one counts as the latest so far.
    pub fn input(&mut self, at: Time, input: Input) {
        self.now = self.now.max(at);
        self.board = None;
        match input {
            Input::Tick => {}
            Input::Edges(deltas) => self.edges(deltas),
            Input::Signal(signal) => self.signal(signal),
            Input::Change(change) => self.change(change),
            Input::Queues { netns, queues } => self.queues(netns, &queues),
            Input::Coverage(coverage) => self.coverage(coverage),
            Input::Stats(stats) => self.stats = stats,
        }
        self.advance();
    }

    /// When the engine wants an input (a [`Input::Tick`] will do) although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let expiry = self
            .directory
            .next_expiry(u64::from(self.config.keep_resolved_s));
        let all = [self.late.due, self.retry_at, self.findings.due, expiry];
        all.into_iter().flatten().min()
    }

    /// The next thing to tell at once, oldest first.
    pub fn next_output(&mut self) -> Option<Output> {
        self.findings.outputs.pop_front()
    }

    /// The picture of the node now; drawn when asked for, and the same until the next input.
    #[must_use]
    pub fn board(&mut self) -> Arc<Board> {
        if let Some(board) = &self.board {
            return Arc::clone(board);
        }
        let board = Arc::new(draw::board(self));
        self.board = Some(Arc::clone(&board));
        board
    }

    /// Connections held back because their pod is not known yet, by edge.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.late.len()
    }

    /// Everything that time brings about.
    fn advance(&mut self) {
        let now = self.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.retry_at) || due(self.late.due) {
            self.retry();
        }
        let linger = u64::from(self.config.keep_resolved_s);
        if due(self.directory.next_expiry(linger)) {
            for pod in self.directory.expire(now, linger) {
                self.ledger.forget(pod);
                self.watches.remove(&pod);
                self.findings.forget(pod);
            }
        }
        if self.findings.touched || due(self.findings.due) {
            self.advance_findings();
        }
    }

    fn advance_findings(&mut self) {
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        let ripe = |case: &Case| match case.pod {
            None => diagnose::ripe(case, None),
            Some(pod) => surroundings
                .scene(pod)
                .and_then(|s| diagnose::ripe(case, Some(&s))),
        };
        self.findings.advance(
            self.now,
            u64::from(self.config.resolve_after_s),
            u64::from(self.config.keep_resolved_s),
            &ripe,
            &|case| surroundings.render(case),
        );
    }

    // ---- edges ----

    fn edges(&mut self, deltas: Vec<EdgeDelta>) {
        let now = self.now;
        let mut bound = Vec::with_capacity(deltas.len());
        for delta in deltas {
            self.count_accepted(&delta);
            if let Some(delta) = self.bind(now, delta, &mut bound) {
                self.hold(delta);
            }
        }
        self.judge_all(&bound);
    }

    fn count_accepted(&mut self, delta: &EdgeDelta) {
        let key = &delta.key;
        if key.direction == Direction::Inbound {
            let accepted = ledger::samples(&delta.duration);
            let established = delta.counts.established;
            self.sockets
                .established(key.owner.netns, key.local_port, established, accepted);
        }
    }

    /// Finds the delta's pod; gives it back if that is worth waiting for.
    fn bind(&mut self, since: Time, delta: EdgeDelta, bound: &mut Vec<Bound>) -> Option<EdgeDelta> {
        let waited = self.now.micros_since(since);
        match self.directory.who(&delta.key.owner) {
            Who::Pod {
                pod,
                container,
                settled,
            } => {
                if !settled && waited < CONTAINER_WAIT_US {
                    return Some(delta);
                }
                if !settled {
                    self.directory.give_up(delta.key.owner.cgroup);
                }
                bound.extend(self.look(pod, container, delta));
                None
            }
            Who::Host => {
                self.ledger.host = self
                    .ledger
                    .host
                    .saturating_add(ledger::total(&delta.counts));
                None
            }
            Who::Unknown(_) if waited < POD_WAIT_US => Some(delta),
            Who::Unknown(reason) => {
                self.unattributed(reason, &delta);
                None
            }
        }
    }

    fn look(&mut self, pod: PodId, container: Option<u16>, delta: EdgeDelta) -> Option<Bound> {
        let own = self.directory.own_addresses(pod);
        let Some(entry) = self.directory.pod(pod) else {
            self.unattributed("no_pod", &delta);
            return None;
        };
        let view = facts::look(&delta.key, entry, container, &own);
        if let Some(intent) = &entry.intent {
            let watch = self.watches.entry(pod).or_default();
            watch.learn(
                self.now,
                &delta.key,
                &view,
                intent,
                delta.counts.established,
            );
        }
        Some(Bound {
            pod,
            container,
            delta,
            view,
        })
    }

    fn unattributed(&mut self, reason: &'static str, delta: &EdgeDelta) {
        self.ledger
            .unattributed(reason, ledger::total(&delta.counts));
        if let Some(edge) = self.edges.touch(self.now, &delta.key) {
            edge.update(self.now, None, None, &delta.counts);
        }
    }

    fn hold(&mut self, delta: EdgeDelta) {
        if let Some(delta) = self.late.hold(self.now, delta, self.config.max_unbound) {
            self.unattributed("late_binding_full", &delta);
        }
    }

    /// Looks again at everything that waits.
    fn retry(&mut self) {
        self.retry_at = None;
        let mut bound = Vec::new();
        for Held { delta, since } in self.late.take() {
            if let Some(delta) = self.bind(since, delta, &mut bound) {
                let now = self.now;
                let known = matches!(self.directory.who(&delta.key.owner), Who::Pod { .. });
                let wait = if known {
                    CONTAINER_WAIT_US
                } else {
                    POD_WAIT_US
                };
                let due = since.plus_micros(wait).max(now.plus_micros(1));
                self.late.put_back(Held { delta, since }, due);
            }
        }
        self.judge_all(&bound);
    }

    fn judge_all(&mut self, bound: &[Bound]) {
        for b in bound {
            self.judge(b);
        }
    }

    fn judge(&mut self, b: &Bound) {
        let (now, key) = (self.now, &b.delta.key);
        let process = self.edges.get(key).and_then(|e| e.process);
        let mut shown = None;
        for (outcome, n) in ledger::outcomes(&b.delta.counts) {
            if n == 0 {
                continue;
            }
            let facts = self.facts(b, outcome);
            let (leg, verdict) = judge(&facts);
            self.ledger
                .count(b.pod, key.direction, outcome, (leg, verdict), n);
            let refusals = self.refusals(b, leg, outcome, n);
            let judged = Judged {
                at: now,
                pod: b.pod,
                key,
                view: &b.view,
                container: b.container,
                process,
                outcome,
                n,
                leg,
                verdict,
                refusals,
            };
            self.diagnose(&judged);
            shown = worse(shown, (leg, verdict));
        }
        if let Some((leg, _)) = shown
            && key.direction == Direction::Outbound
        {
            self.ledger.handshakes(b.pod, leg, &b.delta.duration);
        }
        if let Some(edge) = self.edges.touch(now, key) {
            edge.update(now, Some(b.pod), b.container, &b.delta.counts);
            edge.judged = shown.unwrap_or(edge.judged);
        }
    }

    fn facts(&self, b: &Bound, outcome: Outcome) -> Facts {
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        let scene = surroundings.scene(b.pod);
        let (key, view) = (&b.delta.key, &b.view);
        let sees_resets = has_signal(&self.coverage, "reset");
        let unanswered = outcome == Outcome::Refused
            && scene
                .is_some_and(|s| diagnose::refused_capture(&s, view.family, self.now, sees_resets));
        let cause = scene.map_or(super::Reason::None, |s| {
            let has_ipv4 = s.entry.pod.ips.iter().any(std::net::IpAddr::is_ipv4);
            s.watch.cause(key, view, s.intent, has_ipv4)
        });
        Facts {
            direction: key.direction,
            party: view.party,
            expected: view.expected,
            path: view.path,
            mesh_port: view.mesh_port,
            outcome,
            unanswered,
            cause,
        }
    }

    fn refusals(
        &mut self,
        b: &Bound,
        leg: Leg,
        outcome: Outcome,
        n: u64,
    ) -> Option<super::watch::Refusals> {
        let who = match (leg, outcome) {
            (Leg::ProxyToApp, Outcome::Refused) => Refuser::App,
            (Leg::ProxyToUpstream, Outcome::Refused) => Refuser::Upstream,
            (Leg::AppToProxy, Outcome::TimedOut | Outcome::Aborted) => {
                let watch = self.watches.get_mut(&b.pod)?;
                watch.hanging = watch.hanging.saturating_add(n);
                return None;
            }
            _ => return None,
        };
        let watch = self.watches.entry(b.pod).or_default();
        Some(watch.refused(self.now, who, b.delta.key.remote, n))
    }

    fn diagnose(&mut self, judged: &Judged<'_>) {
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        if let Some(scene) = surroundings.scene(judged.pod) {
            let render = |case: &Case| surroundings.render(case);
            diagnose::connection(judged, &scene, &mut self.findings, &render);
        }
    }

    // ---- who is who ----

    fn change(&mut self, change: Change) {
        let now = self.now;
        match &change {
            Change::Source { source, trouble } => self.source(source, trouble.as_deref()),
            Change::PodGone(key) => self.pod_gone(key),
            Change::NetnsGone(netns) => self.sockets.gone(*netns),
            Change::Pod(pod) => self.pod_replaced(&pod.key, &pod.uid),
            Change::Netns { .. } | Change::Cgroup { .. } | Change::CgroupGone(_) => {}
        }
        let netns = match &change {
            Change::Netns { netns, .. } => Some(*netns),
            _ => None,
        };
        let pod = self.directory.change(now, change);
        if let Some(pod) = pod {
            self.read_intent(pod);
        }
        if let Some(pod) = netns.and_then(|n| self.directory.pod_of(n)) {
            self.reread_by_listeners(pod);
        }
        if !self.late.is_empty() {
            let soon = now.plus_micros(RETRY_US);
            self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
        }
    }

    fn source(&mut self, source: &str, trouble: Option<&str>) {
        match trouble {
            Some(trouble) => {
                self.sources.insert(source.to_owned(), trouble.to_owned());
            }
            None => {
                self.sources.remove(source);
            }
        }
    }

    /// A pod of the same name with another uid takes the place of one whose end was missed.
    fn pod_replaced(&mut self, key: &PodKey, uid: &str) {
        let old = self
            .directory
            .live(key)
            .and_then(|id| self.directory.pod(id));
        let other =
            old.is_some_and(|p| !p.pod.uid.is_empty() && !uid.is_empty() && p.pod.uid != uid);
        if other {
            self.pod_gone(key);
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        let Some(pod) = self.directory.live(key) else {
            return;
        };
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        self.findings
            .pod_gone(self.now, pod, &|case| surroundings.render(case));
    }

    /// The one place where a pod's intent is read.
    fn read_intent(&mut self, pod: PodId) {
        // Binding first: the listeners of its namespace may be needed.
        let netns = self
            .directory
            .pods()
            .find(|(id, _)| *id == pod)
            .and_then(|(_, p)| p.netns);
        let listeners = netns
            .and_then(|n| self.sockets.of(n))
            .map(|ns| ns.with_uid());
        if let Some(entry) = self.directory.pod_mut(pod) {
            entry.intent = self
                .profiles
                .intent(&entry.pod, &listeners.unwrap_or_default())
                .filter(|_| !entry.pod.host_network);
        }
        self.findings.touched = true;
    }

    /// Reads the intent again if it comes (or could come) from listening sockets.
    pub(super) fn reread_by_listeners(&mut self, pod: PodId) {
        let by_listeners = self.directory.pod(pod).is_some_and(|p| {
            p.intent
                .as_ref()
                .is_none_or(|i| i.source == IntentSource::Listeners)
        });
        if by_listeners {
            self.read_intent(pod);
        }
    }

    // ---- sockets and the agent ----

    fn queues(&mut self, netns: NetnsId, queues: &[ListenerQueue]) {
        let changed = self.sockets.sampled(self.now, netns, queues);
        let Some(pod) = self.directory.pod_of(netns) else {
            return;
        };
        if changed {
            self.reread_by_listeners(pod);
            self.findings.touched = true;
        }
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        let Some(scene) = surroundings.scene(pod) else {
            return;
        };
        let progress: Vec<_> = [scene.intent.outbound_port, scene.intent.inbound_port]
            .into_iter()
            .filter_map(|port| self.sockets.progress(netns, port).map(|p| (port, p)))
            .map(|(port, (progress, length, max))| (port, progress, length, max))
            .collect();
        let after_us = u64::from(self.config.not_accepting_after_s) * 1_000_000;
        let render = |case: &Case| surroundings.render(case);
        diagnose::queue(
            self.now,
            pod,
            &scene,
            &progress,
            after_us,
            &mut self.findings,
            &render,
        );
    }

    fn coverage(&mut self, coverage: Coverage) {
        self.coverage = coverage;
        let surroundings = Surroundings::of(
            &self.directory,
            &self.sockets,
            &self.watches,
            &self.coverage,
        );
        let render = |case: &Case| surroundings.render(case);
        diagnose::coverage(self.now, &self.coverage, &mut self.findings, &render);
    }
}

/// Whether a signal works here.
pub(super) fn has_signal(coverage: &Coverage, name: &str) -> bool {
    coverage
        .signals
        .iter()
        .any(|s| s.signal == name && s.variant.is_some())
}

/// Of two verdicts of one edge the one a person must see.
fn worse(a: Option<(Leg, Verdict)>, b: (Leg, Verdict)) -> Option<(Leg, Verdict)> {
    let rank = |v: &Verdict| match v {
        Verdict::Bypassed { .. } => 5,
        Verdict::Stuck { .. } => 4,
        Verdict::Failed => 3,
        Verdict::Intercepted => 2,
        Verdict::Excluded { .. } => 1,
        Verdict::Neutral => 0,
    };
    match a {
        Some(a) if rank(&a.1) >= rank(&b.1) => Some(a),
        _ => Some(b),
    }
}

/// Everything around a pod, borrowed.
pub(super) struct Surroundings<'a> {
    directory: &'a Directory,
    sockets: &'a Sockets,
    watches: &'a BTreeMap<PodId, Watch>,
    sees_nat: bool,
    unwatched: Watch,
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(
        directory: &'a Directory,
        sockets: &'a Sockets,
        watches: &'a BTreeMap<PodId, Watch>,
        coverage: &Coverage,
    ) -> Self {
        Self {
            directory,
            sockets,
            watches,
            sees_nat: has_signal(coverage, "nat_decision"),
            unwatched: Watch::default(),
        }
    }

    /// The scene of a pod that belongs to a mesh.
    pub(super) fn scene(&self, pod: PodId) -> Option<Scene<'_>> {
        let entry = self.directory.pod(pod)?;
        Some(Scene {
            entry,
            intent: entry.intent.as_ref()?,
            ns: entry.netns.and_then(|n| self.sockets.of(n)),
            watch: self.watches.get(&pod).unwrap_or(&self.unwatched),
            sees_nat: self.sees_nat,
        })
    }

    pub(super) fn render(&self, case: &Case) -> Finding {
        let entry = case.pod.and_then(|pod| self.directory.pod(pod));
        let scene = case.pod.and_then(|pod| self.scene(pod));
        diagnose::render(case, entry, scene.as_ref())
    }
}
