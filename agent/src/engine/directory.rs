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
    sync::Arc,
};

use super::{binding, input::Change, memory::Killed};
use crate::{
    mesh::{Intent, Standing},
    model::{CgroupId, Container, Loss, NetnsId, Owner, Pod, PodKey, Time},
};

/// Pods, live and lingering; a kubelet runs 250 at most, a large node 1 000.
const MAX_PODS: usize = 4_096;
/// Network namespaces.
const MAX_NETNS: usize = 16_384;
/// Cgroups with processes.
const MAX_CGROUPS: usize = 65_536;
/// A pod's number in this engine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(pub(super) u32);

/// A pod and what was read from it.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) pod: Pod,
    /// Shared with every board that shows the pod.
    pub(super) intent: Option<Arc<Intent>>,
    /// What meshes say of it beside that.
    pub(super) standing: Standing,
    /// When the engine heard of it first.
    pub(super) since: Time,
    /// When it went.
    pub(super) gone: Option<Time>,
    /// Its network namespace, once bound.
    pub(super) netns: Option<NetnsId>,
    /// Interfaces of its addresses, as far as they are known.
    pub(super) interfaces: Arc<[(IpAddr, String)]>,
    /// May still own sockets (live, or gone only just now).
    pub(super) bindable: bool,
    /// The kernel killed its proxy, which has not come back since.
    pub(super) killed: Option<Killed>,
    /// Containers that were made anew: how often, and when last.
    pub(super) renewed: BTreeMap<String, (u32, Time)>,
}

impl PodEntry {
    /// The container of this number.
    pub(super) fn container(&self, ix: Option<u16>) -> Option<&Container> {
        ix.and_then(|ix| self.pod.containers.get(usize::from(ix)))
    }

    /// Whether a container of it is its proxy's.
    pub(super) fn is_proxy(&self, container: &Container) -> bool {
        let intent = self.intent.as_ref();
        intent.is_some_and(|intent| intent.proxy_containers.contains(&container.name))
    }

