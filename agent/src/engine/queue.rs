//! One accept queue over time: does anybody accept?
//!
//! Accepts are not watched one by one: that would cost on every healthy connection. They
//! follow from what is counted anyway: established minus growth of the queue. Samples and
//! drains are not taken at the same moment, so doubt is always in favour of the proxy.

use crate::model::Time;

/// An accept queue over time. Several sockets on one address and port are one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) length: u32,
    pub(super) max: u32,
    pub(super) overflows: u64,
    /// Begin of the span of samples in which nothing was accepted and somebody waited.
    still: Option<Still>,
    /// Last sample, and connections established on the port since.
    sampled: Time,
    fresh: u64,
}

/// A span in which the queue held somebody, never shrank, and nobody was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Still {
    since: Time,
    length: u32,
    /// Connections established in the first interval: the drain that tells them may have
    /// counted some from before the first sample.
    first: Option<u64>,
    established: u64,
}

/// What a sample says about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Accepts happen, or nobody waits.
    Moving,
    /// Somebody has waited since then, and nobody was accepted.
    Standing { since: Time, established: u64 },
}

impl Queue {
    pub(super) fn established(&mut self, n: u64, accepted: u64) {
        self.fresh = self.fresh.saturating_add(n);
        if accepted > 0
            && let Some(still) = &mut self.still
            && still.first.is_some()
        {
            // The accept signal says so itself: after the first interval no doubt is left.
            self.still = None;
        }
    }

    pub(super) fn sample(&mut self, at: Time, length: u32, max: u32, over: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        let shrank = length < self.length;
        (self.length, self.max, self.sampled) = (length, max, at);
        self.overflows = self.overflows.saturating_add(u64::from(over));
        let begin = Still {
            since: at,
            length,
            first: None,
            established: 0,
        };
        self.still = match self.still {
            _ if length == 0 => None,
            Some(still) if !shrank => Some(still.interval(fresh)).filter(Still::holds_at(length)),
            _ => Some(begin),
        }
        .or((length > 0).then_some(begin));
    }

    pub(super) fn progress(&self) -> Progress {
        match self.still {
            Some(still) if still.since < self.sampled => Progress::Standing {
                since: still.since,
                established: still.established,
            },
            _ => Progress::Moving,
        }
    }
}

impl Still {
    fn interval(mut self, fresh: u64) -> Self {
        self.first.get_or_insert(fresh);
        self.established = self.established.saturating_add(fresh);
        self
    }

    /// Whether a queue of this length leaves no room for an accept since the first sample.
    fn holds_at(length: u32) -> impl Fn(&Self) -> bool {
        move |still| {
            let grown = u64::from(length.saturating_sub(still.length));
            let doubtful = still.first.unwrap_or(0);
            still.established <= grown.saturating_add(doubtful)
        }
    }
}
