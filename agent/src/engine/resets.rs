//! Destinations whose connections the other end resets or closes before it has answered anything.
//!
//! One such end is everyday life. It matters when it is what most connections to a destination come
//! to; so established and refused ones are counted beside it, which come a drain later. Who ends
//! resets what it holds, some of it late on a busy machine, and refuses from then on.

use std::net::SocketAddr;

use super::runs::{self, Runs};
use crate::model::Time;

/// Resets that make a run, and the time they must span.
const RESETS: u64 = 3;
const SPAN_US: u64 = 1_000_000;

/// A destination whose connections end so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Connections that were reset, or closed.
    pub(super) resets: u64,
    /// Connections established since the first reset; a drain behind.
    pub(super) established: u64,
    /// And refused.
    refused: u64,
    pub(super) first: Time,
    pub(super) last: Time,
    /// Since when it is what connections come to.
    pub(super) ruled: Option<Time>,
}

impl Run {
    /// Whether it is what connections to this destination come to: at least half of them.
    pub(super) fn is_rule(&self) -> bool {
        self.resets >= RESETS && self.spans() >= SPAN_US && !self.is_over()
    }

    /// Microseconds from the first to the last.
    pub(super) fn spans(&self) -> u64 {
        self.last.micros_since(self.first)
    }

    /// Most connections come to something else.
    fn is_over(&self) -> bool {
        let all = self.established.saturating_add(self.refused);
        all > self.resets.saturating_mul(2).saturating_add(2)
    }
}

impl runs::Run for Run {
    fn last(&self) -> Time {
        self.last
    }
}

/// All destinations of a pod with such a run.
#[derive(Debug, Default)]
pub(super) struct Resets {
    by: Runs<Run>,
}

impl Resets {
    /// `n` connections were reset, or closed.
    pub(super) fn note(&mut self, at: Time, from: SocketAddr, n: u64) -> Run {
        let fresh = Run {
            resets: 0,
            established: 0,
            refused: 0,
            first: at,
            last: at,
            ruled: None,
        };
        let run = self.by.again(at, from, fresh);
        run.resets = run.resets.saturating_add(n);
        run.last = at;
        if run.is_rule() {
            run.ruled.get_or_insert(at);
        }
        *run
    }

    /// Connections to a destination were established.
    pub(super) fn established(&mut self, to: SocketAddr, n: u64) {
        self.otherwise(to, |run| &mut run.established, n);
    }

    /// Connections to a destination were refused.
    pub(super) fn refused(&mut self, to: SocketAddr, n: u64) {
        self.otherwise(to, |run| &mut run.refused, n);
    }

    fn otherwise(&mut self, to: SocketAddr, which: impl FnOnce(&mut Run) -> &mut u64, n: u64) {
        let Some(run) = self.by.get_mut(to) else {
            return;
        };
        let count = which(run);
        *count = count.saturating_add(n);
        if run.is_over() {
            self.by.remove(to);
        }
    }

    /// The run of a destination is over.
    pub(super) fn forget(&mut self, to: SocketAddr) {
        self.by.remove(to);
    }

    /// All runs are over.
    pub(super) fn clear(&mut self) {
        self.by = Runs::default();
    }

    /// Destinations most of whose connections end so.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&SocketAddr, &Run)> {
        self.by.iter().filter(|(_, run)| run.is_rule())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_among_many_are_no_rule() {
        let to: SocketAddr = ([10, 0, 0, 1], 80).into();
        let mut resets = Resets::default();
        for second in 0..4 {
            resets.note(Time(second * 1_000_000), to, 1);
            resets.established(to, 1);
        }
        assert_eq!(resets.rules().count(), 1);
        resets.established(to, 100);
        assert_eq!(resets.rules().count(), 0);
        // Sparse ones never add up.
        for minute in 1..9 {
            resets.note(Time(minute * 60_000_000), to, 1);
        }
        assert_eq!(resets.rules().count(), 0);
    }
}
