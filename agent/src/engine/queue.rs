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
    sampled: Time,
}

/// A span in which the queue held somebody, never shrank, and nobody was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Still {
    since: Time,
    length: u32,
    /// The first drain that told of connections after the first sample.
    first_drain: Option<Time>,
    /// Connections that drain and those close to it told: some may be from before the sample.
    doubtful: u64,
    /// Connections established in the span without doubt.
    established: u64,
}

/// The kernel's counts are read once a second: what is told later than this after a sample was
/// counted after it.
const DOUBT_US: u64 = 1_500_000;

/// What a sample says about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Accepts happen, or nobody waits.
    Moving,
    /// Somebody has waited since then, and nobody was accepted.
    Standing { since: Time, established: u64 },
}

impl Queue {
    /// A drain told of connections established on the port, and of some that were accepted.
    pub(super) fn established(&mut self, at: Time, n: u64, accepted: u64) {
        let Some(still) = self.still.as_mut().filter(|_| n > 0 || accepted > 0) else {
            return;
        };
        let first = *still.first_drain.get_or_insert(at);
        let doubt = at <= first || at.micros_since(still.since) <= DOUBT_US;
        if doubt {
            still.doubtful = still.doubtful.saturating_add(n);
        } else if accepted > 0 {
            self.still = None;
        } else {
            still.established = still.established.saturating_add(n);
        }
    }

    /// A sample. The span goes on if the queue did not shrink and grew by all that came.
    pub(super) fn sample(&mut self, at: Time, length: u32, max: u32, over: bool) {
        let shrank = length < self.length;
        (self.length, self.max, self.sampled) = (length, max, at);
        self.overflows = self.overflows.saturating_add(u64::from(over));
        let goes_on = |still: &Still| {
            let grown = u64::from(length.saturating_sub(still.length));
            !shrank && still.established <= grown
        };
        let begin = Still {
            since: at,
            length,
            first_drain: None,
            doubtful: 0,
            established: 0,
        };
        self.still = (length > 0).then(|| self.still.filter(goes_on).unwrap_or(begin));
    }

    pub(super) fn progress(&self) -> Progress {
        match self.still {
            Some(still) if still.since < self.sampled => Progress::Standing {
                since: still.since,
                established: still.doubtful.saturating_add(still.established),
            },
            _ => Progress::Moving,
        }
    }
}
