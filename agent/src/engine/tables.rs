//! Connection tracking tables, read where connections are not answered or are reset.
//!
//! The table of the pod and the one of its node each lose packets when they are full, and nothing at
//! either end of the connection says so. Two readings tell what was lost between them; a full table needs but one.

use std::collections::{BTreeMap, BTreeSet};

use super::Inquiry;
use crate::model::{Conntrack, NetnsId, Time};

/// Namespaces remembered; a node has some 250 pods.
const MAX_NAMESPACES: usize = 1_024;
/// Between two readings.
const EVERY_US: u64 = 900_000;
/// Readings further apart say nothing about one another.
const STALE_US: u64 = 10_000_000;
/// An answer is there by then, or will not be.
const PATIENCE_US: u64 = 3_000_000;

/// Whose table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Pod,
    Node,
}

/// What two readings of a table came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) whose: Whose,
    pub(super) now: Conntrack,
    /// Counted since the spell of readings began.
    pub(super) lost: u64,
    pub(super) evicted: u64,
    pub(super) invalid: u64,
}

impl Table {
    /// Connections are lost because there is no room.
    pub(super) const fn is_full(&self) -> bool {
        self.now.is_full() || self.now.is_nearly_full() && (self.lost > 0 || self.evicted > 0)
    }
}

#[derive(Debug)]
struct Page {
    since: Time,
    asked: Time,
    answered: Option<Time>,
    first: [Option<Conntrack>; 2],
    now: [Option<Conntrack>; 2],
}

/// The tables of all namespaces there was cause to look at.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pages: BTreeMap<NetnsId, Page>,
    wanted: BTreeSet<NetnsId>,
    /// Questions there was no room for.
    pub(super) refused: u64,
}

impl Tables {
    /// A connection of this namespace gives cause to look.
    pub(super) fn ask(&mut self, at: Time, netns: NetnsId) {
        let stale = |page: &Page| at.micros_since(page.asked) > STALE_US;
        if self.pages.len() >= MAX_NAMESPACES && !self.pages.contains_key(&netns) {
            self.pages.retain(|_, page| !stale(page));
            if self.pages.len() >= MAX_NAMESPACES {
                self.refused = self.refused.saturating_add(1);
                return;
            }
        }
        let fresh = || Page {
            since: at,
            asked: at,
            answered: None,
            first: [None; 2],
            now: [None; 2],
        };
        match self.pages.get_mut(&netns) {
            Some(page) if stale(page) => *page = fresh(),
            Some(page) if at.micros_since(page.asked) < EVERY_US => return,
            Some(page) => page.asked = at,
            None => {
                self.pages.insert(netns, fresh());
            }
        }
        self.wanted.insert(netns);
    }

    pub(super) fn next_wanted(&mut self) -> Option<Inquiry> {
        self.wanted.pop_first().map(Inquiry::Conntrack)
    }

    /// The answer: of the namespace itself, and of the node's.
    pub(super) fn read(&mut self, at: Time, netns: NetnsId, now: [Option<Conntrack>; 2]) {
        let Some(page) = self.pages.get_mut(&netns) else {
            return;
        };
        page.answered = Some(at);
        for (first, now) in page.first.iter_mut().zip(&now) {
            *first = first.or(*now);
        }
        page.now = now;
    }

    /// Whether an answer is still to come for something that began then.
    pub(super) fn waits(&self, netns: NetnsId, begun: Time) -> Option<Time> {
        let page = self.pages.get(&netns)?;
        let answered = page.answered.is_some_and(|at| at >= begun);
        (!answered).then(|| page.since.max(begun).plus_micros(PATIENCE_US))
    }

    /// What is known of the tables a namespace's packets go through.
    pub(super) fn of(&self, netns: NetnsId) -> impl Iterator<Item = Table> {
        let page = self.pages.get(&netns);
        page.into_iter().flat_map(|page| {
            let both = [Whose::Pod, Whose::Node].into_iter();
            let pairs = both.zip(page.first.iter().zip(&page.now));
            pairs.filter_map(|(whose, (first, now))| {
                let (first, now) = ((*first)?, (*now)?);
                Some(Table {
                    whose,
                    now,
                    lost: now.drop.saturating_sub(first.drop),
                    evicted: now.early_drop.saturating_sub(first.early_drop),
                    invalid: now.invalid.saturating_sub(first.invalid),
                })
            })
        })
    }

    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.pages.remove(&netns);
        self.wanted.remove(&netns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: NetnsId = NetnsId(7);

    fn table(count: u64, drop: u64) -> Option<Conntrack> {
        Some(Conntrack {
            count,
            max: 100,
            drop,
            ..Conntrack::default()
        })
    }

    /// Asks once a second, and says whether a table is full.
    fn full(readings: &[[Option<Conntrack>; 2]]) -> Option<Whose> {
        let mut all = Tables::default();
        let mut at = Time(0);
        for reading in readings {
            at = at.plus_micros(1_000_000);
            all.ask(at, NS);
            assert_eq!(all.next_wanted(), Some(Inquiry::Conntrack(NS)));
            all.read(at, NS, *reading);
        }
        all.of(NS).find(Table::is_full).map(|table| table.whose)
    }

    #[test]
    fn full_is_told_from_nearly_full_and_from_the_past() {
        assert_eq!(full(&[]), None);
        assert_eq!(full(&[[table(100, 0), None]]), Some(Whose::Pod));
        assert_eq!(full(&[[table(3, 0), table(101, 0)]]), Some(Whose::Node));
        // Nothing was lost, or not for want of room, or before anybody looked.
        assert_eq!(full(&[[table(95, 0), None], [table(95, 0), None]]), None);
        assert_eq!(full(&[[table(50, 0), None], [table(50, 9), None]]), None);
        assert_eq!(full(&[[table(95, 9), None], [table(95, 9), None]]), None);
        assert_eq!(
            full(&[[table(95, 0), None], [table(95, 1), None]]),
            Some(Whose::Pod)
        );
    }

    #[test]
    fn nobody_waits_for_an_answer_that_does_not_come() {
        let mut all = Tables::default();
        assert_eq!(all.waits(NS, Time(0)), None);
        all.ask(Time(0), NS);
        assert_eq!(all.waits(NS, Time(0)), Some(Time(PATIENCE_US)));
        all.read(Time(900_000), NS, [None; 2]);
        assert_eq!(all.waits(NS, Time(0)), None);
    }

    #[test]
    fn questions_without_room_are_counted() {
        let mut all = Tables::default();
        for netns in 0..=u32::try_from(MAX_NAMESPACES).unwrap_or(u32::MAX) {
            all.ask(Time(0), NetnsId(netns));
        }
        assert_eq!((all.pages.len(), all.refused), (MAX_NAMESPACES, 1));
        // Who has not been asked about for long makes room.
        all.ask(Time(STALE_US + 1), NS);
        assert_eq!(all.refused, 1);
    }
}
