//! The rules of every network namespace, as last read, and who changed them last.
//!
//! Nothing here knows pods: a namespace may have rules before it has a pod. What is known
//! goes with the namespace, because its number is used again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RulesReading;
use crate::model::{Family, NetnsId, Process, RulesBackend, Time};

/// Namespaces with rules or changes.
const MAX_NAMESPACES: usize = 16_384;

/// A change of rules that the kernel told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesChange {
    /// When.
    pub at: Time,
    /// The kernel's side of it.
    pub backend: RulesBackend,
    /// Family of the table, where known.
    pub family: Option<Family>,
    /// User that did it, as seen from the host.
    pub uid: u32,
    /// Process that did it.
    pub process: Process,
}

/// What is known of the rules of one namespace.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The last reading, and when it came.
    pub(super) reading: Option<(Time, Box<RulesReading>)>,
    /// The last change told.
    pub(super) changed: Option<RulesChange>,
    /// Changes told since the namespace was first heard of.
    pub(super) changes: u64,
}

/// The rules of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Rulebook {
    pages: BTreeMap<NetnsId, Page>,
    pub(super) refused: u64,
}

impl Rulebook {
    /// What is known of a namespace's rules.
    pub(super) fn of(&self, netns: NetnsId) -> Option<&Page> {
        self.pages.get(&netns)
    }

    /// A reading came in.
    pub(super) fn read(&mut self, at: Time, reading: Box<RulesReading>) {
        if let Some(page) = self.page(reading.netns) {
            page.reading = Some((at, reading));
        }
    }

    /// A change was told.
    pub(super) fn changed(&mut self, netns: NetnsId, change: RulesChange) {
        if let Some(page) = self.page(netns) {
            page.changes = page.changes.saturating_add(1);
            page.changed = Some(change);
        }
    }

    /// The namespace is gone.
    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.pages.remove(&netns);
    }

    fn page(&mut self, netns: NetnsId) -> Option<&mut Page> {
        if self.pages.len() >= MAX_NAMESPACES && !self.pages.contains_key(&netns) {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        Some(self.pages.entry(netns).or_default())
    }
}
