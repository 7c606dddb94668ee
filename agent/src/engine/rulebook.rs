//! The rules of every network namespace: as they are, as they were, and who changed them.
//!
//! Nothing here knows pods: a namespace may have rules before it has a pod. What is known
//! goes with the namespace, because its number is used again. Hundreds of pods have the same
//! rules, so those are kept once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
};

use serde::{Deserialize, Serialize};

use super::{RulesRead, RulesReading, RulesSource};
use crate::{
    model::{Family, NetnsId, Process, RulesBackend, Time},
    rules::Ruleset,
};

/// Namespaces with rules or changes.
const MAX_NAMESPACES: usize = 16_384;
/// Earlier rules kept of a namespace: enough for a flush in several steps.
const MAX_EARLIER: usize = 4;
/// A namespace whose rules contradict what is seen is read again after so long at the earliest…
const ASK_AGAIN_US: u64 = 5_000_000;
/// …and after so long where connections wait for it, while that is new.
const INSIST_US: u64 = 2_000_000;
/// A contradiction is new for so long, and after as long without one the next is.
const NEW_US: u64 = 10_000_000;
/// A reading that was asked for comes within this time, or is not waited for.
const ANSWER_US: u64 = 2_500_000;

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

/// The rules of a namespace over some time.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// First time they were read.
    pub(super) first: Time,
    /// Last time they were read.
    pub(super) last: Time,
    /// When that reading began: it says nothing of what changed since.
    pub(super) began: Time,
    /// How each kind of rules was read.
    pub(super) sources: Vec<(RulesSource, RulesRead)>,
    /// The rules.
    pub(super) rules: Arc<Ruleset>,
    /// The change that led to them, where the kernel told.
    pub(super) by: Option<RulesChange>,
}

impl Read {
    /// Whether everything there is for this family was read and understood in its outline.
    pub(super) fn is_known(&self, family: Family) -> bool {
        self.sources
            .iter()
            .filter(|(source, _)| source.has_rules() && source.family().is_none_or(|f| f == family))
            .all(|(_, read)| read.is_known())
    }
}

/// What is known of the rules of one namespace.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// As they are.
    pub(super) now: Option<Read>,
    /// As they were before, latest first.
    pub(super) earlier: VecDeque<Read>,
    /// The last change told.
    pub(super) changed: Option<RulesChange>,
    /// Changes told since the namespace was first heard of.
    pub(super) changes: u64,
    /// When a reading was asked for last; this may be yet to come.
    asked: Option<Time>,
    /// First and last time that connections waited for one.
    insisted: Option<(Time, Time)>,
}

impl Page {
    /// The rules as they are, if they were read since `since`: numbers of namespaces are used
    /// again, and what was read before a pod was known may be another pod's.
    pub(super) fn read_since(&self, since: Time) -> Option<&Read> {
        self.now.as_ref().filter(|now| now.last >= since)
    }

    /// As they were before, latest first, as far as they were read since `since`.
    pub(super) fn earlier_since(&self, since: Time) -> impl Iterator<Item = &Read> {
        self.earlier.iter().filter(move |read| read.last >= since)
    }

    /// Whether the rules of this family were read since then, in full.
    pub(super) fn knows(&self, family: Family, since: Time) -> bool {
        self.read_since(since)
            .is_some_and(|now| now.is_known(family))
    }
}

/// The rules of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Rulebook {
    pages: BTreeMap<NetnsId, Page>,
    shared: Vec<Weak<Ruleset>>,
    /// Namespaces that had no room.
    pub(super) refused: u64,
    /// Namespaces to be read, and from when.
    wanted: BTreeMap<NetnsId, Time>,
    /// Some namespace was read in full: rules can be read here.
    pub(super) readable: bool,
}

impl Rulebook {
    /// What is known of a namespace's rules.
    pub(super) fn of(&self, netns: NetnsId) -> Option<&Page> {
        self.pages.get(&netns)
    }

    /// Whether a namespace's rules were read at all.
    pub(super) fn is_read(&self, netns: NetnsId) -> bool {
        self.of(netns).is_some_and(|page| page.now.is_some())
    }

    /// A reading came in.
    pub(super) fn read(&mut self, at: Time, mut reading: RulesReading) {
        self.readable |= reading.is_complete();
        let began = Time(at.0.saturating_sub(reading.lasted_us));
        let mut rules = std::mem::take(&mut reading.ruleset);
        rules.forget_counters();
        let rules = self.share(rules);
        let Some(page) = self.page(reading.netns) else {
            return;
        };
        let same = page.now.as_mut().filter(|now| {
            now.sources == reading.sources
                && (Arc::ptr_eq(&now.rules, &rules) || now.rules == rules)
        });
        if let Some(now) = same {
            now.last = at;
            now.began = began;
            return;
        }
        // A change told before the rules were last read led to those.
        let since = page.now.as_ref().map(|now| now.first);
        let fresh = |change: &RulesChange| since.is_none_or(|since| change.at > since);
        let before = page.now.replace(Read {
            first: at,
            last: at,
            began,
            sources: reading.sources,
            rules,
            by: page.changed.clone().filter(fresh),
        });
        if let Some(before) = before {
            page.earlier.push_front(before);
            page.earlier.truncate(MAX_EARLIER);
        }
    }

    /// A change was told.
    pub(super) fn changed(&mut self, netns: NetnsId, change: RulesChange) {
        if let Some(page) = self.page(netns) {
            page.changes = page.changes.saturating_add(1);
            page.changed = Some(change);
        }
    }

