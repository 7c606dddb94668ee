//! What the kernel drops of pods that are not answered: whom to watch, for how long, and what it says.
//!
//! Watching costs something for every packet that anybody on the node drops, so it begins with a
//! suspicion, ends after a few seconds, and does not begin again at once. It explains what rules do
//! not: a full accept queue, a failed checksum, a missing neighbour, a policy in eBPF.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{Code, directory::PodId, machine::Engine};
use crate::model::{Direction, LostPackets, NetnsId, Owner, Part, PodKey, Time, Workload};

/// Pods watched at the same time for each kind of suspicion; their addresses have room in the kernel's map.
const MAX_WATCHED: usize = 4;
/// A pod is watched for so long: the SYNs of a connection sent for the second to fifth time…
const WATCH_US: u64 = 15_000_000;
/// …and not again before so long after its beginning.
const AGAIN_US: u64 = 60_000_000;
/// Pods of which it is known when they were watched.
const MAX_KNOWN: usize = 1_024;
/// Kinds of drops remembered of a pod, and told in one finding.
const MAX_KINDS: usize = 32;
const TOLD: usize = 3;
/// Findings that such drops speak for.
const CODES: [Code; 2] = [Code::StuckUpstreamTimeout, Code::FailNetfilterDrop];

/// Packets of a watched pod that the kernel dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Outbound: the pod had sent them.
    pub direction: Direction,
    /// The kernel's reason, or the function that dropped them.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// Answers of a pod's listeners to SYNs that were sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynAckRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// How many, as far as they were told.
    pub resent: u64,
}

/// One kind of drop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    part: Part,
    outbound: bool,
    remote: SocketAddr,
    netns: Option<NetnsId>,
    why: String,
}

/// Why a pod is watched. Neither takes the other's room: a node where many destinations are silent would not see what
/// its pods are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// What it sends is not answered.
    Unanswered,
    /// Its rules give what comes in to nobody.
    Given,
}

#[derive(Debug)]
struct Watched {
    address: IpAddr,
    why: Suspicion,
    since: Time,
    kinds: BTreeMap<Kind, u64>,
    /// Answers of a destination that it sent again, by destination.
    resent: BTreeMap<IpAddr, u64>,
}

/// Whom to watch, and what was seen.
#[derive(Debug, Default)]
pub(super) struct Drops {
    by: BTreeMap<PodId, Watched>,
    told: BTreeSet<IpAddr>,
    /// Suspicions that found no room.
    pub(super) refused: u64,
}

impl Drops {
    /// What a pod sends is not answered: watches its address.
    pub(super) fn suspect(&mut self, at: Time, pod: PodId, address: IpAddr) {
        self.watch(at, pod, address, Suspicion::Unanswered);
    }

    /// A pod's rules give what comes in to nobody: watches its address.
    pub(super) fn suspect_given(&mut self, at: Time, pod: PodId, address: IpAddr) {
        self.watch(at, pod, address, Suspicion::Given);
    }

    /// If there is room, and it was not just watched.
    fn watch(&mut self, at: Time, pod: PodId, address: IpAddr, why: Suspicion) {
        if let Some(watched) = self.by.get(&pod)
            && at.micros_since(watched.since) < AGAIN_US
        {
            return;
        }
        let same = self.watched(at).filter(|watched| watched.why == why);
        if same.count() >= MAX_WATCHED || self.by.len() >= MAX_KNOWN {
            self.by
                .retain(|_, old| at.micros_since(old.since) < AGAIN_US);
            self.refused = self.refused.saturating_add(1);
            return;
        }
        self.by.insert(
            pod,
            Watched {
                address,
                why,
                since: at,
                kinds: BTreeMap::new(),
                resent: BTreeMap::new(),
            },
        );
    }

    fn watched(&self, at: Time) -> impl Iterator<Item = &Watched> {
        let all = self.by.values();
        all.filter(move |watched| at.micros_since(watched.since) < WATCH_US)
    }

    fn pod_of(&self, address: IpAddr) -> Option<PodId> {
        let found = self.by.iter().filter(|(_, w)| w.address == address);
        let latest = found.max_by_key(|(_, watched)| watched.since);
        latest.map(|(pod, _)| *pod)
    }

    fn note(&mut self, pod: PodId, lost: &LostPackets) {
        let Some(watched) = self.by.get_mut(&pod) else {
            return;
        };
        let kind = Kind {
            part: lost.part,
            outbound: lost.direction == Direction::Outbound,
            remote: lost.remote,
            netns: lost.netns,
            why: in_words(lost),
        };
        if watched.kinds.len() < MAX_KINDS || watched.kinds.contains_key(&kind) {
            let count = watched.kinds.entry(kind).or_default();
            *count = count.saturating_add(lost.packets);
        }
    }

    pub(super) fn forget(&mut self, pod: PodId) {
        self.by.remove(&pod);
    }
}

