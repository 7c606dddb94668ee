//! What is told before its pod is known, and is no connection of the ledger: it waits, bounded.
//!
//! Connections wait in `late`, merged by edge; of what waits here a pod's first second has a
//! handful, and nothing is merged.

use crate::model::Time;

/// Looked at again after so long.
const RETRY_US: u64 = 500_000;

/// At most `MAX` things that wait for their pod, or its rules.
#[derive(Debug)]
pub(super) struct Waiting<T, const MAX: usize> {
    held: Vec<(Time, T)>,
    /// When to look again.
    pub(super) due: Option<Time>,
    /// What had no room, in the unit of the caller.
    pub(super) refused: u64,
}

impl<T, const MAX: usize> Default for Waiting<T, MAX> {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            due: None,
            refused: 0,
        }
    }
}

impl<T, const MAX: usize> Waiting<T, MAX> {
    pub(super) const fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Holds what was told at `since`; without room it counts as `n` refused.
    pub(super) fn hold(&mut self, now: Time, since: Time, what: T, n: u64) {
        if self.held.len() >= MAX {
            self.refused = self.refused.saturating_add(n);
            return;
        }
        self.held.push((since, what));
        let again = now.plus_micros(RETRY_US);
        self.due = Some(self.due.map_or(again, |due| due.min(again)));
    }

    /// Everything that waits, taken out to be looked at again.
    pub(super) fn take(&mut self) -> Vec<(Time, T)> {
        self.due = None;
        std::mem::take(&mut self.held)
    }
}
