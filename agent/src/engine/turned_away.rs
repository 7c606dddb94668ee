//! Connections of pods that somebody refused, as far as a rule of the node may have done it.
//!
//! A refusal is everyday life, and mostly the destination's own. So it takes a second one of a
//! destination until the node is looked at, and rules that were read a moment ago will do: whoever
//! is refused all day long must not have ten thousand rules read all day long.

use std::net::SocketAddr;

use super::{
    Code,
    blame::Lost,
    diagnose::{self, Place},
    directory::PodId,
    edges::Comm,
    findings::Case,
    machine::Engine,
    runs::{Run, Runs},
    surroundings::Surroundings,
};
use crate::model::{EdgeKey, Outcome, Time};

/// Refusals of one destination that give cause to look at the node.
const TIMES: u64 = 2;
/// Rules of the node read within this say enough about a refusal.
pub(super) const READ_US: u64 = 30_000_000;
/// Refusals of the last moments are asked about again when something is known.
const RECENT_US: u64 = 10_000_000;
/// What the node does is known by then, or will not be.
const PATIENCE_US: u64 = 3_000_000;
/// Destinations of a case that must all have been turned away by the node.
const ASKED: usize = 8;

/// A destination whose connections are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    key: EdgeKey,
    container: Option<u16>,
    process: Option<Comm>,
    outcome: Outcome,
    times: u64,
    first: Time,
    last: Time,
    /// All that can be known of what the node does with it is known.
    settled: bool,
}

impl Run for Refused {
    fn last(&self) -> Time {
        self.last
    }
}

/// All destinations of a pod whose connections are refused.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    by: Runs<Refused>,
}

impl TurnedAway {
    /// Whether this destination refuses again and again.
    fn keeps_on(&self, to: SocketAddr) -> bool {
        self.by.get(to).is_some_and(|one| one.times >= TIMES)
    }

    /// Since when it does.
    pub(super) fn since(&self, to: SocketAddr) -> Option<Time> {
        self.by.get(to).map(|one| one.first)
    }

    /// Until when it may still turn out that the node refuses.
    pub(super) fn open_until(&self) -> Option<Time> {
        let open = self.by.iter().map(|(_, one)| one);
        let open = open.filter(|one| one.times >= TIMES && !one.settled);
        open.map(|one| one.first.plus_micros(PATIENCE_US)).max()
    }
}

/// Whether a rule that rejects on the way may end a connection so.
const fn may_be_rejected(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused | Outcome::Unreachable | Outcome::Denied
    )
}

impl Engine {
    /// Whether a connection that ended so gives cause to look at the node.
    pub(super) fn may_be_the_nodes(&self, pod: PodId, to: SocketAddr, outcome: Outcome) -> bool {
        let watch = self.known.watches.get(&pod);
        may_be_rejected(outcome) && watch.is_some_and(|watch| watch.turned_away.keeps_on(to))
    }

    /// A connection ended with an answer that is none.
    pub(super) fn turned_away(
        &mut self,
        pod: PodId,
        lost: &Lost<'_>,
        outcome: Outcome,
        container: Option<u16>,
    ) {
        let (key, process) = (lost.key, Comm::of(lost.process));
        if outcome == Outcome::Refused
            && let Some(watch) = self.known.watches.get_mut(&pod)
        {
            // Some SYNs are lost where nobody listens any more: old connections of that port take them.
            watch.unanswered.answered(key.remote);
        }
        if may_be_rejected(outcome) {
            let fresh = Refused {
                key: *key,
                container,
                process,
                outcome,
                times: 0,
                first: self.now,
                last: self.now,
                settled: false,
            };
            let watch = self.known.watches.entry(pod).or_default();
            let one = watch.turned_away.by.again(self.now, key.remote, fresh);
            (one.times, one.last) = (one.times.saturating_add(1), fresh.last);
        }
        if let Some(stop) = self.stop_of(pod, key, outcome) {
            let sample = diagnose::signal_sample(key.direction, key.remote, process, 0);
            self.file_stop(&stop, pod, key, sample);
        }
        self.settle(pod, key);
    }

    /// Something is known of the node: what was refused a moment ago is asked about again.
    pub(super) fn blame_for_refusals(&mut self, pod: PodId) {
        let Some(watch) = self.known.watches.get(&pod) else {
            return;
        };
        let recent = |one: &&Refused| self.now.micros_since(one.last) <= RECENT_US;
        let all = watch.turned_away.by.iter().map(|(_, one)| one);
        let all: Vec<Refused> = all.filter(recent).copied().collect();
        for one in all {
            let stop = self.stop_of(pod, &one.key, one.outcome);
            if let Some(stop) = stop.filter(|stop| stop.place == Place::Node) {
                let mut sample =
                    diagnose::signal_sample(one.key.direction, one.key.remote, one.process, 0);
                sample.container = one.container;
                self.file_stop(&stop, pod, &one.key, sample);
            }
            self.settle(pod, &one.key);
        }
        self.node_explains_refusals(pod);
    }

    /// Notes whether more is to come about what the node does with a connection.
    fn settle(&mut self, pod: PodId, key: &EdgeKey) {
        let settled = self.is_settled_on_node(pod, key.remote.ip());
        let watch = self.known.watches.get_mut(&pod);
        if let Some(one) = watch.and_then(|watch| watch.turned_away.by.get_mut(key.remote)) {
            one.settled = settled;
        }
    }

    /// The node is the root of all that a pod's proxy was refused.
    fn node_explains_refusals(&mut self, pod: PodId) {
        let root = Code::FailNetfilterDrop;
        let Some(by) = self
            .findings
            .get(pod, root)
            .filter(|case| case.is_current())
        else {
            return;
        };
        let explained = by.destinations.most(ASKED * ASKED);
        let explained = |to: SocketAddr| explained.iter().any(|(one, _)| *one == to);
        let is_symptom = |code: &Code| {
            let case = self.findings.get(pod, *code);
            case.is_some_and(|case| {
                let all = case.destinations.most(ASKED);
                let refused = case.is_current() && case.fact("refused").is_some();
                refused && !all.is_empty() && all.into_iter().all(|(to, _)| explained(to))
            })
        };
        let mut symptoms = vec![Code::StuckUpstreamRefused, Code::StuckControlPlane];
        symptoms.retain(is_symptom);
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        for symptom in symptoms {
            self.findings.absorb(self.now, pod, root, symptom, &render);
        }
    }
}
