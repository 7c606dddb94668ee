//! Answers of the app that have to find a proxy that speaks in the peer's name.
//!
//! Such a proxy dials the app from the address of the peer. What the app answers would leave the pod for the real
//! peer, but for a mark that rules put on it and a route for that mark. Where the route is missing the proxy waits in
//! vain for its own app. Asked of the kernel where that happens under rules that give connections to the proxy as they
//! are (TPROXY), and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Inquiry,
    blame::Lost,
    diagnose,
    directory::PodId,
    edges::Comm,
    evidence::Sample,
    facts::View,
    machine::Engine,
    verdict::{Party, Path},
};
use crate::{
    model::{Direction, EdgeKey, Family, MarkedEnds, MarkedWay, NetnsId, Time},
    rules::{self, Action, MarkOf, Protocol},
};

/// Namespaces remembered.
const MAX: usize = 256;
/// The kernel is asked again after so long.
const AGAIN_US: u64 = 2_000_000;
/// A connection that waited before the answer counts for so long.
const RECENT_US: u64 = 10_000_000;

#[derive(Debug)]
struct Entry {
    asked: Time,
    /// The latest connection that gave cause to ask.
    waits: (Time, EdgeKey, Sample),
    way: Option<MarkedWay>,
}

/// The ways that were asked about.
#[derive(Debug, Default)]
pub(super) struct Marked {
    by: BTreeMap<NetnsId, Entry>,
    wanted: BTreeSet<MarkedEnds>,
    /// Questions there was no room for.
    pub(super) refused: u64,
}

impl Marked {
    /// A way that is to be asked for. Each is told once.
    pub(super) fn next_wanted(&mut self) -> Option<Inquiry> {
        self.wanted.pop_first().map(Inquiry::Marked)
    }

    /// A namespace is gone, or another pod's.
    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.by.remove(&netns);
    }

    /// Whether the app's answers leave this namespace.
    pub(super) fn is_astray(&self, at: Time, netns: NetnsId) -> bool {
        self.by.get(&netns).is_some_and(|entry| {
            let recent = at.micros_since(entry.waits.0) <= RECENT_US;
            recent && entry.way.as_ref().is_some_and(|way| way.leaves.is_some())
        })
    }

    fn ask(&mut self, at: Time, ends: MarkedEnds, waits: (Time, EdgeKey, Sample)) {
        if self.by.len() >= MAX && !self.by.contains_key(&ends.netns) {
            self.by
                .retain(|_, entry| at.micros_since(entry.waits.0) <= RECENT_US);
            if self.by.len() >= MAX {
                self.refused = self.refused.saturating_add(1);
                return;
            }
        }
        let wanted = &mut self.wanted;
        let entry = self.by.entry(ends.netns).or_insert_with(|| {
            wanted.insert(ends);
            Entry {
                asked: at,
                waits: waits.clone(),
                way: None,
            }
        });
        entry.waits = waits;
        if at.micros_since(entry.asked) >= AGAIN_US {
            entry.asked = at;
            wanted.insert(ends);
        }
    }
}

impl Engine {
    /// The proxy waits for an answer of its own app: if it speaks in the peer's name, the way back is asked for.
    pub(super) fn waits_for_app(
        &mut self,
        pod: PodId,
        view: &View,
        lost: &Lost<'_>,
        sample: Sample,
    ) {
        let key = lost.key;
        if view.party != Party::Proxy || view.path != Path::Own || view.mesh_port {
            return;
        }
        let own = self.known.directory.own_addresses(pod);
        let foreign = !key.local.is_loopback() && !own.contains(&key.local);
        let Some(netns) = self.own_netns(pod).filter(|_| foreign) else {
            return;
        };
        let Some(mark) = self.mark_of_given(pod, netns, Family::of(key.local)) else {
            return;
        };
        let ends = MarkedEnds {
            netns,
            from: key.remote.ip(),
            to: key.local,
            mark,
        };
        self.known
            .marked
            .ask(self.now, ends, (self.now, *key, sample));
        self.file_astray(pod, netns);
    }

    /// The kernel says where packets with the mark go.
    pub(super) fn marked(&mut self, way: MarkedWay) {
        let netns = way.netns;
        if let Some(entry) = self.known.marked.by.get_mut(&netns) {
            entry.way = Some(way);
        }
        if let Some(pod) = self.known.directory.pod_of(netns) {
            self.file_astray(pod, netns);
        }
        self.findings.touched = true;
    }

    fn file_astray(&mut self, pod: PodId, netns: NetnsId) {
        let Some(entry) = self.known.marked.by.get(&netns) else {
            return;
        };
        let (at, key, sample) = &entry.waits;
        if self.now.micros_since(*at) > RECENT_US {
            return;
        }
        if let Some(way) = entry.way.as_ref().filter(|way| way.leaves.is_some()) {
            diagnose::astray(self.now, pod, (way, key), sample, &mut self.findings);
        }
    }

    /// The mark that a live rule puts on what it gives to the proxy as it is.
    fn mark_of_given(&self, pod: PodId, netns: NetnsId, family: Family) -> Option<u32> {
        let entry = self.known.directory.pod(pod)?;
        let now = self.known.rulebook.of(netns)?.read_since(entry.since)?;
        let all = rules::redirectors(&now.rules, Direction::Inbound, family, Protocol::Tcp);
        let reached = all.iter().filter(|one| one.reached);
        let mut given = reached.filter_map(|one| {
            let rule = now.rules.rule_at(&one.step)?;
            let given = |action: &Action| matches!(action, Action::Tproxy { .. });
            rule.actions().any(given).then_some(rule)
        });
        given.find_map(|rule| {
            rule.actions().find_map(|action| match action {
                Action::SetMark(set) if set.on == MarkOf::Packet && set.from.is_none() => {
                    Some(set.xor).filter(|mark| *mark != 0)
                }
                _ => None,
            })
        })
    }
}

/// A connection that waits, as evidence; connections are counted when they end.
pub(super) fn sample_of(lost: &Lost<'_>, container: Option<u16>) -> Sample {
    Sample {
        process: Comm::of(lost.process),
        container,
        ..Sample::made(lost.key, 0)
    }
}
