//! The findings store: one case per pod and code, from first suspicion to forgetting.
//!
//! A case collects evidence (bounded), waits until it is ripe (a single ambiguous connection
//! pages nobody), is open while evidence comes, is resolved when it stops or when the
//! contrary is seen, and stays visible for a while. What was said when it was resolved is
//! frozen with it: later changes of the node must not rewrite history.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use super::{
    Code, Confidence, Finding, FindingState, Output, directory::PodId, edges::Comm,
    evidence::Sample, top::Top, watch::Grid,
};
use crate::model::{Direction, Family, Time};

/// A suspicion without new evidence for so long is dropped: sparse oddities never add up.
const FORGET_PENDING_US: u64 = 30_000_000;
/// Outputs nobody took yet.
const MAX_OUTPUTS: usize = 4_096;

/// Where a case is in its life.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Not told yet.
    Pending,
    /// Told.
    Open,
    /// Told, and over; as it was then.
    Resolved(Time, Box<Finding>),
}

/// One pod's case of one code.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) code: Code,
    pub(super) pod: Option<PodId>,
    pub(super) state: State,
    pub(super) first: Time,
    pub(super) last: Time,
    pub(super) connections: u64,
    /// Connections by direction and family.
    pub(super) by: Grid<u64>,
    /// Directions and families it is about, counted or not.
    pub(super) about: Grid<bool>,
    pub(super) destinations: Top<SocketAddr, 32>,
    pub(super) processes: Top<Comm, 16>,
    pub(super) ids: Top<(u32, u32), 16>,
    pub(super) containers: Top<u16, 16>,
    /// Texts of the spec that have to do with it.
    pub(super) sources: Top<String, 16>,
    /// Ports of its own namespace it is about.
    pub(super) ports: BTreeSet<u16>,
    /// Single facts, the last value of each.
    facts: BTreeMap<&'static str, (Time, String)>,
    /// What it is about is there until it is seen to be gone, with or without traffic.
    pub(super) stands: bool,
    /// Independent sources that speak for it.
    pub(super) witnesses: BTreeSet<&'static str>,
}

impl Case {
    fn new(at: Time, pod: Option<PodId>, code: Code) -> Self {
        Self {
            code,
            pod,
            state: State::Pending,
            first: at,
            last: at,
            connections: 0,
            by: Grid::default(),
            about: Grid::default(),
            destinations: Top::default(),
            processes: Top::default(),
            ids: Top::default(),
            containers: Top::default(),
            sources: Top::default(),
            ports: BTreeSet::new(),
            facts: BTreeMap::new(),
            stands: false,
            witnesses: BTreeSet::new(),
        }
    }

    /// Adds evidence from an edge.
    pub(super) fn add(&mut self, sample: &Sample) {
        let n = sample.n;
        self.connections = self.connections.saturating_add(n);
        let by = self.by.get_mut(sample.direction, sample.family);
        *by = by.saturating_add(n);
        *self.about.get_mut(sample.direction, sample.family) = true;
        self.destinations.add(sample.destination, n);
        if let Some(process) = sample.process {
            self.processes.add(process, n);
        }
        if let Some(ids) = sample.ids {
            self.ids.add(ids, n);
        }
        if let Some(container) = sample.container {
            self.containers.add(container, n);
        }
    }

    /// States a fact. Of several in one drain the smallest text counts, so that their order
    /// does not show.
    pub(super) fn state(&mut self, at: Time, what: &'static str, text: String) {
        match self.facts.get_mut(what) {
            Some((stated, old)) if *stated == at => *old = std::mem::take(old).min(text),
            _ => {
                self.facts.insert(what, (at, text));
            }
        }
    }

    /// Takes a fact back, unless it was stated in this very drain.
    pub(super) fn withdraw(&mut self, at: Time, what: &'static str) {
        if self.facts.get(what).is_some_and(|(stated, _)| *stated < at) {
            self.facts.remove(what);
        }
    }

