//! Memory of pods: whether the kernel killed a proxy for want of it, and containers that were made anew.
//!
//! Nothing is read while all is well: once when a proxy's container is first known and each time it begins to
//! listen, so that what was counted in the past says nothing about now, and again when nobody listens where
//! connections are redirected to. A runtime removes the control group of a container that ended, often before
//! anybody asks. Its pod's keeps the count in cgroup v2, and a count that no container left accounts for is
//! the one of the container that is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Code, Inquiry,
    directory::{PodEntry, PodId},
    machine::Engine,
};
use crate::model::{CgroupId, MemoryUse, Pod, Time};

/// Pods whose memory is remembered; a node has some 250.
const MAX_PODS: usize = 1_024;
/// Between two readings.
const EVERY_US: u64 = 900_000;
/// An answer is there by then, or will not be.
const PATIENCE_US: u64 = 3_000_000;

/// The kernel killed processes of a pod's proxy, and it has not listened since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Killed {
    pub(super) at: Time,
    /// Processes.
    pub(super) count: u64,
    /// Its control group was removed meanwhile.
    pub(super) gone: bool,
    /// The proxy's, as it was read last before it was gone.
    pub(super) limit: Option<u64>,
    pub(super) peak: Option<u64>,
}

#[derive(Debug, Default)]
struct Page {
    asked: Option<Time>,
    answered: Option<Time>,
    last: Vec<MemoryUse>,
    /// Ids of containers that are, or were, the proxy's.
    proxies: BTreeSet<String>,
}

/// The memory of all pods that have a proxy.
#[derive(Debug, Default)]
pub(super) struct Memories {
    pages: BTreeMap<PodId, Page>,
    wanted: BTreeSet<CgroupId>,
    /// Questions there was no room for.
    pub(super) refused: u64,
}

impl Memories {
    fn ask(&mut self, at: Time, pod: PodId, cgroup: CgroupId) {
        if self.pages.len() >= MAX_PODS && !self.pages.contains_key(&pod) {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        let page = self.pages.entry(pod).or_default();
        let recently = |asked: Time| at.micros_since(asked) < EVERY_US;
        if !page.asked.is_some_and(recently) {
            page.asked = Some(at);
            self.wanted.insert(cgroup);
        }
    }

    pub(super) fn next_wanted(&mut self) -> Option<Inquiry> {
        self.wanted.pop_first().map(Inquiry::Memory)
    }

    /// Until when an answer may come to what began then; `None` if it came, or there is nothing to compare it with.
    pub(super) fn waits(&self, pod: PodId, begun: Time) -> Option<Time> {
        let page = self.pages.get(&pod)?;
        let answered = page.answered.is_some_and(|at| at >= begun);
        (!answered && !page.last.is_empty()).then(|| begun.plus_micros(PATIENCE_US))
    }

    /// The answer; `proxies` are the ids of the proxy's containers as far as they are known now.
    fn read(
        &mut self,
        at: Time,
        pod: PodId,
        proxies: BTreeSet<String>,
        uses: Vec<MemoryUse>,
    ) -> Option<Killed> {
        let page = self.pages.get_mut(&pod)?;
        page.answered = Some(at);
        page.proxies.extend(proxies);
        let killed = killed(at, &page.last, &uses, &page.proxies);
        // A reading that failed says nothing.
        if !uses.is_empty() {
            page.last = uses;
        }
        let last = &page.last;
        page.proxies.retain(|id| find(last, Some(id)).is_some());
        killed
    }

    pub(super) fn forget(&mut self, pod: PodId) {
        self.pages.remove(&pod);
    }
}

fn find<'a>(uses: &'a [MemoryUse], id: Option<&str>) -> Option<&'a MemoryUse> {
    uses.iter().find(|one| one.container_id.as_deref() == id)
}