    /// The interface that has this address.
    pub(super) fn interface(&self, ip: IpAddr) -> Option<&str> {
        let mut all = self.interfaces.iter();
        all.find_map(|(own, name)| (*own == ip).then_some(name.as_str()))
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

/// A cgroup as announced, and the pod and container it belongs to.
#[derive(Debug)]
pub(super) struct CgroupEntry {
    pub(super) pod_uid: Option<String>,
    pub(super) container_id: Option<String>,
    pub(super) netns: Option<NetnsId>,
    /// Order of announcement: of two claims the newer one wins.
    pub(super) seq: u64,
    pub(super) bound: Option<(PodId, Option<u16>)>,
    /// When it went. Its number is not used again, so what the kernel counted for it before
    /// is still its pod's, even where the namespace's number already is another pod's.
    pub(super) gone: Option<Time>,
}

/// A network namespace as announced, and the pod it belongs to.
#[derive(Debug, Default)]
pub(super) struct NetnsEntry {
    pub(super) paths: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) interfaces: Arc<[(IpAddr, String)]>,
    pub(super) host: bool,
    pub(super) bound: Option<PodId>,
    /// Addresses of the pod whose it was before: the node has not looked since it is another's.
    pub(super) earlier: Vec<IpAddr>,
}

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) pods: BTreeMap<PodId, PodEntry>,
    live: BTreeMap<PodKey, PodId>,
    pub(super) cgroups: BTreeMap<CgroupId, CgroupEntry>,
    pub(super) netns: BTreeMap<NetnsId, NetnsEntry>,
    /// Whose each namespace was last, also while it is nobody's.
    pub(super) holders: BTreeMap<NetnsId, PodId>,
    /// Namespaces that became a pod's since somebody asked.
    pub(super) moves: Vec<binding::MovedIn>,
    /// Cgroups that were waited for in vain: their sockets are not held back again.
    given_up: BTreeSet<CgroupId>,
    next: u32,
    seq: u64,
    pub(super) stale: bool,
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
                interfaces,
                host,
            } => {
                let (interfaces, bound, earlier) = (interfaces.into(), None, Vec::new());
                let entry = NetnsEntry {
                    paths,
                    addresses,
                    interfaces,
                    host,
                    bound,
                    earlier,
                };
                self.netns_changed(netns, entry);
            }
            Change::NetnsGone(netns) => self.netns_gone(netns),
            Change::Cgroup {
                cgroup,
                pod_uid,
                container_id,
                netns,
                ..
            } => self.cgroup_changed(cgroup, pod_uid, container_id, netns),
            Change::CgroupGone(cgroup) => self.cgroup_gone(at, cgroup),
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
                entry.replace(at, pod);
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
                standing: Standing::default(),
                since: at,
                gone: None,
                netns: None,
                interfaces: Arc::default(),
                bindable: true,
                killed: None,
                renewed: BTreeMap::new(),
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

    fn netns_changed(&mut self, netns: NetnsId, entry: NetnsEntry) {
        if self.netns.len() >= MAX_NETNS && !self.netns.contains_key(&netns) {
            self.refused[1] = self.refused[1].saturating_add(1);
            return;
        }
        self.netns.insert(netns, entry);
    }

    /// The inode number may be used again: nobody keeps a claim on it.
    fn netns_gone(&mut self, netns: NetnsId) {
        self.netns.remove(&netns);
        self.holders.remove(&netns);
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
            gone: None,
        };
        self.cgroups.insert(cgroup, entry);
    }

    fn cgroup_gone(&mut self, at: Time, cgroup: CgroupId) {
        self.given_up.remove(&cgroup);
        if let Some(entry) = self.cgroups.get_mut(&cgroup) {
            entry.gone = Some(at);
            entry.netns = None;
        }
    }

    /// Whose socket it is, by everything known now.
    pub(super) fn who(&mut self, owner: &Owner) -> Who {
        self.rebind();
        let cgroup = self.cgroups.get(&owner.cgroup);
        let bound = cgroup.and_then(|c| c.bound);
        let Some(netns) = self.netns.get(&owner.netns) else {
            return bound.map_or(Who::Unknown("netns_unknown"), |b| {
                self.by_cgroup(b, owner.cgroup, cgroup)
            });
        };
        if netns.host {
            let here = bound.filter(|(pod, _)| self.is_host_network(*pod));
            let node = binding::on_node(cgroup);
            return here.map_or(node, |b| self.by_cgroup(b, owner.cgroup, cgroup));
        }
        match (netns.bound, bound) {
            (Some(pod), Some(b)) if b.0 == pod => self.by_cgroup(b, owner.cgroup, cgroup),
            (Some(_), Some(b)) if cgroup.is_some_and(|c| c.gone.is_some()) || self.is_gone(b.0) => {
                self.by_cgroup(b, owner.cgroup, cgroup)
            }
            (Some(pod), _) => Who::Pod {
                pod,
                container: None,
                settled: self.is_settled(owner.cgroup, cgroup),
            },
            (None, Some(b)) if !self.is_host_network(b.0) => {
                self.by_cgroup(b, owner.cgroup, cgroup)
            }
            (None, _) => Who::Unknown("no_pod"),
        }
    }

    fn by_cgroup(
        &self,
        bound: (PodId, Option<u16>),
        id: CgroupId,
        cgroup: Option<&CgroupEntry>,
    ) -> Who {
        // A container id without its container: the status with the ids comes a moment later.
        let pending = bound.1.is_none() && cgroup.is_some_and(|c| c.container_id.is_some());
        Who::Pod {
            pod: bound.0,
            container: bound.1,
            settled: !pending || self.given_up.contains(&id),
        }
    }

    /// Whether waiting could tell the container of a socket whose pod is known by its namespace.
    fn is_settled(&self, id: CgroupId, cgroup: Option<&CgroupEntry>) -> bool {
        match cgroup {
            Some(c) => c.pod_uid.is_none() && c.container_id.is_none() || c.bound.is_some(),
            None => id == CgroupId(0) || self.given_up.contains(&id),
        }
    }

    fn is_gone(&self, pod: PodId) -> bool {
        self.pods.get(&pod).is_none_or(|p| p.gone.is_some())
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
