//! Binding: which pod a cgroup and a network namespace belong to.
//!
//! Recomputed as a whole whenever something changed and somebody asks. A namespace is
//! claimed by a pod's explicit path, by the pod's cgroups whose processes live in it, or
//! by the pod's addresses on its interfaces; the strongest claim wins.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::directory::{CgroupEntry, Directory, PodEntry, PodId, Who};
use crate::model::{CgroupId, NetnsId, Time};

/// Not told (yet): a pod in the node's network, known by its cgroup only.
pub(super) const ON_NODE: &str = "on_node";

/// Whose a socket in the node's network is that is no known pod's: the node's own, unless its cgroup is a pod's.
pub(super) fn on_node(cgroup: Option<&CgroupEntry>) -> Who {
    match cgroup.is_some_and(|c| c.pod_uid.is_some() && c.bound.is_none()) {
        true => Who::Unknown(ON_NODE),
        false => Who::Host,
    }
}

/// A namespace became a pod's.
#[derive(Clone, Copy, Debug)]
pub(super) struct MovedIn {
    pub(super) netns: NetnsId,
    /// When its pod was heard of first.
    pub(super) since: Time,
    pub(super) before: Before,
}

/// Whose a namespace was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nobody's that is known.
    Nobody,
    /// Another pod's, that ended then.
    Until(Time),
    /// Another pod's, of which nothing says that it ended.
    Another,
}

impl Directory {
    /// The pod with this address, other than `not`, and its namespace. The node's own
    /// address belongs to no pod.
    pub(super) fn pod_at(&mut self, ip: IpAddr, not: PodId) -> Option<(PodId, NetnsId)> {
        self.rebind();
        self.holder(ip, not)
    }

    /// The same, as far as it was bound when somebody asked last.
    pub(super) fn holder(&self, ip: IpAddr, not: PodId) -> Option<(PodId, NetnsId)> {
        let here = |(id, entry): (&PodId, &PodEntry)| {
            let it = !entry.pod.host_network && *id != not && entry.pod.ips.contains(&ip);
            let netns = entry.netns.filter(|_| it && entry.gone.is_none())?;
            Some((*id, netns))
        };
        self.pods.iter().find_map(here)
    }

    /// Own addresses of a pod: those of its status and those of its interfaces, as far as they were not an
    /// earlier pod's whose namespace had this number.
    pub(super) fn own_addresses(&self, id: PodId) -> Vec<IpAddr> {
        let Some(entry) = self.pods.get(&id) else {
            return Vec::new();
        };
        let mut own = entry.pod.ips.clone();
        if let Some(netns) = entry.netns.and_then(|n| self.netns.get(&n)) {
            let more = netns.addresses.iter();
            let own_too = |a: &&IpAddr| !entry.pod.ips.contains(a) && !netns.earlier.contains(a);
            own.extend(more.filter(own_too));
        }
        own
    }

    /// Whether a socket with this address is what an earlier namespace of this number left behind (numbers are used again
    /// within seconds): another pod's, or one that was nobody's. Of the latter it shows in the addresses, among which
    /// are none of the pod's.
    pub(super) fn is_earlier(&self, netns: NetnsId, ip: IpAddr) -> bool {
        let Some(entry) = self.netns.get(&netns) else {
            return false;
        };
        let status = entry.bound.and_then(|pod| self.pods.get(&pod));
        let status = status.map_or(&[][..], |pod| &pod.pod.ips);
        let unseen = !status.is_empty() && !status.iter().any(|ip| entry.addresses.contains(ip));
        entry.earlier.contains(&ip) || unseen && entry.addresses.contains(&ip)
    }

    /// The cgroup of a pod's proxy.
    pub(super) fn proxy_cgroup(&self, id: PodId) -> Option<CgroupId> {
        let entry = self.pods.get(&id)?;
        let is_its = |cgroup: &CgroupEntry| {
            let (pod, container) = cgroup.bound?;
            let container = entry.container(container).filter(|_| pod == id)?;
            (cgroup.gone.is_none() && entry.is_proxy(container)).then_some(())
        };
        let mut all = self.cgroups.iter();
        all.find(|(_, cgroup)| is_its(cgroup).is_some())
            .map(|(id, _)| *id)
    }

    /// A cgroup of a pod that is there: its proxy's, or any.
    pub(super) fn cgroup_of(&self, id: PodId) -> Option<CgroupId> {
        let is_its = |cgroup: &CgroupEntry| {
            cgroup.gone.is_none() && cgroup.bound.is_some_and(|(pod, _)| pod == id)
        };
        let any = || self.cgroups.iter().find(|(_, cgroup)| is_its(cgroup));
        self.proxy_cgroup(id).or_else(|| any().map(|(id, _)| *id))
    }

    /// The pod of a cgroup.
    pub(super) fn pod_of_cgroup(&mut self, id: CgroupId) -> Option<PodId> {
        self.rebind();
        Some(self.cgroups.get(&id)?.bound?.0)
    }

    pub(super) fn rebind(&mut self) {
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
                pod.interfaces = Arc::clone(&entry.interfaces);
            }
        }
        self.note_holders();
    }

    /// Notes which namespaces became a pod's: what is known of them by their number may be an
    /// earlier pod's.
    fn note_holders(&mut self) {
        for (netns, entry) in &mut self.netns {
            let Some(pod) = entry.bound else { continue };
            let last = self.holders.insert(*netns, pod);
            let Some(since) = self.pods.get(&pod).map(|entry| entry.since) else {
                continue;
            };
            let before = match last {
                None => Before::Nobody,
                Some(other) if other == pod || is_same_pod(&self.pods, other, pod) => continue,
                Some(other) => match self.pods.get(&other).map(|entry| entry.gone) {
                    Some(Some(gone)) => Before::Until(gone),
                    Some(None) => Before::Another,
                    // Forgotten altogether: it ended long before this one was heard of.
                    None => Before::Until(since),
                },
            };
            if let (Some(other), Some(new)) = (last, self.pods.get(&pod)) {
                // Until somebody looks, its interfaces are known with these.
                let of = |ip: &&IpAddr| !new.pod.ips.contains(ip);
                let earlier = self.pods.get(&other).map(|old| &old.pod.ips);
                entry.earlier = earlier.into_iter().flatten().filter(of).copied().collect();
            }
            self.moves.push(MovedIn {
                netns: *netns,
                since,
                before,
            });
        }
    }

    /// Namespaces that became a pod's since the last call.
    pub(super) fn take_moves(&mut self) -> Vec<MovedIn> {
        self.rebind();
        std::mem::take(&mut self.moves)
    }
}

/// One pod announced twice, by its manifest and by what the node shows of it.
fn is_same_pod(pods: &BTreeMap<PodId, PodEntry>, one: PodId, other: PodId) -> bool {
    let (Some(one), Some(other)) = (pods.get(&one), pods.get(&other)) else {
        return false;
    };
    !one.pod.uid.is_empty() && one.pod.uid == other.pod.uid
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
