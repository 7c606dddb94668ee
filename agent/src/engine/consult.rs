//! The engine consults the rules: when a connection has to wait for them, and what they say.
//!
//! A bypass is only told with its reason, and the reason is in the rules. Where they have not
//! been read yet, or contradict what was seen, the connection is held back for a moment and a
//! reading asked for; where they cannot be read on this node, nobody waits.

use super::{
    Code, Inquiry, RulesReading, Verdict, diagnose,
    directory::PodId,
    explain::{self, Explained, Question},
    facts::{self, View},
    findings::Case,
    late::{CONTAINER_WAIT_US, RULES_WAIT_US},
    machine::Engine,
    rulebook::Page,
    surroundings::Surroundings,
    verdict::Path,
};
use crate::model::{Direction, EdgeDelta, EdgeKey, NetnsId, Outcome, Time};

impl Engine {
    /// A namespace whose rules contradict what is seen: to be read now. Each is told once.
    pub fn next_wanted_rules(&mut self) -> Option<NetnsId> {
        self.known.rulebook.next_wanted(self.now)
    }

    /// A namespace that is another pod's now: its accept queues are to be told although they may be as
    /// they were. Each is told once.
    pub fn next_wanted_queues(&mut self) -> Option<NetnsId> {
        self.known.sockets.next_forgotten()
    }

    /// What is to be read although nothing changed. Each is told once.
    pub fn next_inquiry(&mut self) -> Option<Inquiry> {
        let known = &mut self.known;
        let passage = || known.passages.next_wanted().map(Inquiry::Passage);
        let wanted = known.throttles.next_wanted().or_else(passage);
        let wanted = wanted.or_else(|| known.marked.next_wanted());
        let wanted = wanted.or_else(|| known.streams.next_wanted());
        let wanted = wanted.or_else(|| known.tables.next_wanted());
        wanted.or_else(|| known.memories.next_wanted())
    }

    /// Rules were read: who waited for them is looked at again.
    pub(super) fn rules(&mut self, reading: RulesReading) {
        let netns = reading.netns;
        self.known.rulebook.read(self.now, reading);
        self.rules_came(netns);
        if !self.known.late.is_empty() || !self.known.flows.is_empty() {
            self.retry();
        }
        self.rules_are_back(netns);
        self.reread_dns(netns);
        self.blame_again(netns);
        self.findings.touched = true;
    }

    /// Rules changed: what was filed under the old ones is asked about again. Connections that
    /// these would capture are older than they are; others get their better reason.
    fn rules_came(&mut self, netns: NetnsId) {
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let surroundings = Surroundings::of(&self.known);
        let (Some(scene), Some(page)) = (surroundings.scene(pod), self.known.rulebook.of(netns))
        else {
            return;
        };
        if page.now.as_ref().is_none_or(|now| now.first != self.now) {
            return;
        }
        let explain =
            |case: &Case| explain::again(page, scene.intent, (&own, scene.ns), scene.entry, case);
        let render = |case: &Case| surroundings.render(case);
        let of = (pod, scene.intent);
        diagnose::refile(self.now, of, &explain, &mut self.findings, &render);
    }

    /// Rules that were removed may be back. What is captured again need not be seen to be: there may be no such
    /// connection for long. What was counted late of the time between is over as well.
    fn rules_are_back(&mut self, netns: NetnsId) {
        let code = Code::BypassRulesRemoved;
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let surroundings = Surroundings::of(&self.known);
        let case = self.findings.get(pod, code).filter(|c| c.is_current());
        let page = self.known.rulebook.of(netns);
        if let (Some(case), Some(page), Some(scene)) = (case, page, surroundings.scene(pod))
            && explain::captures_again(page, scene.intent, (&own, scene.ns), scene.entry, case)
        {
            self.resolve(pod, code);
        }
    }

