//! What was read of each edge at the last look, in as little memory as may be.
//!
//! A node's ten thousand edges are the agent's largest table. A hash map with keys and values
//! inside leaves a third of it empty, and holds one and a half when it grows: here the rows lie
//! close together, and only their numbers are hashed. Rows go in bunches, once a second at the
//! most, so that the index is made anew then and knows no holes.

use std::hash::{BuildHasher, RandomState};

use sidestep_abi::{EdgeKey, EdgeValue};

/// Not the number of a row.
const EMPTY: u32 = u32::MAX;
/// Rows are made room for in steps: doubling would leave megabytes unused.
const STEP: usize = 1_024;
/// Places of the index at first.
const FIRST: usize = 64;

/// What was read of an edge at the last look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) key: EdgeKey,
    pub(super) value: EdgeValue,
    /// Looks without a change.
    pub(super) idle: u16,
    /// The look it was there last.
    pub(super) look: u32,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Totals {
    rows: Vec<Last>,
    /// Numbers of rows, by the hash of their keys; a power of two, at most half of it in use.
    index: Vec<u32>,
    hasher: RandomState,
}

impl Totals {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            index: vec![EMPTY; FIRST],
            hasher: RandomState::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn knows(&self, key: &EdgeKey) -> bool {
        self.row(self.place(key)).is_some()
    }

    /// The row of a key, made if it is new.
    pub(super) fn of(&mut self, key: &EdgeKey, look: u32) -> Option<&mut Last> {
        let mut place = self.place(key);
        if self.row(place).is_none() {
            if self.rows.len() * 2 >= self.index.len() {
                self.reindex(self.index.len() * 2);
                place = self.place(key);
            }
            let number = u32::try_from(self.rows.len()).ok()?;
            if self.rows.len() == self.rows.capacity() {
                self.rows.reserve_exact(STEP);
            }
            self.rows.push(Last {
                key: *key,
                value: EdgeValue::default(),
                idle: 0,
                look,
            });
            *self.index.get_mut(place)? = number;
        }
        let number = self.row(place)?;
        self.rows.get_mut(number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Last> {
        self.rows.iter()
    }

    /// Forgets all others.
    pub(super) fn keep(&mut self, is_kept: impl FnMut(&Last) -> bool) {
        let before = self.rows.len();
        self.rows.retain(is_kept);
        if self.rows.len() != before {
            self.rows.shrink_to(self.rows.len().next_multiple_of(STEP));
            let room = (self.rows.len() * 2).next_power_of_two().max(FIRST);
            self.reindex(room);
        }
    }

    fn reindex(&mut self, room: usize) {
        self.index.clear();
        self.index.shrink_to(room);
        self.index.resize(room, EMPTY);
        for row in 0..self.rows.len() {
            let Some(place) = self.rows.get(row).map(|last| self.place(&last.key)) else {
                continue;
            };
            if let (Some(slot), Ok(number)) = (self.index.get_mut(place), u32::try_from(row)) {
                *slot = number;
            }
        }
    }

    /// Where the number of a key's row is, or would be.
    fn place(&self, key: &EdgeKey) -> usize {
        let last = self.index.len() - 1;
        // A table of the probes holds far fewer than 2^32 edges: the low half will do.
        let hash = self.hasher.hash_one(key) & u64::from(u32::MAX);
        let mut place = usize::try_from(hash).unwrap_or(0) & last;
        while let Some(row) = self.row(place) {
            if self.rows.get(row).is_none_or(|last| last.key == *key) {
                break;
            }
            place = (place + 1) & last;
        }
        place
    }

    fn row(&self, place: usize) -> Option<usize> {
        let number = self.index.get(place).filter(|number| **number != EMPTY)?;
        usize::try_from(*number).ok()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::collections::HashMap;

    use super::Totals;
    use sidestep_abi::EdgeKey;

    fn key(number: u32) -> EdgeKey {
        EdgeKey {
            netns: number,
            ..EdgeKey::default()
        }
    }

    #[test]
    fn it_holds_what_a_map_would() {
        let (mut totals, mut map) = (Totals::new(), HashMap::new());
        for step in 0..20_000_u32 {
            let number = step.wrapping_mul(7_919) % 3_001;
            totals.of(&key(number), step).unwrap().look = step;
            map.insert(number, step);
            if step % 1_500 == 0 {
                totals.keep(|last| last.key.netns % 3 != step % 3);
                map.retain(|number, _| number % 3 != step % 3);
            }
        }
        assert_eq!(totals.len(), map.len());
        for number in 0..3_001 {
            assert_eq!(totals.knows(&key(number)), map.contains_key(&number));
        }
        for last in totals.iter() {
            assert_eq!(map.get(&last.key.netns), Some(&last.look));
        }
        totals.keep(|_| false);
        assert!(totals.len() == 0 && !totals.knows(&key(1)));
    }
}