    /// A fact.
    pub(super) fn fact(&self, what: &str) -> Option<&str> {
        self.facts.get(what).map(|(_, text)| text.as_str())
    }

    /// All facts, by name.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.facts
            .iter()
            .map(|(what, (_, text))| (*what, text.as_str()))
    }

    /// Whether it is about this direction, in either family.
    pub(super) fn is_about(&self, direction: Direction) -> bool {
        *self.about.get(direction, Family::Ipv4) || *self.about.get(direction, Family::Ipv6)
    }

    /// The one direction it is about, if it is one.
    pub(super) fn direction(&self) -> Option<Direction> {
        match (
            self.is_about(Direction::Outbound),
            self.is_about(Direction::Inbound),
        ) {
            (true, false) => Some(Direction::Outbound),
            (false, true) => Some(Direction::Inbound),
            _ => None,
        }
    }

    fn absorb(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.connections = self.connections.saturating_add(other.connections);
        for direction in [Direction::Outbound, Direction::Inbound] {
            for family in [Family::Ipv4, Family::Ipv6] {
                let by = self.by.get_mut(direction, family);
                *by = by.saturating_add(*other.by.get(direction, family));
                *self.about.get_mut(direction, family) |= *other.about.get(direction, family);
            }
        }
        self.destinations.merge(&other.destinations);
        self.processes.merge(&other.processes);
        self.ids.merge(&other.ids);
        self.containers.merge(&other.containers);
        self.sources.merge(&other.sources);
        self.witnesses.extend(&other.witnesses);
        self.ports.extend(&other.ports);
        for (what, (at, text)) in &other.facts {
            if self.facts.get(what).is_none_or(|(stated, _)| stated <= at) {
                self.state(*at, what, text.clone());
            }
        }
    }

    pub(super) fn confidence(&self) -> Confidence {
        if self.witnesses.len() > 1 {
            Confidence::Certain
        } else {
            Confidence::Probable
        }
    }

    /// Suspected or told, and not over.
    pub(super) const fn is_current(&self) -> bool {
        !matches!(self.state, State::Resolved(..))
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }
}

/// All cases.
#[derive(Debug, Default)]
pub(super) struct Findings {
    cases: BTreeMap<(Option<PodId>, Code), Case>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) outputs_lost: u64,
    /// A case changed: look whether one is ripe.
    pub(super) touched: bool,
    /// When the next case changes by itself.
    pub(super) due: Option<Time>,
}

/// How a case looks to people; given by the caller, who knows pods and sockets.
pub(super) type Render<'a> = &'a dyn Fn(&Case) -> Finding;

impl Findings {
    /// The case of this pod and code, with new evidence now. A case that is over starts anew.
    pub(super) fn note(&mut self, at: Time, pod: Option<PodId>, code: Code) -> &mut Case {
        self.touched = true;
        let case = self
            .cases
            .entry((pod, code))
            .or_insert_with(|| Case::new(at, pod, code));
        let stale = match case.state {
            State::Pending => at.micros_since(case.last) > FORGET_PENDING_US,
            State::Open => false,
            State::Resolved(..) => true,
        };
        if stale {
            *case = Case::new(at, pod, code);
        }
        case.last = at;
        case
    }

    pub(super) fn get(&self, pod: PodId, code: Code) -> Option<&Case> {
        self.cases.get(&(Some(pod), code))
    }

    /// Pods with a suspicion of one of these kinds.
    pub(super) fn pending(&self, codes: &[Code]) -> impl Iterator<Item = PodId> {
        let pending = |c: &&Case| matches!(c.state, State::Pending) && codes.contains(&c.code);
        self.cases.values().filter(pending).filter_map(|c| c.pod)
    }

    /// Cases that are or were told.
    pub(super) fn told(&self) -> impl Iterator<Item = &Case> {
        let told = |c: &&Case| !matches!(c.state, State::Pending);
        self.cases.values().filter(told)
    }

