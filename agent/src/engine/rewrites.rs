//! Destinations rewritten inside connect(2): whose connections they are.
//!
//! The connections themselves are counted in the ledger, under the destination they got. What
//! is told here is only that they asked for another one. What cannot be bound yet waits,
//! bounded, as connections wait in `late`. It must never judge a connection of which the
//! container is still about to be known: it may be the proxy's own.

use super::{
    diagnose,
    directory::Who,
    facts,
    late::{CONTAINER_WAIT_US, POD_WAIT_US},
    machine::Engine,
    surroundings::Surroundings,
};
use crate::model::{Rewrite, Time};

/// Rewritten destinations that wait for their pod.
const MAX_WAITING: usize = 512;
/// Looked at again after so long.
const RETRY_US: u64 = 500_000;

/// What waits for its pod.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    waiting: Vec<(Time, Rewrite)>,
    /// When to look again.
    pub(super) due: Option<Time>,
    /// Connections that had no room.
    pub(super) refused: u64,
}

impl Rewrites {
    fn hold(&mut self, now: Time, since: Time, rewrite: Rewrite) {
        if self.waiting.len() >= MAX_WAITING {
            self.refused = self.refused.saturating_add(rewrite.connections);
            return;
        }
        self.waiting.push((since, rewrite));
        let again = now.plus_micros(RETRY_US);
        self.due = Some(self.due.map_or(again, |due| due.min(again)));
    }
}

impl Engine {
    pub(super) fn rewrites(&mut self, all: Vec<Rewrite>) {
        for rewrite in all {
            self.rewrite(self.now, rewrite);
        }
    }

    /// Looks again at everything that waits.
    pub(super) fn retry_rewrites(&mut self) {
        self.known.rewrites.due = None;
        for (since, rewrite) in std::mem::take(&mut self.known.rewrites.waiting) {
            self.rewrite(since, rewrite);
        }
    }

    fn rewrite(&mut self, since: Time, rewrite: Rewrite) {
        let waited = self.now.micros_since(since);
        match self.known.directory.who(&rewrite.key.owner) {
            Who::Pod { settled: false, .. } if waited < CONTAINER_WAIT_US => {
                self.known.rewrites.hold(self.now, since, rewrite);
            }
            Who::Unknown(_) if waited < POD_WAIT_US => {
                self.known.rewrites.hold(self.now, since, rewrite);
            }
            Who::Pod { pod, container, .. } => {
                let own = self.known.directory.own_addresses(pod);
                let surroundings = Surroundings::of(&self.known);
                let Some(scene) = surroundings.scene(pod) else {
                    return;
                };
                let view = facts::look(&rewrite.key, scene.entry, container, &own);
                let told = diagnose::Rewritten::new(&rewrite, container, &own);
                diagnose::rewritten(self.now, pod, &told, &view, &scene, &mut self.findings);
            }
            Who::Host | Who::Unknown(_) => {}
        }
    }
}
