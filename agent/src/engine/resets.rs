//! Destinations that reset the proxy's connections before they answer anything.
//!
//! One reset is everyday life. It matters when it is what most connections to a destination come
//! to; so established ones are counted beside it, which come a drain later.

use std::net::SocketAddr;

use super::runs::{self, Runs};
use crate::model::Time;

/// Resets that make a run, and the time they must span.
const RESETS: u64 = 3;
const SPAN_US: u64 = 1_000_000;

/// A destination that resets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) resets: u64,
    /// Connections established since the first reset; a drain behind.
    pub(super) established: u64,
    pub(super) first: Time,
    pub(super) last: Time,
}

impl Run {
    /// Whether it is what connections to this destination come to: at least half of them.
    pub(super) fn is_rule(&self) -> bool {
        let spans = self.last.micros_since(self.first);
        self.resets >= RESETS && spans >= SPAN_US && !self.is_over()
    }

    /// Most connections come to something else.
    fn is_over(&self) -> bool {
        self.established > self.resets.saturating_mul(2).saturating_add(2)
    }
}

impl runs::Run for Run {
    fn last(&self) -> Time {
        self.last
    }
}

/// All destinations of a pod that reset.
#[derive(Debug, Default)]
pub(super) struct Resets {
    by: Runs<Run>,
}

impl Resets {
    /// A connection was reset.
    pub(super) fn note(&mut self, at: Time, from: SocketAddr) -> Run {
        let fresh = Run {
            resets: 0,
            established: 0,
            first: at,
            last: at,
        };
        let run = self.by.again(at, from, fresh);
        run.resets += 1;
        run.last = at;
        *run
    }

    /// Connections to a destination were established.
    pub(super) fn established(&mut self, to: SocketAddr, n: u64) {
        let Some(run) = self.by.get_mut(to) else {
            return;
        };
        run.established = run.established.saturating_add(n);
        if run.is_over() {
            self.by.remove(to);
        }
    }

    /// Destinations that reset most of what comes.
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
            resets.note(Time(second * 1_000_000), to);
            resets.established(to, 1);
        }
        assert_eq!(resets.rules().count(), 1);
        resets.established(to, 100);
        assert_eq!(resets.rules().count(), 0);
        // Sparse ones never add up.
        for minute in 1..9 {
            resets.note(Time(minute * 60_000_000), to);
        }
        assert_eq!(resets.rules().count(), 0);
    }
}