    /// Whether what is known of its rules is about to be known better: wants them read, and
    /// is content with a moment's wait.
    pub(super) fn is_stale(&mut self, at: Time, netns: NetnsId) -> bool {
        self.ask(at, netns);
        let page = self.pages.get(&netns);
        page.and_then(|page| page.asked)
            .is_some_and(|asked| at.micros_since(asked) < ANSWER_US)
    }

    /// Wants this namespace read, unless it was wanted a moment ago.
    pub(super) fn ask(&mut self, at: Time, netns: NetnsId) {
        let Some(page) = self.pages.get_mut(&netns) else {
            return;
        };
        let recently = |asked: Time| at.micros_since(asked) < ASK_AGAIN_US;
        if !page.asked.is_some_and(recently) {
            page.asked = Some(at);
            self.wanted.insert(netns, at);
        }
    }

    /// Wants a namespace read once more after `since`, for a connection that waits for it.
    pub(super) fn insist(&mut self, at: Time, netns: NetnsId, since: Time) {
        let Some(page) = self.pages.get_mut(&netns) else {
            return;
        };
        // The answer to that is still to come, or it is the one that is known.
        if page.asked.is_some_and(|asked| asked >= since) {
            return;
        }
        let again = page
            .insisted
            .filter(|(_, last)| at.micros_since(*last) < NEW_US);
        let begun = again.map_or(at, |(begun, _)| begun);
        page.insisted = Some((begun, at));
        let is_new = at.micros_since(begun) < NEW_US;
        let wait = if is_new { INSIST_US } else { ASK_AGAIN_US };
        let from = page
            .asked
            .map_or(at, |asked| at.max(asked.plus_micros(wait)));
        page.asked = Some(from);
        self.wanted.entry(netns).or_insert(from);
    }

    /// Wants a namespace read that nobody reads unasked, unless it was read within `age_us`.
    pub(super) fn ask_unread(&mut self, at: Time, netns: NetnsId, age_us: u64) {
        let Some(page) = self.page(netns) else {
            return;
        };
        let young = |now: &Read| at.micros_since(now.last) < age_us;
        if !page.now.as_ref().is_some_and(young) {
            self.ask(at, netns);
        }
    }

    /// Only the last rules of this namespace are kept: it is the node's, and they are many.
    pub(super) fn keep_last(&mut self, netns: NetnsId) {
        if let Some(page) = self.pages.get_mut(&netns) {
            page.earlier.clear();
        }
    }

    /// Forgets rules that nobody asked for.
    pub(super) fn forget_read(&mut self, netns: NetnsId) {
        if let Some(page) = self.pages.get_mut(&netns) {
            page.now = None;
        }
    }

    /// The next namespace to be read.
    pub(super) fn next_wanted(&mut self, at: Time) -> Option<NetnsId> {
        let mut wanted = self.wanted.iter();
        let (netns, _) = wanted.find(|(_, from)| **from <= at)?;
        let netns = *netns;
        self.wanted.remove(&netns);
        Some(netns)
    }

    /// When [`Self::next_wanted`] has something that it has not now.
    pub(super) fn due(&self, at: Time) -> Option<Time> {
        self.wanted
            .values()
            .copied()
            .filter(|from| *from > at)
            .min()
    }

    /// The namespace is gone.
    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.pages.remove(&netns);
        self.wanted.remove(&netns);
    }

    /// Wants a namespace read whose rules were read only before this: nobody sends again what
    /// did not change, and what is older than its pod does not count as its rules.
    pub(super) fn ask_older(&mut self, at: Time, netns: NetnsId, than: Time) {
        let now = self.pages.get(&netns).and_then(|page| page.now.as_ref());
        if now.is_some_and(|now| now.last < than) {
            self.ask(at, netns);
        }
    }

    /// The namespace's number is another pod's now: forgets its rules, and changes told before
    /// that, and wants it read.
    pub(super) fn forget_before(&mut self, at: Time, netns: NetnsId, before: Time) {
        let Some(page) = self.pages.get_mut(&netns) else {
            return;
        };
        // A reading says when it was made, not of whom: none is kept.
        page.now = None;
        page.earlier.clear();
        page.changed = page.changed.take().filter(|change| change.at >= before);
        page.changes = page.changed.is_some().into();
        page.asked = Some(at);
        self.wanted.insert(netns, at);
    }

    fn page(&mut self, netns: NetnsId) -> Option<&mut Page> {
        if self.pages.len() >= MAX_NAMESPACES && !self.pages.contains_key(&netns) {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        Some(self.pages.entry(netns).or_default())
    }

    /// The same rules of another namespace, if there are any: kept once.
    fn share(&mut self, rules: Ruleset) -> Arc<Ruleset> {
        self.shared.retain(|known| known.strong_count() > 0);
        let known = self
            .shared
            .iter()
            .filter_map(Weak::upgrade)
            .find(|known| **known == rules);
        known.unwrap_or_else(|| {
            let rules = Arc::new(rules);
            self.shared.push(Arc::downgrade(&rules));
            rules
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted() {
        let change = RulesChange {
            at: Time(1),
            backend: RulesBackend::Nft,
            family: None,
            uid: 0,
            process: Process {
                pid: 1,
                comm: "nft".to_owned(),
            },
        };
        let mut book = Rulebook::default();
        for netns in 0..20_000 {
            book.changed(NetnsId(netns), change.clone());
        }
        assert_eq!(book.pages.len(), MAX_NAMESPACES);
        assert_eq!(book.refused, 20_000 - MAX_NAMESPACES as u64);
        book.gone(NetnsId(1));
        assert!(book.of(NetnsId(1)).is_none());
    }
}
