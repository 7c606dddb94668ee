//! Changes of who is who, as the engine takes them in, and the intent of each pod.
//!
//! Whatever changes, what waits for its pod is looked at again a moment later: a burst of
//! changes is one retry. An intent is read in one place only; it is read again when the
//! manifest changes, or the listening sockets it was guessed from.

use super::{
    binding::Before, diagnose, directory::PodId, findings::Case, input::Change, machine::Engine,
    surroundings::Surroundings,
};
use crate::{mesh::IntentSource, model::PodKey};

/// Retries of what waits are bundled over this time.
const RETRY_US: u64 = 50_000;

impl Engine {
    pub(super) fn change(&mut self, change: Change) {
        let now = self.now;
        match &change {
            Change::Source { source, trouble } => self.source(source, trouble.as_deref()),
            Change::PodGone(key) => self.pod_gone(key),
            Change::NetnsGone(netns) => {
                self.known.sockets.gone(*netns);
                self.known.streams.gone(*netns);
                self.known.tables.gone(*netns);
                self.known.rulebook.gone(*netns);
                self.known.passages.gone(*netns);
                self.known.marked.gone(*netns);
            }
            Change::Pod(pod) => self.pod_replaced(&pod.key, &pod.uid),
            Change::CgroupGone(cgroup) => self.known.throttles.gone(*cgroup),
            Change::Netns { .. } | Change::Cgroup { .. } => {}
        }
        let netns = match &change {
            Change::Netns { netns, .. } => Some(*netns),
            Change::Cgroup { netns, .. } => *netns,
            _ => None,
        };
        let pod = self.known.directory.change(now, change);
        self.forget_earlier();
        if let Some(pod) = pod {
            self.read_intent(pod);
            self.ask_memory_first(pod);
        }
        if let Some(pod) = netns.and_then(|n| self.known.directory.pod_of(n)) {
            self.reread_by_listeners(pod);
            self.ask_memory_first(pod);
        }
        if let Some(netns) = netns {
            self.reread_dns(netns);
        }
        if !self.known.late.is_empty() {
            let soon = now.plus_micros(RETRY_US);
            self.retry_at = Some(self.retry_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// The one place where what is known by a namespace's number is forgotten because the
    /// number is another pod's now: the kernel gives it out again at once. Signals from after the
    /// earlier pod's end are kept, if that end is known; readings and samples are asked for again.
    pub(super) fn forget_earlier(&mut self) {
        let now = self.now;
        for moved in self.known.directory.take_moves() {
            let ended = match moved.before {
                Before::Nobody => {
                    self.known.rulebook.ask_older(now, moved.netns, moved.since);
                    continue;
                }
                Before::Until(ended) => ended,
                Before::Another => now,
            };
            self.known.sockets.forget_before(moved.netns, ended);
            self.known.streams.gone(moved.netns);
            self.known.passages.gone(moved.netns);
            self.known.marked.gone(moved.netns);
            self.known.rulebook.forget_before(now, moved.netns, ended);
        }
    }

    fn source(&mut self, source: &str, trouble: Option<&str>) {
        match trouble {
            Some(trouble) => {
                self.sources.insert(source.to_owned(), trouble.to_owned());
            }
            None => {
                self.sources.remove(source);
            }
        }
    }

    /// A pod of the same name with another uid takes the place of one whose end was missed.
    fn pod_replaced(&mut self, key: &PodKey, uid: &str) {
        let old = self
            .known
            .directory
            .live(key)
            .and_then(|id| self.known.directory.pod(id));
        let other =
            old.is_some_and(|p| !p.pod.uid.is_empty() && !uid.is_empty() && p.pod.uid != uid);
        if other {
            self.pod_gone(key);
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        let Some(pod) = self.known.directory.live(key) else {
            return;
        };
        let surroundings = Surroundings::of(&self.known);
        self.findings
            .pod_gone(self.now, pod, &|case: &Case| surroundings.render(case));
    }

    /// The one place where a pod's intent is read.
    fn read_intent(&mut self, pod: PodId) {
        // Binding first: the listeners of its namespace may be needed.
        let netns = self
            .known
            .directory
            .pods()
            .find(|(id, _)| *id == pod)
            .and_then(|(_, p)| p.netns);
        let listeners = netns
            .and_then(|n| self.known.sockets.of(n))
            .map(|ns| ns.with_uid());
        if let Some(entry) = self.known.directory.pod_mut(pod) {
            entry.intent = self
                .profiles
                .intent(&entry.pod, &listeners.unwrap_or_default())
                .map(std::sync::Arc::new)
                .filter(|_| !entry.pod.host_network);
            entry.standing = self.profiles.standing(&entry.pod);
        }
        self.diagnose_spec(pod);
        if let Some(netns) = netns {
            self.reread_dns(netns);
        }
        self.findings.touched = true;
    }

    /// What the spec alone says about the pod, whether it talks or not.
    pub(super) fn diagnose_spec(&mut self, pod: PodId) {
        let surroundings = Surroundings::of(&self.known);
        if let Some(entry) = self.known.directory.pod(pod) {
            let render = |case: &Case| surroundings.render(case);
            diagnose::spec(self.now, pod, entry, &mut self.findings, &render);
        }
    }

    /// Reads the intent again if it comes (or could come) from listening sockets.
    pub(super) fn reread_by_listeners(&mut self, pod: PodId) {
        let by_listeners = self.known.directory.pod(pod).is_some_and(|p| {
            p.intent
                .as_ref()
                .is_none_or(|i| i.source == IntentSource::Listeners)
        });
        if by_listeners {
            self.read_intent(pod);
        }
    }
}
