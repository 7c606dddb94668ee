//! Whose turn it is to be looked at.
//!
//! Looking at all of 250 pods every second would cost more than all else on the node: those where
//! somebody waits come first, and the rest in turns. Pure.

use std::{collections::BTreeMap, path::PathBuf};

use crate::model::NetnsId;

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
