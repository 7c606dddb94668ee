//! Who listens where, in every network namespace, and how full the accept queues are.
//!
//! Listening sockets come from two sources: signals (at once) and queue samples (complete,
//! once in a while). A sample replaces everything; signals correct it until the next one.
//! Nothing here knows pods: a namespace may have listeners before it has a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::queue::{Overflow, Progress, Queue, SPELL_US};
use crate::model::{CgroupId, Family, Listener, ListenerQueue, NO_ID, NetnsId, Owner, Time};

/// Listening sockets remembered per namespace; a pod has a dozen.
const MAX_LISTENERS: usize = 256;
/// Deserted or redirected ports remembered per namespace.
const MAX_PORTS: usize = 64;
/// Namespaces with listeners.
const MAX_NAMESPACES: usize = 16_384;

/// What is known about a listening socket's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) uid: u32,
    pub(super) cgroup: Option<CgroupId>,
    pub(super) comm: String,
    /// When it was heard of first.
    since: Time,
}

/// The sockets of one namespace.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    listeners: BTreeMap<Listener, Holder>,
    queues: BTreeMap<(IpAddr, u16), Queue>,
    overflow: Overflow,
    /// Whether a complete sample was ever taken.
    complete: bool,
    /// Ports where a SYN met no listener, and when last.
    deserted: BTreeMap<(u16, Family), Time>,
    /// Ports NAT was seen to redirect incoming connections to.
    redirects: BTreeMap<u16, Time>,
}

/// Whether somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listens {
    Yes,
    No,
    /// The namespace was never sampled.
    Unknown,
}

impl Namespace {
    /// Whether a connection redirected to `port` over `family` meets a listener.
    pub(super) fn listens(&self, port: u16, family: Family) -> Listens {
        let fits = |l: &&Listener| l.port == port && takes(l, family);
        if self.listeners.keys().any(|l| fits(&l)) {
            Listens::Yes
        } else if self.complete {
            Listens::No
        } else {
            Listens::Unknown
        }
    }

    /// The listeners on `port`, for people.
    pub(super) fn on_port(&self, port: u16) -> Vec<(Listener, Holder)> {
        let on = self.listeners.iter().filter(|(l, _)| l.port == port);
        on.map(|(l, h)| (*l, h.clone())).collect()
    }

    /// Where connections are awaited, if all of it is known; a socket for both families is told twice.
    pub(super) fn listening(&self) -> Option<Vec<SocketAddr>> {
        let four = |l: &&Listener| l.dual_stack && l.addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let also = self.listeners.keys().filter(four);
        let also = also.map(|l| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), l.port));
        let all = self.listeners.keys();
        let all = all.map(|l| SocketAddr::new(l.addr, l.port));
        self.complete.then(|| all.chain(also).collect())
    }

    /// All listeners with their uid, as a mesh profile wants them.
    pub(super) fn with_uid(&self) -> Vec<(Listener, u32)> {
        self.listeners.iter().map(|(l, h)| (*l, h.uid)).collect()
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (IpAddr, u16, &Queue)> {
        self.queues
            .iter()
            .map(|((addr, port), q)| (*addr, *port, q))
    }

    /// Since when connections find queues full, how many did, if this lasts and the queue of
    /// `port` is one of them.
    pub(super) fn overflows(&self, now: Time, port: u16) -> Option<(Time, u64)> {
        let lasting = self.overflow.lasting(now)?;
        let full = |q: &Queue| q.full.is_some_and(|at| now.micros_since(at) <= SPELL_US);
        let mut on_port = self.queues.iter().filter(|((_, p), _)| *p == port);
        on_port.any(|(_, q)| full(q)).then_some(lasting)
    }

    /// When a SYN to this port last met no listener.
    pub(super) fn deserted(&self, port: u16, family: Family) -> Option<Time> {
        self.deserted.get(&(port, family)).copied()
    }

    /// Whether NAT was seen to redirect incoming connections to this port.
    pub(super) fn redirects_to(&self, port: u16) -> bool {
        self.redirects.contains_key(&port)
    }
}

fn takes(listener: &Listener, family: Family) -> bool {
    match family {
        Family::Ipv4 => listener.addr.is_ipv4() || listener.dual_stack,
        Family::Ipv6 => listener.addr.is_ipv6() && !is_mapped(listener.addr),
    }
}

