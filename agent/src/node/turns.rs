//! Whose turn it is to be looked at.
//!
//! Looking at all of 250 pods every second would cost more than all else on the node: those where
//! somebody waits come first, and the rest in turns; in rare ones where it is known who waits. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::model::NetnsId;

/// Looks take at most one part of so many of a processor.
const SHARE: u32 = 50;
/// Where it is known in which namespaces somebody waits, the others have turns at least so far
/// apart, and take at most one part of so many of a processor.
const RARELY: Duration = Duration::from_secs(10);
const RARE_SHARE: u32 = 10_000;
/// However dear a look is: one for whoever waits, one for the next in turn.
const FEWEST: usize = 2;

/// How many looks there may be, by what those before took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    cost: Duration,
    /// Since the last turn of somebody who is not known to wait.
    quiet: Duration,
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

    /// Whether a namespace in which nobody is known to wait has its turn in this round, `every` so often.
    pub(super) fn has_turn(&mut self, every: Duration) -> bool {
        self.quiet += every;
        let has = self.quiet >= RARELY.max(self.cost * RARE_SHARE);
        if has {
            self.quiet = Duration::ZERO;
        }
        has
    }
}

/// What is remembered of the looks.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: BTreeMap<NetnsId, (u64, bool)>,
    round: u64,
}

impl Turns {
    /// Forgets namespaces that are gone.
    pub(super) fn keep(&mut self, there: &[NetnsId]) {
        self.last.retain(|netns, _| there.contains(netns));
    }

    /// At most `most` of the namespaces there are: those with somebody waiting, then those
    /// looked at longest ago. Half of the places are for turns, whoever waits.
    pub(super) fn next(&mut self, mut there: Vec<NetnsId>, most: usize) -> Vec<NetnsId> {
        self.round += 1;
        let seen = |netns: &NetnsId| self.last.get(netns).copied().unwrap_or_default();
        there.sort_by_key(|netns| seen(netns).0);
        let (mut waiting, rest): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|netns| seen(netns).1);
        let turns = rest.len().min(most.div_ceil(2));
        waiting.truncate(most - turns);
        let left = most - waiting.len();
        waiting.extend(rest.into_iter().take(left));
        for netns in &waiting {
            self.last.entry(*netns).or_default().0 = self.round;
        }
        waiting
    }

    /// At most `most` of the namespaces there are: those in which somebody is known to wait, or did at
    /// the last look, those that were never looked at, and so many quiet ones that were looked at
    /// longest ago: what was there before the agent is known from looks only. Of the quiet ones only those
    /// that are worth it, so many rounds after their last look.
    pub(super) fn among(
        &mut self,
        there: Vec<NetnsId>,
        waiting: &BTreeSet<NetnsId>,
        most: usize,
        (quiet, is_worth): (usize, impl Fn(NetnsId, u64) -> bool),
    ) -> Vec<NetnsId> {
        let (last, round) = (&self.last, self.round);
        let is_due = |netns: &NetnsId| {
            waiting.contains(netns) || last.get(netns).is_none_or(|(_, waits)| *waits)
        };
        let (mut due, mut rest): (Vec<_>, Vec<_>) = there.into_iter().partition(is_due);
        let seen = |netns: &NetnsId| last.get(netns).map_or(0, |seen| seen.0);
        rest.retain(|netns| is_worth(*netns, round - seen(netns)));
        rest.sort_by_key(seen);
        rest.truncate(quiet);
        due.extend(rest);
        self.next(due, most)
    }

    /// As if it had never been looked at.
    pub(super) fn forget(&mut self, netns: NetnsId) {
        self.last.remove(&netns);
    }

    /// Notes whether somebody waits there; whether somebody did before.
    pub(super) fn note(&mut self, netns: NetnsId, waits: bool) -> bool {
        let seen = self.last.entry(netns).or_default();
        std::mem::replace(&mut seen.1, waits)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::{Pace, Turns};
    use crate::model::NetnsId;

    #[test]
    fn where_it_is_known_who_waits_the_rest_is_looked_at_once_and_then_rarely() {
        let places: Vec<_> = (1..=5).map(NetnsId).collect();
        let mut turns = Turns::default();
        let mut looked = [0; 6];
        for round in 0..100 {
            let waiting = BTreeSet::from_iter((round >= 50).then_some(NetnsId(3)));
            let quiet = (usize::from(round % 10 == 9), |_, _| true);
            for netns in turns.among(places.clone(), &waiting, 16, quiet) {
                looked[netns.0 as usize] += 1;
                turns.note(netns, netns == NetnsId(5));
            }
        }
        assert_eq!(looked[5], 100, "it waits: {looked:?}");
        assert!((50..55).contains(&looked[3]), "known to wait: {looked:?}");
        for quiet in [1, 2, 4] {
            assert!((2..=5).contains(&looked[quiet]), "{looked:?}");
        }
    }

    #[test]
    fn turns_of_the_quiet_are_rare_and_rarer_where_they_are_dear() {
        let second = Duration::from_secs(1);
        for (micros, turns) in [(100, 30), (5_000, 6), (50_000, 1)] {
            let mut pace = Pace::default();
            (0..100).for_each(|_| pace.took(Duration::from_micros(micros)));
            let had = (0..300).filter(|_| pace.has_turn(second)).count();
            assert!(had.abs_diff(turns) <= 1, "{micros} µs: {had}");
        }
    }

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
