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
    /// When a sample last found it at its maximum.
    pub(super) full: Option<Time>,
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

/// Connections that found a queue of a namespace full, over time. The kernel counts them for all
/// listeners together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overflow {
    counted: Option<u64>,
    spell: Option<Spell>,
}

/// A time in which queues overflow again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spell {
    first: Time,
    last: Time,
    lost: u64,
}

/// So long after the last overflow a spell is over.
pub(super) const SPELL_US: u64 = 10_000_000;
/// A burst that is over sooner is everyday life: two seconds, and looks come a little early or late.
const BURST_US: u64 = 1_800_000;

impl Overflow {
    /// The kernel's count.
    pub(super) fn counted(&mut self, at: Time, count: u64) {
        let lost = count.saturating_sub(self.counted.unwrap_or(count));
        self.counted = Some(count);
        if lost == 0 {
            return;
        }
        let goes_on = |spell: &Spell| at.micros_since(spell.last) <= SPELL_US;
        let spell = self.spell.filter(goes_on);
        self.spell = Some(Spell {
            first: spell.map_or(at, |spell| spell.first),
            last: at,
            lost: spell.map_or(0, |spell| spell.lost).saturating_add(lost),
        });
    }

    /// Since when, and how many were lost, if this lasts.
    pub(super) fn lasting(&self, now: Time) -> Option<(Time, u64)> {
        let spell = self.spell?;
        let lasts = spell.last.micros_since(spell.first) >= BURST_US
            && now.micros_since(spell.last) <= SPELL_US;
        lasts.then_some((spell.first, spell.lost))
    }
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
        if length >= max {
            self.full = Some(at);
        }
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

#[cfg(test)]
mod tests {
    use super::Overflow;
    use crate::model::Time;

    /// Counts, once a second.
    fn lasting(counts: &[u64]) -> Option<u64> {
        let mut overflow = Overflow::default();
        let mut now = Time(0);
        for count in counts {
            now = now.plus_micros(1_000_000);
            overflow.counted(now, *count);
        }
        overflow.lasting(now).map(|(_, lost)| lost)
    }

    #[test]
    fn overflows_that_last_are_told_from_bursts() {
        assert_eq!(lasting(&[70, 70, 70, 70]), None);
        assert_eq!(lasting(&[0, 90]), None);
        assert_eq!(lasting(&[0, 90, 95]), None);
        assert_eq!(lasting(&[5, 6, 7, 9]), Some(4));
        assert_eq!(lasting(&[0, 90, 90, 90, 92]), Some(92));
    }
}