fn is_mapped(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Whether `listener` would answer for `addr`.
pub(super) fn answers(listener: &Listener, addr: IpAddr) -> bool {
    listener.addr == addr
        || takes(listener, Family::of(addr))
            && (listener.addr == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
                || listener.addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}

/// All listening sockets of the node's namespaces.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    namespaces: BTreeMap<NetnsId, Namespace>,
    /// Namespaces to be sampled anew.
    forgotten: BTreeSet<NetnsId>,
    pub(super) refused: u64,
}

impl Sockets {
    pub(super) fn of(&self, netns: NetnsId) -> Option<&Namespace> {
        self.namespaces.get(&netns)
    }

    fn of_mut(&mut self, netns: NetnsId) -> Option<&mut Namespace> {
        let full = self.namespaces.len() >= MAX_NAMESPACES;
        if full && !self.namespaces.contains_key(&netns) {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        Some(self.namespaces.entry(netns).or_default())
    }

    /// A socket began to listen.
    pub(super) fn began(&mut self, at: Time, owner: &Owner, listener: Listener, comm: String) {
        let mut lost = 0;
        if let Some(ns) = self.of_mut(owner.netns) {
            let holder = Holder {
                uid: owner.uid,
                cgroup: Some(owner.cgroup),
                comm,
                since: at,
            };
            lost = ns.put(listener, holder);
        }
        self.refused = self.refused.saturating_add(lost);
    }

    /// A listening socket was closed. With `SO_REUSEPORT` others may remain; the next sample tells.
    pub(super) fn ended(&mut self, netns: NetnsId, listener: &Listener) {
        if let Some(ns) = self.namespaces.get_mut(&netns) {
            ns.listeners.remove(listener);
        }
    }

    /// A SYN met no listener.
    pub(super) fn nobody_listens(&mut self, at: Time, netns: NetnsId, port: u16, family: Family) {
        let key = (port, family);
        if let Some(ns) = self.of_mut(netns)
            && (ns.deserted.len() < MAX_PORTS
                || ns.deserted.contains_key(&key)
                || ns.forget_deserted())
        {
            ns.deserted.insert(key, at);
        }
    }

    /// NAT redirects incoming connections to this port.
    pub(super) fn redirects(&mut self, at: Time, netns: NetnsId, to: u16) {
        if let Some(ns) = self.of_mut(netns)
            && ns.redirects.len() < MAX_PORTS
        {
            ns.redirects.insert(to, at);
        }
    }

    /// The namespace is gone.
    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.namespaces.remove(&netns);
        self.forgotten.remove(&netns);
    }

    /// The namespace's number is another pod's now: forgets what was heard before that. A
    /// sample tells who listens, and until then nobody knows.
    pub(super) fn forget_before(&mut self, netns: NetnsId, before: Time) {
        if let Some(ns) = self.namespaces.get_mut(&netns) {
            ns.listeners.retain(|_, holder| holder.since >= before);
            ns.deserted.retain(|_, at| *at >= before);
            ns.redirects.retain(|_, at| *at >= before);
            ns.queues.clear();
            ns.complete = false;
            self.forgotten.insert(netns);
        }
    }

    /// The next namespace whose queues should be told again although nothing changed.
    pub(super) fn next_forgotten(&mut self) -> Option<NetnsId> {
        self.forgotten.pop_first()
    }

    /// Connections were established on a port; `accepted` of them are known to have been accepted.
    pub(super) fn established(
        &mut self,
        at: Time,
        netns: NetnsId,
        port: u16,
        n: u64,
        accepted: u64,
    ) {
        let Some(ns) = self.namespaces.get_mut(&netns) else {
            return;
        };
        for (_, queue) in ns.queues.iter_mut().filter(|((_, p), _)| *p == port) {
            queue.established(at, n, accepted);
        }
    }

    /// A complete sample. Returns whether the set of listeners changed.
    pub(super) fn sampled(&mut self, at: Time, netns: NetnsId, sample: &[ListenerQueue]) -> bool {
        let mut lost = 0;
        let Some(ns) = self.of_mut(netns) else {
            return false;
        };
        let mut before = std::mem::take(&mut ns.listeners);
        let known = before.len();
        let mut new = false;
        for row in sample {
            let old = before.remove(&row.listener);
            new |= old.is_none() && !ns.listeners.contains_key(&row.listener);
            let mut holder = old.unwrap_or(Holder {
                uid: row.uid,
                cgroup: None,
                comm: String::new(),
                since: at,
            });
            if row.uid != NO_ID {
                holder.uid = row.uid;
            }
            lost += ns.put(row.listener, holder);
        }
        let changed = new || ns.listeners.len() != known || !ns.complete;
        ns.complete = true;
        ns.sample_queues(at, sample);
        self.refused = self.refused.saturating_add(lost);
        changed
    }

    /// The kernel's count of connections that found a queue of the namespace full, where it was read.
    pub(super) fn overflowed(&mut self, at: Time, netns: NetnsId, count: Option<u64>) {
        if let (Some(ns), Some(count)) = (self.namespaces.get_mut(&netns), count) {
            ns.overflow.counted(at, count);
        }
    }

    /// What the last sample says about the queue of `port`, its length and maximum; of several
    /// addresses the one that has stood still longest.
    pub(super) fn progress(&self, netns: NetnsId, port: u16) -> Option<(Progress, u32, u32)> {
        let ns = self.namespaces.get(&netns)?;
        let on_port = ns.queues.iter().filter(|((_, p), _)| *p == port);
        let rank = |p: &Progress| match p {
            Progress::Standing { since, .. } => (0, since.0),
            Progress::Moving => (1, 0),
        };
        on_port
            .map(|(_, q)| (q.progress(), q.length, q.max))
            .min_by_key(|(p, ..)| rank(p))
    }
}

impl Namespace {
    /// Returns 1 if it had to be refused.
    fn put(&mut self, listener: Listener, holder: Holder) -> u64 {
        if self.listeners.len() >= MAX_LISTENERS && !self.listeners.contains_key(&listener) {
            return 1;
        }
        self.listeners.insert(listener, holder);
        0
    }

    fn forget_deserted(&mut self) -> bool {
        let oldest = self.deserted.iter().min_by_key(|(key, at)| (**at, **key));
        let oldest = oldest.map(|(key, _)| *key);
        oldest.is_some_and(|key| self.deserted.remove(&key).is_some())
    }

    fn sample_queues(&mut self, at: Time, sample: &[ListenerQueue]) {
        let mut sums: BTreeMap<(IpAddr, u16), (u32, u32, bool)> = BTreeMap::new();
        for row in sample {
            let key = (row.listener.addr, row.listener.port);
            if !self.listeners.contains_key(&row.listener) {
                continue;
            }
            let sum = sums.entry(key).or_default();
            sum.0 = sum.0.saturating_add(row.length);
            sum.1 = sum.1.saturating_add(row.max);
            sum.2 |= row.length > row.max;
        }
        self.queues.retain(|key, _| sums.contains_key(key));
        for (key, (length, max, over)) in sums {
            self.queues
                .entry(key)
                .or_default()
                .sample(at, length, max, over);
        }
    }
}

#[cfg(test)]
mod tests;
