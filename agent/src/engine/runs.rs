//! Runs of misfortunes of a pod, by destination: refusals, resets, silence.
//!
//! What happens once is everyday life; what keeps happening to one destination is a run. A run
//! that paused begins anew, and the one that is quiet for longest makes room.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::model::Time;

/// Destinations followed per pod and kind.
pub(super) const MAX_DESTINATIONS: usize = 64;
/// Misfortunes further apart than this are separate ones, not a run.
const PAUSE_US: u64 = 30_000_000;

/// One destination's run.
pub(super) trait Run {
    /// When it was noted last.
    fn last(&self) -> Time;
}

/// All destinations of a pod with a run of one kind.
#[derive(Debug)]
pub(super) struct Runs<R> {
    by: BTreeMap<SocketAddr, R>,
}

impl<R> Default for Runs<R> {
    fn default() -> Self {
        Self {
            by: BTreeMap::new(),
        }
    }
}

impl<R: Run> Runs<R> {
    /// The run of a destination to which it happened again now: `fresh` if there is none, or
    /// the last time is too long ago.
    pub(super) fn again(&mut self, at: Time, to: SocketAddr, fresh: R) -> &mut R {
        if self.by.len() >= MAX_DESTINATIONS && !self.by.contains_key(&to) {
            let oldest = self.by.iter().min_by_key(|(to, run)| (run.last(), **to));
            let oldest = oldest.map(|(to, _)| *to);
            oldest.and_then(|oldest| self.by.remove(&oldest));
        }
        let over = |run: &R| at.micros_since(run.last()) > PAUSE_US;
        if self.by.get(&to).is_some_and(over) {
            self.by.remove(&to);
        }
        self.by.entry(to).or_insert(fresh)
    }

    pub(super) fn get(&self, to: SocketAddr) -> Option<&R> {
        self.by.get(&to)
    }

    pub(super) fn get_mut(&mut self, to: SocketAddr) -> Option<&mut R> {
        self.by.get_mut(&to)
    }

    pub(super) fn each(&mut self, change: impl FnMut(&mut R)) {
        self.by.values_mut().for_each(change);
    }

    pub(super) fn remove(&mut self, to: SocketAddr) {
        self.by.remove(&to);
    }

    pub(super) fn contains(&self, to: SocketAddr) -> bool {
        self.by.contains_key(&to)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &R)> {
        self.by.iter()
    }
}
