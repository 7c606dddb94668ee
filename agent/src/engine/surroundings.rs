//! Everything around a pod, borrowed together: what diagnosis and rendering look at.
//!
//! A view, never an owner; made where it is needed and dropped at once, so that nothing
//! can be told from a state that is no longer true.

use std::collections::BTreeMap;

use super::{
    Code, Finding,
    datagrams::Flows,
    diagnose::{self, Scene},
    directory::{Directory, PodId},
    drops::Drops,
    findings::Case,
    late::Late,
    marked::Marked,
    memory::Memories,
    passages::Passages,
    rewrites::Rewrites,
    rulebook::Rulebook,
    sockets::Sockets,
    streams::Streams,
    tables::Tables,
    throttle::Throttles,
    watch::{Refuser, Watch},
};
use crate::model::{Coverage, Direction, Time};

/// Whether a signal works here.
pub(super) fn has_signal(coverage: &Coverage, name: &str) -> bool {
    coverage
        .signals
        .iter()
        .any(|s| s.signal == name && s.variant.is_some())
}

/// How packets pass the node is known by then, or will not be.
const PASSAGE_US: u64 = 1_500_000;
/// Rules of the node that were asked for are there by then, or will not be.
const NODE_RULES_US: u64 = 3_500_000;
/// Destinations of a case that are looked at for their root.
const DESTINATIONS: usize = 8;

/// Everything the engine knows besides what it counted and what it said.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) directory: Directory,
    pub(super) sockets: Sockets,
    pub(super) streams: Streams,
    pub(super) throttles: Throttles,
    pub(super) memories: Memories,
    pub(super) tables: Tables,
    pub(super) rulebook: Rulebook,
    pub(super) passages: Passages,
    pub(super) marked: Marked,
    pub(super) drops: Drops,
    pub(super) watches: BTreeMap<PodId, Watch>,
    /// What waits for its pod.
    pub(super) late: Late,
    /// Flows over UDP that wait for theirs.
    pub(super) flows: Flows,
    /// Rewritten destinations that wait for theirs.
    pub(super) rewrites: Rewrites,
    pub(super) coverage: Coverage,
}

/// Everything around a pod, borrowed.
pub(super) struct Surroundings<'a> {
    known: &'a Known,
    sees_nat: bool,
    unwatched: Watch,
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(known: &'a Known) -> Self {
        Self {
            known,
            sees_nat: has_signal(&known.coverage, "nat_decision"),
            unwatched: Watch::default(),
        }
    }

    /// The scene of a pod that belongs to a mesh.
    pub(super) fn scene(&self, pod: PodId) -> Option<Scene<'_>> {
        let entry = self.known.directory.pod(pod)?;
        Some(Scene {
            entry,
            intent: entry.intent.as_ref()?,
            ns: entry.netns.and_then(|n| self.known.sockets.of(n)),
            watch: self.known.watches.get(&pod).unwrap_or(&self.unwatched),
            late: &self.known.late,
            rules: entry.netns.and_then(|n| self.known.rulebook.of(n)),
            sees_nat: self.sees_nat,
        })
    }

    /// When a pending case may be opened, `None` if it needs more evidence.
    pub(super) fn ripe(&self, case: &Case) -> Option<Time> {
        let Some(pod) = case.pod else {
            return diagnose::ripe(case, None);
        };
        if let Some(entry) = self.known.directory.pod(pod)
            && let Some(at) = diagnose::ripe_by_spec(case, entry)
        {
            return Some(at);
        }
        if case.code == Code::StuckUpstreamReset && self.is_refused_behind(pod, case) {
            return None;
        }
        if case.fact(diagnose::ROUTE).is_some() {
            return Some(case.first);
        }
        let ripe = diagnose::ripe(case, self.scene(pod).as_ref())?;
        let at = ripe.max(self.tables_told(pod, case));
        let at = at.max(self.memory_told(pod, case));
        let at = at.max(self.limit_told(pod, case));
        if case.code == Code::StuckUpstreamTimeout {
            return Some(at.max(self.node_said(pod, case)));
        }
        Some(at)
    }

    /// When what does not answer may be told: a table that is being read may be why.
    fn tables_told(&self, pod: PodId, case: &Case) -> Time {
        let unanswered = matches!(
            case.code,
            Code::StuckUpstreamTimeout | Code::StuckControlPlane
        );
        let netns = self.known.directory.pod(pod).and_then(|entry| entry.netns);
        let netns = netns.filter(|_| unanswered);
        let waits = netns.and_then(|netns| self.known.tables.waits(netns, case.first));
        waits.unwrap_or(case.first)
    }

    /// When nobody listening may be told: the kernel may be known to have killed who did.
    fn memory_told(&self, pod: PodId, case: &Case) -> Time {
        let deserted = matches!(case.code, Code::StuckNoListener | Code::StuckStartupGap);
        let waits = || self.known.memories.waits(pod, case.first);
        deserted.then(waits).flatten().unwrap_or(case.first)
    }

    /// When a proxy that does not keep up may be told: its CPU limit may be why.
    fn limit_told(&self, pod: PodId, case: &Case) -> Time {
        let symptom = diagnose::OF_THROTTLING.contains(&case.code);
        let cgroup = || self.known.directory.proxy_cgroup(pod);
        let waits = |cgroup| self.known.throttles.waits(cgroup, case.first);
        let waits = symptom.then(cgroup).flatten().and_then(waits);
        waits.unwrap_or(case.first)
    }

    /// When the rules of the node have said what they have to say to this case: read since it
    /// began, or not to be had.
    fn node_said(&self, pod: PodId, case: &Case) -> Time {
        let netns = self.known.directory.pod(pod).and_then(|entry| entry.netns);
        let mut wait = 0;
        for node in netns.iter().flat_map(|n| self.known.passages.nodes_of(*n)) {
            let Some(node) = node else {
                wait = wait.max(PASSAGE_US);
                continue;
            };
            let read = self.known.rulebook.of(node).and_then(|p| p.now.as_ref());
            if read.is_none_or(|now| now.last < case.first) {
                wait = NODE_RULES_US;
            }
        }
        case.first.plus_micros(wait)
    }

    /// Whether what resets is the proxy of a pod on this node whose app refuses it, or whose
    /// app's answers it does not get: that is the root, and it is told there.
    fn is_refused_behind(&self, pod: PodId, case: &Case) -> bool {
        let refused = |ip| {
            let (behind, _) = self.known.directory.holder(ip, pod)?;
            let netns = self.known.directory.pod(behind)?.netns;
            let astray = netns.is_some_and(|netns| self.known.marked.is_astray(case.last, netns));
            // What refuses it may still wait for the pod's rules.
            let open = netns.is_some_and(|n| self.known.late.waits(n, Direction::Outbound));
            let watch = self.known.watches.get(&behind);
            Some(astray || open || watch.is_some_and(|watch| watch.refuses(Refuser::App)))
        };
        let all = case.destinations.most(DESTINATIONS);
        !all.is_empty() && all.iter().all(|(to, _)| refused(to.ip()) == Some(true))
    }

    pub(super) fn render(&self, case: &Case) -> Finding {
        let entry = case.pod.and_then(|pod| self.known.directory.pod(pod));
        let scene = case.pod.and_then(|pod| self.scene(pod));
        diagnose::render(case, entry, scene.as_ref())
    }
}
