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
    waiting::Waiting,
};
use crate::model::{Rewrite, Time};

/// Rewritten destinations that wait.
const MAX_WAITING: usize = 512;

/// Rewritten destinations that wait for their pod.
pub(super) type Rewrites = Waiting<Rewrite, MAX_WAITING>;

impl Engine {
    pub(super) fn rewrites(&mut self, all: Vec<Rewrite>) {
        for rewrite in all {
            self.rewrite(self.now, rewrite);
        }
    }

    /// Looks again at everything that waits.
    pub(super) fn retry_rewrites(&mut self) {
        for (since, rewrite) in self.known.rewrites.take() {
            self.rewrite(since, rewrite);
        }
    }

    fn rewrite(&mut self, since: Time, rewrite: Rewrite) {
        let waited = self.now.micros_since(since);
        match self.known.directory.who(&rewrite.key.owner) {
            Who::Pod { settled: false, .. } if waited < CONTAINER_WAIT_US => {
                self.hold_rewrite(since, rewrite);
            }
            Who::Unknown(_) if waited < POD_WAIT_US => {
                self.hold_rewrite(since, rewrite);
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

    fn hold_rewrite(&mut self, since: Time, rewrite: Rewrite) {
        let n = rewrite.connections;
        self.known.rewrites.hold(self.now, since, rewrite, n);
    }
}