/// Why, and in which function.
fn in_words(lost: &LostPackets) -> String {
    match (lost.reason.as_deref(), lost.function.as_deref()) {
        (Some(reason), Some(function)) => format!("{reason} in {function}"),
        _ => lost.why().to_owned(),
    }
}

impl Engine {
    /// The addresses whose dropped packets are to be counted from now on, if they are not those
    /// told last.
    pub fn next_watched(&mut self) -> Option<BTreeSet<IpAddr>> {
        let drops = &mut self.known.drops;
        let now: BTreeSet<IpAddr> = drops
            .watched(self.now)
            .map(|watched| watched.address)
            .collect();
        if now == drops.told {
            return None;
        }
        drops.told.clone_from(&now);
        Some(now)
    }

    /// The kernel dropped packets of watched pods.
    pub(super) fn lost_packets(&mut self, all: &[LostPackets]) {
        let mut pods = BTreeSet::new();
        for lost in all {
            if let Some(pod) = self.known.drops.pod_of(lost.local) {
                self.known.drops.note(pod, lost);
                self.ledger.dropped(pod, lost);
                self.given_was_dropped(pod, lost);
                pods.insert(pod);
            }
        }
        for pod in pods {
            self.state_drops(pod);
        }
    }

    /// A listener's answer was sent again: whoever asked does not hear it.
    pub(super) fn syn_ack_resent(&mut self, owner: &Owner, local: IpAddr, peer: IpAddr) {
        if let super::directory::Who::Pod { pod, .. } = self.known.directory.who(owner) {
            self.ledger.syn_ack_resent(pod);
        }
        let Some(pod) = self.known.drops.pod_of(peer) else {
            return;
        };
        if let Some(watched) = self.known.drops.by.get_mut(&pod)
            && (watched.resent.len() < MAX_KINDS || watched.resent.contains_key(&local))
        {
            let count = watched.resent.entry(local).or_default();
            *count = count.saturating_add(1);
            self.state_drops(pod);
        }
    }

    /// Says in the pod's findings what the kernel dropped of its handshakes.
    pub(super) fn state_drops(&mut self, pod: PodId) {
        let Some(watched) = self.known.drops.by.get(&pod) else {
            return;
        };
        let handshakes = watched.kinds.iter().filter(|(k, _)| k.part != Part::Later);
        let mut most: Vec<(&Kind, u64)> = handshakes.map(|(kind, n)| (kind, *n)).collect();
        most.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let texts: Vec<String> = most
            .iter()
            .take(TOLD)
            .map(|(kind, n)| self.kind_in_words(pod, kind, *n))
            .collect();
        let answers = answers(watched);
        for code in CODES {
            if !self.findings.get(pod, code).is_some_and(|c| c.is_current()) {
                continue;
            }
            let case = self.findings.note(self.now, Some(pod), code);
            if !texts.is_empty() {
                case.state(self.now, "kernel_dropped", texts.join("; "));
                case.witnesses.insert("the kernel told of dropping them");
            }
            if let Some(answers) = &answers {
                case.state(self.now, "answers_lost", answers.clone());
            }
        }
    }

    fn kind_in_words(&self, pod: PodId, kind: &Kind, n: u64) -> String {
        let Kind { remote, why, .. } = kind;
        let what = match (kind.part, kind.outbound) {
            (Part::SynAck, true) => format!("SYN-ACK to {remote}"),
            (Part::SynAck, false) => format!("SYN-ACK from {remote}"),
            (_, true) => format!("SYN to {remote}"),
            (_, false) => format!("SYN from {remote}"),
        };
        format!(
            "{n} × {what}: {why}, {}",
            self.where_in_words(pod, kind.netns)
        )
    }

    fn where_in_words(&self, pod: PodId, netns: Option<NetnsId>) -> String {
        let Some(netns) = netns else {
            return "namespace not known".to_owned();
        };
        if self.own_netns(pod) == Some(netns) {
            return "in the pod's own namespace".to_owned();
        }
        if self.known.passages.is_passed(netns) {
            return "on the node".to_owned();
        }
        let entry = self.known.directory.netns.get(&netns);
        if entry.is_some_and(|entry| entry.host) {
            return "on the node".to_owned();
        }
        let other = entry.and_then(|entry| self.known.directory.pod(entry.bound?));
        other.map_or_else(
            || format!("in the network namespace {}", netns.0),
            |other| format!("in the namespace of {}", other.pod.key),
        )
    }
}

/// Destinations that answered in vain.
fn answers(watched: &Watched) -> Option<String> {
    let one = |(ip, n): (&IpAddr, &u64)| format!("{ip} sent its SYN-ACK again {n} times");
    let all: Vec<String> = watched.resent.iter().take(TOLD).map(one).collect();
    (!all.is_empty()).then(|| {
        format!(
            "{}: the way there works, the way back does not (asymmetric)",
            all.join("; ")
        )
    })
}
