//! A bounded tally: how often each of a few values was seen, for evidence.
//!
//! Evidence shows a handful of destinations or processes; a scan over the internet must
//! not make a finding grow. At the bound new values only add to `others`. Ties are broken
//! by the value itself, so the order of unrelated connections never shows.

use std::collections::BTreeMap;

/// Counts of at most `N` distinct values.
#[derive(Clone, Debug)]
pub(super) struct Top<T, const N: usize> {
    seen: BTreeMap<T, u64>,
    others: u64,
}

impl<T, const N: usize> Default for Top<T, N> {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            others: 0,
        }
    }
}

impl<T: Ord + Clone, const N: usize> Top<T, N> {
    /// Adds `n` sightings of `value`.
    pub(super) fn add(&mut self, value: T, n: u64) {
        if let Some(count) = self.seen.get_mut(&value) {
            *count = count.saturating_add(n);
        } else if self.seen.len() < N {
            self.seen.insert(value, n);
        } else {
            self.others = self.others.saturating_add(n);
        }
    }

    /// The `n` values seen most, most first.
    pub(super) fn most(&self, n: usize) -> Vec<(T, u64)> {
        let mut all: Vec<_> = self.seen.iter().map(|(v, c)| (v.clone(), *c)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(n);
        all
    }

    /// Adds everything `other` counted.
    pub(super) fn merge(&mut self, other: &Self) {
        for (value, count) in &other.seen {
            self.add(value.clone(), *count);
        }
        self.others = self.others.saturating_add(other.others);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// How many distinct values are held, and sightings of values beyond the bound.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.seen.len(), self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::Top;

    #[test]
    fn keeps_the_bound_and_counts_the_rest() {
        let mut top = Top::<u32, 2>::default();
        for value in [1, 2, 3, 2] {
            top.add(value, 1);
        }
        assert_eq!(top.most(5), vec![(2, 2), (1, 1)]);
        assert_eq!(top.size(), (2, 1));
        assert!(!top.is_empty());
    }
}
