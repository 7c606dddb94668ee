//! Whose turn it is to be looked at.
//!
//! Looking at all of 250 pods every second would cost more than all else on the node: those where
//! somebody waits come first, and the rest in turns. Pure.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::model::NetnsId;

/// Looks take at most one part of so many of a processor.
const SHARE: u32 = 50;
/// However dear a look is: one for whoever waits, one for the next in turn.
const FEWEST: usize = 2;

/// How many looks there may be, by what those before took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    cost: Duration,
}

impl Pace {
    /// A look took this much of a processor. Smoothed: one that met an interrupt says little.
    pub(super) fn took(&mut self, cost: Duration) {
        self.cost = (self.cost * 7 + cost) / 8;
    }

    /// Looks in one round, `every` so often; `most` at the most.
    pub(super) fn most(&self, most: usize, every: Duration) -> usize {
        let affordable = (every / SHARE).as_nanos() / self.cost.as_nanos().max(1);
        let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
        affordable.max(FEWEST).min(most)
    }
}

/// What is remembered of the looks.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: BTreeMap<NetnsId, (u64, bool)>,
    round: u64,
}

impl Turns {
    /// At most `most` of the namespaces there are: those with somebody waiting, then those
    /// looked at longest ago. Half of the places are for turns, whoever waits.
    pub(super) fn next(
        &mut self,
        mut places: Vec<(NetnsId, PathBuf)>,
        most: usize,
    ) -> Vec<(NetnsId, PathBuf)> {
        self.round += 1;
        self.last
            .retain(|netns, _| places.iter().any(|(there, _)| there == netns));
        let seen = |netns: &NetnsId| self.last.get(netns).copied().unwrap_or_default();
        places.sort_by_key(|(netns, _)| seen(netns).0);
        let (mut waiting, rest): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|(netns, _)| seen(netns).1);
        let turns = rest.len().min(most.div_ceil(2));
        waiting.truncate(most - turns);
        let left = most - waiting.len();
        waiting.extend(rest.into_iter().take(left));
        for (netns, _) in &waiting {
            self.last.entry(*netns).or_default().0 = self.round;
        }
        waiting
    }

    /// Notes whether somebody waits there; whether somebody did before.
    pub(super) fn note(&mut self, netns: NetnsId, waits: bool) -> bool {
        let seen = self.last.entry(netns).or_default();
        std::mem::replace(&mut seen.1, waits)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    #[test]
    fn dear_looks_are_fewer_and_never_none() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert_eq!(pace.most(16, second), 16);
        for (micros, most) in [(100, 16), (4_000, 5), (50_000, 2), (100, 16)] {
            (0..100).for_each(|_| pace.took(Duration::from_micros(micros)));
            assert_eq!(pace.most(16, second), most, "{micros} µs");
        }
        // One that took long changes little.
        pace.took(Duration::from_micros(500));
        assert_eq!(pace.most(16, second), 16);
        assert_eq!(pace.most(1, second), 1);
    }
}