    /// Whether a captured connection contradicts a finding, or the suspicion of one, that only
    /// better rules can settle: were there none, or were they late? Rules that do capture it
    /// leave nothing to settle.
    pub(super) fn outdates_rules(
        &mut self,
        pod: PodId,
        view: &View,
        key: &EdgeKey,
        verdict: Verdict,
    ) -> bool {
        if verdict != Verdict::Intercepted {
            return false;
        }
        if key.direction == Direction::Inbound {
            // Rules that were removed may be back: they say whether for all ports.
            let removed = self.findings.get(pod, Code::BypassRulesRemoved);
            if removed.is_some_and(Case::is_current) {
                self.known.rulebook.ask(self.now, key.owner.netns);
            }
            return false;
        }
        let suspects = diagnose::ENDED_BY_CAPTURE
            .iter()
            .any(|code| self.findings.get(pod, *code).is_some_and(Case::is_current));
        let leaves_open = |page: &Page, q: &Question<'_>| {
            page.knows(view.family, q.since) && !explain::would_capture(page, q)
        };
        suspects
            && self.consult(pod, view, key, leaves_open) == Some(true)
            && self.known.rulebook.is_stale(self.now, key.owner.netns)
    }

    /// Whether a connection that looks like a bypass must wait until the rules are known; where they
    /// contradict it, until they were read after it came.
    pub(super) fn waits_for_rules(
        &mut self,
        pod: PodId,
        view: &View,
        delta: &EdgeDelta,
        since: Time,
    ) -> bool {
        if !self.known.rulebook.readable || !explain::is_asked(view) {
            return false;
        }
        // What failed needs a reason from the rules only if they led it astray.
        if delta.counts.established == 0 && view.path != Path::Elsewhere {
            return false;
        }
        // Never read at all: the first reading is on its way.
        let first = match self.only_rules_tell(pod, view, &delta.key) {
            true => RULES_WAIT_US,
            false => CONTAINER_WAIT_US,
        };
        let unsettled = |page: &Page, q: &Question<'_>| match page.read_since(q.since) {
            None => first,
            // Somebody may just have taken them away.
            Some(read) if read.began <= since && explain::would_capture(page, q) => RULES_WAIT_US,
            Some(_) => 0,
        };
        let asked = self.consult(pod, view, &delta.key, unsettled);
        let mut most = asked.unwrap_or(first);
        let entry = self.known.directory.pod(pod);
        if entry.is_none_or(|entry| entry.gone.is_some()) {
            // Its rules may never be read again, and soon nobody knows whose it was.
            most = most.min(CONTAINER_WAIT_US);
        }
        let waits = self.now.micros_since(since) < most;
        if waits && asked.is_some() {
            let netns = delta.key.owner.netns;
            self.known.rulebook.insist(self.now, netns, since);
        }
        waits
    }

    /// Whether nobody will ever say of a connection that it stepped around the proxy unless the rules do, and they
    /// were not read yet.
    fn only_rules_tell(&self, pod: PodId, view: &View, key: &EdgeKey) -> bool {
        let surroundings = Surroundings::of(&self.known);
        let scene = surroundings.scene(pod);
        scene.is_some_and(|scene| facts::may_be_the_proxys(key, view, scene.intent))
            && !self.known.rulebook.is_read(key.owner.netns)
    }

    /// Whether a refused connection must wait until the rules are known for the first time: one of them may be what
    /// refused it, and nobody asks again about what was counted.
    pub(super) fn refusal_waits(&mut self, pod: PodId, delta: &EdgeDelta, since: Time) -> bool {
        let refused = delta.counts.refused > 0 && delta.key.direction == Direction::Outbound;
        let waited = self.now.micros_since(since);
        if !refused || !self.known.rulebook.readable || waited >= CONTAINER_WAIT_US {
            return false;
        }
        let entry = self.known.directory.pod(pod);
        let here = entry.filter(|entry| !entry.pod.host_network);
        let Some((netns, known)) = here.and_then(|entry| Some((entry.netns?, entry.since))) else {
            return false;
        };
        let page = self.known.rulebook.of(netns);
        let read = page.is_some_and(|page| page.read_since(known).is_some());
        if !read {
            self.known.rulebook.ask(self.now, netns);
        }
        !read
    }

    /// What the live rules say about a connection of `since` that was not captured, or was lost on
    /// the way to another port than the proxy's.
    pub(super) fn explained(
        &self,
        (pod, since): (PodId, Time),
        view: &View,
        key: &EdgeKey,
        outcome: Outcome,
    ) -> Option<Explained> {
        let elsewhere = view.path == Path::Elsewhere;
        if !explain::is_asked(view) || (outcome != Outcome::Established && !elsewhere) {
            return None;
        }
        let then =
            |page: &Page, q: &Question<'_>| explain::explain(page, &Question { at: since, ..*q });
        self.consult(pod, view, key, then)?
    }

    /// Asks the rules of its namespace about a connection of a pod in a mesh; `None` where none
    /// were ever heard of.
    fn consult<T>(
        &self,
        pod: PodId,
        view: &View,
        key: &EdgeKey,
        ask: impl FnOnce(&Page, &Question<'_>) -> T,
    ) -> Option<T> {
        let entry = self.known.directory.pod(pod)?;
        let page = self.known.rulebook.of(key.owner.netns)?;
        let own = self.known.directory.own_addresses(pod);
        let question = Question {
            key,
            view,
            intent: entry.intent.as_ref()?,
            own: &own,
            interface: entry.interface(key.local),
            ns: self.known.sockets.of(key.owner.netns),
            at: self.now,
            since: entry.since,
        };
        Some(ask(page, &question))
    }
}
