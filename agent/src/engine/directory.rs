//! Directory: who is who on this node.
//!
//! Network namespaces, cgroups and pods are announced in any order and change at any
//! time; a socket's owner is looked up in what is known *now*. Bindings are recomputed
//! from scratch when something changed, never patched, so that an inode number used
//! again by another pod cannot leave a trace of the first one.
//! The directory never guesses: if two live pods claim a namespace equally, the newer
//! claim wins, and what nobody claims stays unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::input::Change;
use crate::{
    mesh::Intent,
    model::{CgroupId, Container, Loss, NetnsId, Owner, Pod, PodKey, Time},
};

/// Pods, live and lingering; a kubelet runs 250 at most, a large node 1 000.
const MAX_PODS: usize = 4_096;
/// Network namespaces.
const MAX_NETNS: usize = 16_384;
/// Cgroups with processes.
const MAX_CGROUPS: usize = 65_536;
/// A pod that is gone still owns what the kernel counted before: the last drain and the
/// records in flight.
const GONE_GRACE_S: u64 = 5;

/// A pod's number in this engine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(u32);

/// A pod and what was read from it.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) pod: Pod,
    pub(super) intent: Option<Intent>,
    /// When the engine heard of it first.
    pub(super) since: Time,
    /// When it went.
    pub(super) gone: Option<Time>,
    /// Its network namespace, once bound.
    pub(super) netns: Option<NetnsId>,
    /// May still own sockets (live, or gone only just now).
    bindable: bool,
}

impl PodEntry {
    /// The container of this number.
    pub(super) fn container(&self, ix: Option<u16>) -> Option<&Container> {
        ix.and_then(|ix| self.pod.containers.get(usize::from(ix)))
    }
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A pod's.
    Pod {
        pod: PodId,
        /// Number of the container in the pod, if known.
        container: Option<u16>,
        /// Nothing more will be known about the container.
        settled: bool,
    },
    /// The node's own.
    Host,
    /// Not known (yet): why.
    Unknown(&'static str),
}

#[derive(Debug)]
struct CgroupEntry {
    pod_uid: Option<String>,
    container_id: Option<String>,
    netns: Option<NetnsId>,
    /// Order of announcement: of two claims the newer one wins.
    seq: u64,
    bound: Option<(PodId, Option<u16>)>,
}

#[derive(Debug, Default)]
struct NetnsEntry {
    paths: Vec<String>,
    addresses: Vec<IpAddr>,
    host: bool,
    bound: Option<PodId>,
}

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pods: BTreeMap<PodId, PodEntry>,
    live: BTreeMap<PodKey, PodId>,
    cgroups: BTreeMap<CgroupId, CgroupEntry>,
    netns: BTreeMap<NetnsId, NetnsEntry>,
    /// Cgroups that were waited for in vain: their sockets are not held back again.
    given_up: BTreeSet<CgroupId>,
    next: u32,
    seq: u64,
    stale: bool,
    refused: [u64; 3],
}

impl Directory {
    /// Takes a change in. Returns the pod that appeared or changed, whose intent must be read again.
    pub(super) fn change(&mut self, at: Time, change: Change) -> Option<PodId> {
        self.stale = true;
        match change {
            Change::Pod(pod) => return self.pod_changed(at, *pod),
            Change::PodGone(key) => self.pod_gone(at, &key),
            Change::Netns {
                netns,
                paths,
                addresses,
                host,
            } => self.netns_changed(netns, paths, addresses, host),
            Change::NetnsGone(netns) => self.netns_gone(netns),
            Change::Cgroup {
                cgroup,
                pod_uid,
                container_id,
                netns,
                ..
            } => self.cgroup_changed(cgroup, pod_uid, container_id, netns),
            Change::CgroupGone(cgroup) => {
                self.cgroups.remove(&cgroup);
                self.given_up.remove(&cgroup);
            }
            Change::Source { .. } => self.stale = false,
        }
        None
    }

    fn pod_changed(&mut self, at: Time, pod: Pod) -> Option<PodId> {
        if let Some(&id) = self.live.get(&pod.key)
            && let Some(entry) = self.pods.get_mut(&id)
        {
            // Same name, other uid: the pod was deleted and made again, and we missed the end.
            let same = entry.pod.uid.is_empty() || pod.uid.is_empty() || entry.pod.uid == pod.uid;
            if same {
                entry.pod = pod;
                return Some(id);
            }
            let key = pod.key.clone();
            self.pod_gone(at, &key);
        }
        if self.pods.len() >= MAX_PODS && !self.forget_oldest_gone() {
            self.refused[0] = self.refused[0].saturating_add(1);
            return None;
        }
        let id = PodId(self.next);
        self.next = self.next.saturating_add(1);
        self.live.insert(pod.key.clone(), id);
        self.pods.insert(
            id,
            PodEntry {
                pod,
                intent: None,
                since: at,
                gone: None,
                netns: None,
                bindable: true,
            },
        );
        Some(id)
    }

