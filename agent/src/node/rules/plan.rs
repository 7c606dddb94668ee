//! When to read which namespace's rules.
//!
//! At once where something happened, rarely elsewhere, and never for more than a share of
//! the time: a node that starts with 250 pods, or a pod that rewrites its rules without
//! end, must not pay for being watched. Pure: times and costs are handed in.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::model::NetnsId;

/// Injectors change several tables, one after the other: a change is read so long after it…
const SETTLE: Duration = Duration::from_millis(200);
/// …and at the latest so long after the first.
const SETTLE_MOST: Duration = Duration::from_secs(1);
/// Who asks for a namespace again and again gets a reading in this time.
const ASKED_AGAIN: Duration = Duration::from_secs(2);
/// A namespace this young gets its rules soon; where no change is told it is looked at often.
const YOUNG: Duration = Duration::from_secs(30);
const YOUNG_EVERY: Duration = Duration::from_secs(1);
/// Readings take at most one part of so many of a processor while there is something new…
const SHARE_NEWS: u32 = 5;
/// …the regular ones alone one part of so many…
const SHARE_REGULAR: u32 = 100;
/// …and those of the young one of so many: when the agent starts, everybody is young.
const SHARE_YOUNG: u32 = 20;
/// Something new comes before what is only due, unless that has waited this long.
const HEAD_START: Duration = Duration::from_secs(10);
/// Nothing is believed unchanged for longer without reading it in full.
const FULL_EVERY: Duration = Duration::from_secs(60);
/// Later than anything else.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Most namespaces whose rules are read.
pub(super) const MAX_NAMESPACES: usize = 4_096;

/// Why a namespace is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Its time has come.
    Due,
    /// It is new.
    New,
    /// Somebody wants to know.
    Asked,
    /// Its rules changed.
    Changed,
}

/// How often without a reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Every {
    /// Where the kernel tells of changes.
    pub(super) told: Duration,
    /// Where it does not.
    pub(super) untold: Duration,
}

/// A reading to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) netns: NetnsId,
    pub(super) path: PathBuf,
    pub(super) why: Why,
    /// What [`Plan::done`] was given last; absent where it must be read in full.
    pub(super) known: Option<u32>,
}

/// A reading that was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// Processor time.
    pub(super) cost: Duration,
    /// Whether everything was read.
    pub(super) full: bool,
    /// By what the next can tell that nothing changed.
    pub(super) known: Option<u32>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    since: Instant,
    due: Instant,
    why: Why,
    /// The first change since the last reading.
    changed: Option<Instant>,
    read: Option<Instant>,
    full: Option<Instant>,
    known: Option<u32>,
    cost: Duration,
    /// Only when somebody asks: the node's own may have ten thousand rules.
    asked_only: bool,
}

/// What is to be read when.
#[derive(Debug)]
pub(super) struct Plan {
    places: BTreeMap<NetnsId, Place>,
    /// The node's own namespace.
    node: Option<NetnsId>,
    every: Every,
    told: bool,
    /// Not before: readings take only their share.
    earliest: Instant,
    refused: u64,
}

impl Plan {
    pub(super) fn new(every: Every, now: Instant) -> Self {
        Self {
            places: BTreeMap::new(),
            node: None,
            every,
            told: false,
            earliest: now,
            refused: 0,
        }
    }

    /// Whether the kernel tells of changes.
    pub(super) fn told(&mut self, told: bool) {
        self.told = told;
    }

    /// The node's own namespace, which is only read when somebody asks.
    pub(super) fn node(&mut self, node: Option<NetnsId>) {
        self.node = node;
    }

    /// The namespaces there are; what is not among them is forgotten. True if one is new.
    pub(super) fn places(&mut self, there: Vec<(NetnsId, PathBuf)>, now: Instant) -> bool {
        let before = std::mem::take(&mut self.places);
        let mut old = before;
        let mut new = false;
        for (netns, path) in there {
            if self.places.len() >= MAX_NAMESPACES {
                self.refused = self.refused.saturating_add(1);
                continue;
            }
            let place = match old.remove(&netns) {
                Some(place) => Place { path, ..place },
                None if self.node == Some(netns) => Place::asked_only(path, now),
                None => {
                    new = true;
                    Place::new(path, now)
                }
            };
            self.places.insert(netns, place);
        }
        new
    }