/// Whether processes of the proxy were killed between two readings: in a container of it that is there, or in one
/// that is gone and that nothing else that is gone can stand in for.
fn killed(
    at: Time,
    before: &[MemoryUse],
    now: &[MemoryUse],
    proxies: &BTreeSet<String>,
) -> Option<Killed> {
    // Without an earlier reading nobody knows when it was.
    let pods = find(now, None).filter(|_| find(before, None).is_some())?;
    let grown = |one: &MemoryUse| {
        let id = one.container_id.as_deref();
        let old = find(before, id).map_or(0, |old| old.kills);
        one.kills.saturating_sub(old)
    };
    let is_its = |one: &&MemoryUse| one.container_id.iter().any(|id| proxies.contains(id));
    let of = |one: &MemoryUse, count: u64, gone: bool| Killed {
        at,
        count,
        gone,
        limit: one.limit,
        peak: one.peak,
    };
    if let Some(its) = now.iter().filter(is_its).find(|one| grown(one) > 0) {
        return Some(of(its, grown(its), false));
    }
    let containers = now.iter().filter(|one| one.container_id.is_some());
    let known = containers.fold(0_u64, |sum, one| sum.saturating_add(grown(one)));
    let count = grown(pods).saturating_sub(known);
    let mut gone = before
        .iter()
        .filter(|one| find(now, one.container_id.as_deref()).is_none());
    match (gone.next(), gone.next()) {
        (Some(only), None) if count > 0 && is_its(&only) => Some(of(only, count, true)),
        _ => None,
    }
}

impl Engine {
    /// Wants the memory of a pod read that has a proxy of its own.
    pub(super) fn ask_memory(&mut self, pod: PodId) {
        let directory = &self.known.directory;
        let intent = directory.pod(pod).and_then(|entry| entry.intent.as_ref());
        if intent.is_some_and(|i| !i.node_proxy && !i.proxy_containers.is_empty())
            && let Some(cgroup) = directory.cgroup_of(pod)
        {
            self.known.memories.ask(self.now, pod, cgroup);
        }
    }

    /// Once for each pod, as soon as its proxy's container is known.
    pub(super) fn ask_memory_first(&mut self, pod: PodId) {
        let asked = self.known.memories.pages.contains_key(&pod);
        if !asked && self.known.directory.proxy_cgroup(pod).is_some() {
            self.ask_memory(pod);
        }
    }

    /// Nobody listens where the connections of these pods go: there may be a reason.
    pub(super) fn ask_about_deserted(&mut self) {
        let pending = [Code::StuckNoListener, Code::StuckStartupGap];
        let pods: Vec<PodId> = self.findings.pending(&pending).collect();
        for pod in pods {
            self.ask_memory(pod);
        }
    }

    /// The answer: a kill counts if the proxy has not come back since.
    pub(super) fn memory(&mut self, cgroup: CgroupId, uses: Vec<MemoryUse>) {
        let Some(pod) = self.known.directory.pod_of_cgroup(cgroup) else {
            return;
        };
        let Some(entry) = self.known.directory.pod(pod) else {
            return;
        };
        let containers = entry.pod.containers.iter().filter(|c| entry.is_proxy(c));
        let proxies = containers.filter_map(|c| c.id.clone()).collect();
        let killed = self.known.memories.read(self.now, pod, proxies, uses);
        let back = self.proxy_listens(pod);
        if let Some(entry) = self.known.directory.pod_mut(pod)
            && killed.is_some()
            && !back
        {
            entry.killed = killed;
            self.diagnose_spec(pod);
        }
        self.findings.touched = true;
    }

    /// Sockets of a pod changed: a proxy that listens is not the one that was killed.
    pub(super) fn proxy_may_be_back(&mut self, pod: PodId) {
        if self.proxy_listens(pod)
            && let Some(entry) = self.known.directory.pod_mut(pod)
        {
            entry.killed = None;
        }
    }

    fn proxy_listens(&self, pod: PodId) -> bool {
        let entry = self.known.directory.pod(pod);
        let port = entry
            .and_then(|e| e.intent.as_ref())
            .map(|i| i.outbound_port);
        let ns = entry.and_then(|e| self.known.sockets.of(e.netns?));
        port.is_some_and(|port| ns.is_some_and(|ns| !ns.on_port(port).is_empty()))
    }
}

impl PodEntry {
    /// Takes over what a source says of the pod now, and notes containers that have a new id.
    pub(super) fn replace(&mut self, at: Time, pod: Pod) {
        for new in &pod.containers {
            let mut old = self.pod.containers.iter().filter(|c| c.name == new.name);
            let id = old.next().and_then(|old| old.id.as_ref());
            if id.is_some_and(|id| new.id.as_ref().is_some_and(|new| new != id)) {
                let (count, last) = self.renewed.entry(new.name.clone()).or_default();
                (*count, *last) = (count.saturating_add(1), at);
            }
        }
        self.pod = pod;
    }
}