    fn forget_oldest_gone(&mut self) -> bool {
        let oldest = self
            .pods
            .iter()
            .filter_map(|(id, p)| p.gone.map(|gone| (gone, *id)))
            .min();
        oldest.is_some_and(|(_, id)| self.pods.remove(&id).is_some())
    }

    fn pod_gone(&mut self, at: Time, key: &PodKey) {
        if let Some(id) = self.live.remove(key)
            && let Some(entry) = self.pods.get_mut(&id)
        {
            entry.gone = Some(at);
        }
    }

    fn netns_changed(
        &mut self,
        netns: NetnsId,
        paths: Vec<String>,
        addresses: Vec<IpAddr>,
        host: bool,
    ) {
        if self.netns.len() >= MAX_NETNS && !self.netns.contains_key(&netns) {
            self.refused[1] = self.refused[1].saturating_add(1);
            return;
        }
        let entry = self.netns.entry(netns).or_default();
        *entry = NetnsEntry {
            paths,
            addresses,
            host,
            bound: None,
        };
    }

    /// The inode number may be used again: nobody keeps a claim on it.
    fn netns_gone(&mut self, netns: NetnsId) {
        self.netns.remove(&netns);
        for cgroup in self.cgroups.values_mut() {
            if cgroup.netns == Some(netns) {
                cgroup.netns = None;
            }
        }
    }

    fn cgroup_changed(
        &mut self,
        cgroup: CgroupId,
        pod_uid: Option<String>,
        container_id: Option<String>,
        netns: Option<NetnsId>,
    ) {
        if self.cgroups.len() >= MAX_CGROUPS && !self.cgroups.contains_key(&cgroup) {
            self.refused[2] = self.refused[2].saturating_add(1);
            return;
        }
        self.given_up.remove(&cgroup);
        self.seq = self.seq.saturating_add(1);
        let entry = CgroupEntry {
            pod_uid,
            container_id,
            netns,
            seq: self.seq,
            bound: None,
        };
        self.cgroups.insert(cgroup, entry);
    }

    /// Whose socket it is, by everything known now.
    pub(super) fn who(&mut self, owner: &Owner) -> Who {
        self.rebind();
        let cgroup = self.cgroups.get(&owner.cgroup);
        let bound = cgroup.and_then(|c| c.bound);
        let Some(netns) = self.netns.get(&owner.netns) else {
            return bound.map_or(Who::Unknown("netns_unknown"), |b| self.by_cgroup(b, cgroup));
        };
        if netns.host {
            let here = bound.filter(|(pod, _)| self.is_host_network(*pod));
            return here.map_or(Who::Host, |b| self.by_cgroup(b, cgroup));
        }
        match (netns.bound, bound) {
            (Some(pod), Some(b)) if b.0 == pod => self.by_cgroup(b, cgroup),
            (Some(pod), _) => Who::Pod {
                pod,
                container: None,
                settled: self.is_settled(owner.cgroup, cgroup),
            },
            (None, Some(b)) if !self.is_host_network(b.0) => self.by_cgroup(b, cgroup),
            (None, _) => Who::Unknown("no_pod"),
        }
    }

    fn by_cgroup(&self, bound: (PodId, Option<u16>), cgroup: Option<&CgroupEntry>) -> Who {
        // A container id without its container: the status with the ids comes a moment later.
        let pending = bound.1.is_none() && cgroup.is_some_and(|c| c.container_id.is_some());
        Who::Pod {
            pod: bound.0,
            container: bound.1,
            settled: !pending,
        }
    }

    /// Whether waiting could tell the container of a socket whose pod is known by its namespace.
    fn is_settled(&self, id: CgroupId, cgroup: Option<&CgroupEntry>) -> bool {
        match cgroup {
            Some(c) => c.pod_uid.is_none() && c.container_id.is_none() || c.bound.is_some(),
            None => id == CgroupId(0) || self.given_up.contains(&id),
        }
    }

    fn is_host_network(&self, pod: PodId) -> bool {
        self.pods.get(&pod).is_some_and(|p| p.pod.host_network)
    }

    /// Waiting for this cgroup was in vain; do not wait for it again.
    pub(super) fn give_up(&mut self, cgroup: CgroupId) {
        if self.given_up.len() < MAX_CGROUPS {
            self.given_up.insert(cgroup);
        }
    }

    /// The pod of a network namespace.
    pub(super) fn pod_of(&mut self, netns: NetnsId) -> Option<PodId> {
        self.rebind();
        self.netns.get(&netns).and_then(|n| n.bound)
    }

    fn rebind(&mut self) {
        if !self.stale {
            return;
        }
        self.stale = false;
        self.bind_cgroups();
        self.bind_netns();
    }