    /// Namespaces that were not taken for want of room, each time they were seen.
    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn knows(&self, netns: NetnsId) -> bool {
        self.places.contains_key(&netns)
    }

    /// Somebody changes its rules; true if a reading came closer.
    pub(super) fn changed(&mut self, netns: NetnsId, now: Instant) -> bool {
        let Some(place) = self.places.get_mut(&netns).filter(|p| !p.asked_only) else {
            return false;
        };
        let first = *place.changed.get_or_insert(now);
        place.why = Why::Changed;
        place.due = (now + SETTLE).min(first + SETTLE_MOST);
        place.known = None;
        true
    }

    /// Somebody wants to know its rules; true if a reading came closer.
    pub(super) fn asked(&mut self, netns: NetnsId, now: Instant) -> bool {
        let Some(place) = self.places.get_mut(&netns) else {
            return false;
        };
        let soon = place.read.map_or(now, |read| now.max(read + ASKED_AGAIN));
        place.known = None;
        place.why = place.why.max(Why::Asked);
        if soon < place.due {
            place.due = soon;
            return true;
        }
        false
    }

    /// When there is something to do next.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let first = self.places.values().map(|place| place.due).min();
        first.map(|due| due.max(self.earliest))
    }

    /// What to read now. From here on its changes call for another reading.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Next> {
        if now < self.earliest {
            return None;
        }
        let due = self.places.iter_mut().filter(|(_, place)| place.due <= now);
        let (netns, place) = due.min_by_key(|(_, place)| {
            let late = if place.why > Why::Due {
                Duration::ZERO
            } else {
                HEAD_START
            };
            place.due + late
        })?;
        let fresh = |full: Instant| now.duration_since(full) < FULL_EVERY;
        let next = Next {
            netns: *netns,
            path: place.path.clone(),
            why: place.why,
            known: place.known.filter(|_| place.full.is_some_and(fresh)),
        };
        place.why = Why::Due;
        place.changed = None;
        place.due = now
            + if place.asked_only {
                NEVER
            } else {
                self.every.told
            };
        Some(next)
    }

    /// A reading is done.
    pub(super) fn done(&mut self, netns: NetnsId, now: Instant, done: Done) {
        let Done { cost, full, known } = done;
        self.earliest = now + cost * (SHARE_NEWS - 1);
        let told = self.told;
        let all = self
            .places
            .values()
            .map(|place| place.cost)
            .sum::<Duration>();
        let every = if told {
            self.every.told
        } else {
            self.every.untold
        };
        let every = every.max(all * SHARE_REGULAR);
        let Some(place) = self.places.get_mut(&netns) else {
            return;
        };
        place.cost = cost;
        place.read = Some(now);
        if full {
            place.full = Some(now);
        }
        // What changed while it was read is read again.
        if place.why > Why::Due {
            return;
        }
        place.known = known;
        if place.asked_only {
            // Nor does what it cost make the others' turns rarer.
            place.cost = Duration::ZERO;
            place.due = now + NEVER;
            return;
        }
        let young = !told && now.duration_since(place.since) < YOUNG;
        let after = if young {
            every.min(YOUNG_EVERY.max(all * SHARE_YOUNG))
        } else {
            every
        };
        place.due = now + after + jitter(netns, after);
    }
}

impl Place {
    fn new(path: PathBuf, now: Instant) -> Self {
        Self {
            path,
            since: now,
            due: now,
            why: Why::New,
            changed: None,
            read: None,
            full: None,
            known: None,
            cost: Duration::ZERO,
            asked_only: false,
        }
    }

    fn asked_only(path: PathBuf, now: Instant) -> Self {
        Self {
            due: now + NEVER,
            why: Why::Due,
            asked_only: true,
            ..Self::new(path, now)
        }
    }
}

/// Up to a quarter of `every`, always the same for a namespace: 250 pods that started
/// together are not read together for ever.
fn jitter(netns: NetnsId, every: Duration) -> Duration {
    let spread = netns.0.wrapping_mul(0x9e37_79b9) >> 24;
    every / 4 * spread / 256
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
