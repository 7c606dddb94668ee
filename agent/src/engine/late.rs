//! Late binding: connections whose pod is not known yet wait here, bounded.
//!
//! The kernel tells of a connection before the node has told of the new pod's cgroup, and
//! a manifest may come later still. Deltas of one edge are merged while they wait, so the
//! queue grows with distinct edges only. Whoever does not fit, or waits in vain, is counted
//! as unattributed; nothing is guessed.

use std::collections::BTreeMap;

use super::ledger;
use crate::model::{Direction, EdgeDelta, EdgeKey, NetnsId, Time};

/// Waiting for the pod: manifests and cgroups come within a second or two of the first packet.
pub(super) const POD_WAIT_US: u64 = 5_000_000;
/// Waiting for the container when the pod is known already.
pub(super) const CONTAINER_WAIT_US: u64 = 2_000_000;

/// Waiting for the first reading of a pod's rules where nothing else can tell who it was, or for another
/// where the last one contradicts what is seen.
pub(super) const RULES_WAIT_US: u64 = 10_000_000;

/// All of these, the shortest first.
pub(super) const WAITS_US: [u64; 3] = [CONTAINER_WAIT_US, POD_WAIT_US, RULES_WAIT_US];

/// When the parts of a delta came: the first, and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) first: Time,
    pub(super) last: Time,
}

impl Came {
    /// All of it.
    pub(super) const fn at(now: Time) -> Self {
        Self {
            first: now,
            last: now,
        }
    }
}

/// A delta that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) delta: EdgeDelta,
    pub(super) came: Came,
}

/// Deltas that wait for their pod.
#[derive(Debug, Default)]
pub(super) struct Late {
    held: BTreeMap<EdgeKey, Held>,
    /// When somebody has waited long enough.
    pub(super) due: Option<Time>,
    /// Something changed that may give somebody a pod.
    pub(super) retry: bool,
}

impl Late {
    /// Holds a delta back. Gives it back if there is no room for it.
    pub(super) fn hold(&mut self, now: Time, delta: EdgeDelta, max: usize) -> Option<EdgeDelta> {
        if let Some(held) = self.held.get_mut(&delta.key) {
            ledger::add(&mut held.delta.counts, &delta.counts);
            ledger::merge(&mut held.delta.duration, &delta.duration);
            held.came.last = now;
        } else if self.held.len() < max {
            let came = Came::at(now);
            self.held.insert(delta.key, Held { delta, came });
        } else {
            return Some(delta);
        }
        let due = now.plus_micros(CONTAINER_WAIT_US);
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
        None
    }

    /// Everything that waits, taken out to be looked at again; what still waits is held anew.
    pub(super) fn take(&mut self) -> Vec<Held> {
        self.due = None;
        self.retry = false;
        std::mem::take(&mut self.held).into_values().collect()
    }

    /// Puts one back that must wait until `due`.
    pub(super) fn put_back(&mut self, held: Held, due: Time) {
        self.held.insert(held.delta.key, held);
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
    }

    /// Whether something of this namespace and direction waits.
    pub(super) fn waits(&self, netns: NetnsId, direction: Direction) -> bool {
        let about = |key: &EdgeKey| key.owner.netns == netns && key.direction == direction;
        self.held.keys().any(about)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}