    /// The contrary was seen: close the case now.
    pub(super) fn resolve(&mut self, at: Time, pod: Option<PodId>, code: Code, render: Render<'_>) {
        let Some(case) = self.cases.get_mut(&(pod, code)) else {
            return;
        };
        match case.state {
            State::Pending => {
                self.cases.remove(&(pod, code));
            }
            State::Open => {
                let finding = close(at, case, render);
                self.say(Output::Resolved(finding));
            }
            State::Resolved(..) => {}
        }
        self.touched = true;
    }

    /// `root` explains `symptom` too: one finding, not two.
    pub(super) fn absorb(
        &mut self,
        at: Time,
        pod: PodId,
        root: Code,
        symptom: Code,
        render: Render<'_>,
    ) {
        if !self.get(pod, symptom).is_some_and(Case::is_current) {
            return;
        }
        let Some(mut other) = self.cases.remove(&(Some(pod), symptom)) else {
            return;
        };
        if other.is_open() {
            let finding = close(at, &mut other, render);
            self.say(Output::Resolved(finding));
        }
        if let Some(case) = self.cases.get_mut(&(Some(pod), root)) {
            case.absorb(&other);
        }
        self.touched = true;
    }

    /// Moves every case on: ripe ones are opened, quiet ones resolved, old ones forgotten.
    /// `ripe` says when a pending case may be opened, `None` if it needs more evidence.
    pub(super) fn advance(
        &mut self,
        now: Time,
        resolve_after_s: u64,
        keep_resolved_s: u64,
        ripe: &dyn Fn(&Case) -> Option<Time>,
        render: Render<'_>,
    ) {
        self.touched = false;
        self.due = None;
        let mut said = Vec::new();
        let mut due: Option<Time> = None;
        let mut later = |at: Time| due = Some(due.map_or(at, |d| d.min(at)));
        self.cases.retain(|_, case| {
            if matches!(case.state, State::Pending) {
                match ripe(case) {
                    Some(at) if at <= now => {
                        case.state = State::Open;
                        said.push(Output::Opened(Box::new(render(case))));
                    }
                    Some(at) => later(at),
                    None => {}
                }
            }
            if case.is_open() && !case.stands && resolves_alone(case.code) {
                let quiet = case.last.plus_secs(resolve_after_s);
                if quiet <= now {
                    said.push(Output::Resolved(close(now, case, render)));
                } else {
                    later(quiet);
                }
            }
            let end = match case.state {
                State::Pending => case.last.plus_micros(FORGET_PENDING_US),
                State::Open => return true,
                State::Resolved(at, _) => at.plus_secs(keep_resolved_s),
            };
            later(end);
            end > now
        });
        self.due = due.filter(|d| *d > now);
        for output in said {
            self.say(output);
        }
    }

    /// The pod is gone: what is open is over.
    pub(super) fn pod_gone(&mut self, at: Time, pod: PodId, render: Render<'_>) {
        for code in Code::ALL {
            self.resolve(at, Some(pod), *code, render);
        }
    }

    /// Lets go of a pod's cases.
    pub(super) fn forget(&mut self, pod: PodId) {
        for code in Code::ALL {
            self.cases.remove(&(Some(pod), *code));
        }
    }

    fn say(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            self.outputs.push_back(output);
        } else {
            self.outputs_lost = self.outputs_lost.saturating_add(1);
        }
    }
}

/// What the agent lacks it lacks until told otherwise, and what a spec says it says until it
/// changes; everything else ends with its evidence.
const fn resolves_alone(code: Code) -> bool {
    !matches!(
        code,
        Code::AgentDegraded
            | Code::BypassSharedUid
            | Code::BypassInboundEmpty
            | Code::BypassHostNetwork
            | Code::MeshConflict
            | Code::InitFailed
    )
}

fn close(at: Time, case: &mut Case, render: Render<'_>) -> Box<Finding> {
    let mut finding = Box::new(render(case));
    finding.state = FindingState::Resolved { at };
    case.state = State::Resolved(at, finding.clone());
    finding
}