    fn bind_cgroups(&mut self) {
        let mut by_uid = BTreeMap::new();
        let mut by_container = BTreeMap::new();
        for (id, entry) in self.pods.iter().filter(|(_, p)| p.bindable) {
            if !entry.pod.uid.is_empty() {
                by_uid.insert(entry.pod.uid.as_str(), *id);
            }
            for (ix, container) in (0u16..).zip(&entry.pod.containers) {
                if let Some(container_id) = container.id.as_deref() {
                    by_container.insert(container_id, (*id, ix));
                }
            }
        }
        for cgroup in self.cgroups.values_mut() {
            let pod = cgroup.pod_uid.as_deref().and_then(|uid| by_uid.get(uid));
            let container = cgroup
                .container_id
                .as_deref()
                .and_then(|id| by_container.get(id));
            cgroup.bound = match (pod, container) {
                (Some(pod), Some((same, ix))) if pod == same => Some((*pod, Some(*ix))),
                (Some(pod), _) => Some((*pod, None)),
                // A pod uid that nobody has yet: the container id alone must not overrule it.
                (None, Some((pod, ix))) if cgroup.pod_uid.is_none() => Some((*pod, Some(*ix))),
                (None, _) => None,
            };
        }
    }

    fn bind_netns(&mut self) {
        let mut best: BTreeMap<NetnsId, (Claim, PodId)> = BTreeMap::new();
        for cgroup in self.cgroups.values() {
            if let (Some(netns), Some((pod, _))) = (cgroup.netns, cgroup.bound) {
                claim(&mut best, &self.pods, netns, pod, 2, cgroup.seq);
            }
        }
        let (mut by_path, mut by_address) = (BTreeMap::new(), BTreeMap::new());
        for (id, entry) in self
            .pods
            .iter()
            .filter(|(_, p)| p.bindable && !p.pod.host_network)
        {
            if let Some(path) = entry.pod.netns_path.as_deref() {
                by_path.insert(path, *id);
            }
            for ip in &entry.pod.ips {
                let holders: &mut Vec<PodId> = by_address.entry(*ip).or_default();
                holders.push(*id);
            }
        }
        for (netns, entry) in &self.netns {
            for pod in entry.paths.iter().filter_map(|p| by_path.get(p.as_str())) {
                claim(&mut best, &self.pods, *netns, *pod, 3, u64::from(pod.0));
            }
            for pod in entry
                .addresses
                .iter()
                .filter_map(|ip| by_address.get(ip))
                .flatten()
            {
                claim(&mut best, &self.pods, *netns, *pod, 1, u64::from(pod.0));
            }
        }
        for entry in self.pods.values_mut() {
            entry.netns = None;
        }
        for (netns, entry) in &mut self.netns {
            entry.bound = best.get(netns).filter(|_| !entry.host).map(|(_, pod)| *pod);
            if let Some(pod) = entry.bound.and_then(|pod| self.pods.get_mut(&pod)) {
                pod.netns = Some(*netns);
            }
        }
    }

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
        self.pods.values().filter_map(due).min()
    }

    pub(super) fn pod(&self, id: PodId) -> Option<&PodEntry> {
        self.pods.get(&id)
    }

    pub(super) fn pod_mut(&mut self, id: PodId) -> Option<&mut PodEntry> {
        self.pods.get_mut(&id)
    }

    /// The live pod of this name.
    pub(super) fn live(&self, key: &PodKey) -> Option<PodId> {
        self.live.get(key).copied()
    }

    /// All pods, in the order they were announced.
    pub(super) fn pods(&mut self) -> impl Iterator<Item = (PodId, &PodEntry)> {
        self.rebind();
        self.pods.iter().map(|(id, p)| (*id, p))
    }

    /// Own addresses of a pod: those of its status and those of its interfaces.
    pub(super) fn own_addresses(&self, id: PodId) -> Vec<IpAddr> {
        let Some(entry) = self.pods.get(&id) else {
            return Vec::new();
        };
        let mut own = entry.pod.ips.clone();
        if let Some(netns) = entry.netns.and_then(|n| self.netns.get(&n)) {
            own.extend(
                netns
                    .addresses
                    .iter()
                    .filter(|a| !entry.pod.ips.contains(a)),
            );
        }
        own
    }

    /// What was refused at a bound.
    pub(super) fn losses(&self) -> impl Iterator<Item = Loss> {
        ["pods", "netns", "cgroups"]
            .iter()
            .zip(self.refused)
            .map(|(at, count)| Loss {
                at: (*at).to_owned(),
                count,
            })
    }
}

/// Strength of a claim on a namespace: live before gone, explicit path before cgroup before
/// address, a pod of a manifest before one made up from the node, newer before older.
type Claim = (bool, u8, bool, u64);

fn claim(
    best: &mut BTreeMap<NetnsId, (Claim, PodId)>,
    pods: &BTreeMap<PodId, PodEntry>,
    netns: NetnsId,
    pod: PodId,
    rank: u8,
    seq: u64,
) {
    let Some(entry) = pods.get(&pod).filter(|p| p.bindable && !p.pod.host_network) else {
        return;
    };
    let named = !entry.pod.key.namespace.is_empty();
    let new = (entry.gone.is_none(), rank, named, seq);
    let slot = best.entry(netns).or_insert((new, pod));
    if new > slot.0 {
        *slot = (new, pod);
    }
}
