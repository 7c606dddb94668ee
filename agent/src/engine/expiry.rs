//! Expiry: when the directory lets go of what is gone.
//!
//! A pod that ended still owns what the kernel counted before: the last drain and the
//! records in flight. So pods and cgroups linger for a moment, still bound, and pods a
//! while longer for people to read about.

use super::directory::{CgroupEntry, Directory, PodEntry, PodId};
use crate::model::Time;

/// A drain comes every second, late ones after two; the rest is margin.
const GONE_GRACE_S: u64 = 5;

impl Directory {
    /// Lets go of pods that are gone long enough; returns them.
    pub(super) fn expire(&mut self, now: Time, linger_s: u64) -> Vec<PodId> {
        let mut forgotten = Vec::new();
        for (id, entry) in &mut self.pods {
            let Some(gone) = entry.gone else { continue };
            if entry.bindable && now >= gone.plus_secs(GONE_GRACE_S) {
                entry.bindable = false;
                self.stale = true;
            }
            if now >= gone.plus_secs(linger_s.max(GONE_GRACE_S)) {
                forgotten.push(*id);
            }
        }
        for id in &forgotten {
            self.pods.remove(id);
        }
        let kept = |c: &CgroupEntry| c.gone.is_none_or(|gone| now < gone.plus_secs(GONE_GRACE_S));
        self.cgroups.retain(|_, c| kept(c));
        forgotten
    }

    /// When [`Self::expire`] has something to do next.
    pub(super) fn next_expiry(&self, linger_s: u64) -> Option<Time> {
        let due = |p: &PodEntry| {
            let after = if p.bindable {
                GONE_GRACE_S
            } else {
                linger_s.max(GONE_GRACE_S)
            };
            p.gone.map(|gone| gone.plus_secs(after))
        };
        let cgroups = self.cgroups.values().filter_map(|c| c.gone);
        let cgroups = cgroups.map(|gone| gone.plus_secs(GONE_GRACE_S));
        self.pods.values().filter_map(due).chain(cgroups).min()
    }
}
