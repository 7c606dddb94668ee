//! The engine consults the rules: when a connection has to wait for them, and what they say.
//!
//! A bypass is only told with its reason, and the reason is in the rules. Where they have not
//! been read yet, or contradict what was seen, the connection is held back for a moment and a
//! reading asked for; where they cannot be read on this node, nobody waits.

use super::{
    RulesReading,
    directory::PodId,
    explain::{self, Explained, Question},
    facts::{self, View},
    late::CONTAINER_WAIT_US,
    machine::Engine,
};
use crate::model::{EdgeDelta, EdgeKey, NetnsId, Time};

impl Engine {
    /// A namespace whose rules contradict what is seen: to be read now. Each is told once.
    pub fn next_wanted_rules(&mut self) -> Option<NetnsId> {
        self.known.rulebook.next_wanted()
    }

    /// Rules were read: who waited for them is looked at again.
    pub(super) fn rules(&mut self, reading: RulesReading) {
        self.known.rulebook.read(self.now, reading);
        if !self.known.late.is_empty() {
            self.retry();
        }
        self.findings.touched = true;
    }

    /// Whether a connection that looks like a bypass must wait until the rules are known.
    pub(super) fn waits_for_rules(
        &mut self,
        pod: PodId,
        container: Option<u16>,
        delta: &EdgeDelta,
        since: Time,
    ) -> bool {
        let waited = self.now.micros_since(since);
        let readable = self.known.rulebook.readable;
        if !readable || delta.counts.established == 0 || waited >= CONTAINER_WAIT_US {
            return false;
        }
        let netns = delta.key.owner.netns;
        let own = self.known.directory.own_addresses(pod);
        let Some(entry) = self.known.directory.pod(pod) else {
            return false;
        };
        let view = facts::look(&delta.key, entry, container, &own);
        let Some(intent) = entry.intent.as_ref().filter(|_| explain::is_asked(&view)) else {
            return false;
        };
        let Some(page) = self.known.rulebook.of(netns) else {
            return true;
        };
        let Some(read) = &page.now else {
            return true;
        };
        let question = Question {
            key: &delta.key,
            view: &view,
            intent,
            own: &own,
            at: since,
        };
        if read.last > since || !explain::contradicts(page, &question) {
            return false;
        }
        self.known.rulebook.ask(self.now, netns);
        // Asked a moment ago: the answer is still to come, or it is the one that is known.
        true
    }

    /// What the live rules say about a connection that was not captured.
    pub(super) fn explained(&self, pod: PodId, view: &View, key: &EdgeKey) -> Option<Explained> {
        if !explain::is_asked(view) {
            return None;
        }
        let own = self.known.directory.own_addresses(pod);
        let intent = self.known.directory.pod(pod)?.intent.as_ref()?;
        let page = self.known.rulebook.of(key.owner.netns)?;
        let question = Question {
            key,
            view,
            intent,
            own: &own,
            at: self.now,
        };
        explain::explain(page, &question)
    }
}
