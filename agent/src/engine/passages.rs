//! How packets of pods pass the node, where somebody wondered.
//!
//! Asked of the node when a destination does not answer, and believed for a minute: routes
//! change. What nobody asks about any more is forgotten, and with the last of them the rules
//! of the node, which are many.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{directory::PodId, machine::Engine};
use crate::model::{NetnsId, PacketEnds, Passage, Through, Time};

/// Pairs of a namespace and an address.
const MAX: usize = 512;
/// An answer is believed for so long.
const BELIEVED_US: u64 = 60_000_000;
/// What was not answered is asked again after so long.
const AGAIN_US: u64 = 5_000_000;
/// What nobody asks about for so long is forgotten.
const FORGET_US: u64 = 300_000_000;

#[derive(Debug)]
struct Entry {
    /// When the node was asked last.
    asked: Time,
    /// When somebody wanted to know last.
    used: Time,
    answer: Option<Option<Through>>,
}

/// The ways that were asked about.
#[derive(Debug, Default)]
pub(super) struct Passages {
    by: BTreeMap<(NetnsId, IpAddr), Entry>,
    wanted: BTreeSet<PacketEnds>,
    /// Questions for which there was no room, and connections that were not followed.
    pub(super) refused: u64,
    /// Connections followed in the second that began then.
    followed: (Time, u32),
}

impl Passages {
    /// What packets of a namespace pass; asks the node where that is not known.
    pub(super) fn ask(
        &mut self,
        at: Time,
        netns: NetnsId,
        (from, to): (IpAddr, IpAddr),
    ) -> Option<&Through> {
        let key = (netns, to);
        if self.by.len() >= MAX && !self.by.contains_key(&key) {
            self.forget(at);
            if self.by.len() >= MAX {
                self.refused = self.refused.saturating_add(1);
                return None;
            }
        }
        let wanted = &mut self.wanted;
        let entry = self.by.entry(key).or_insert_with(|| {
            wanted.insert(PacketEnds { netns, from, to });
            Entry {
                asked: at,
                used: at,
                answer: None,
            }
        });
        entry.used = at;
        let believed = if entry.answer.is_some() {
            BELIEVED_US
        } else {
            AGAIN_US
        };
        if at.micros_since(entry.asked) > believed {
            entry.asked = at;
            wanted.insert(PacketEnds { netns, from, to });
        }
        entry.answer.as_ref()?.as_ref()
    }

    /// Whether one more connection may be followed through the node's rules.
    pub(super) fn may_follow(&mut self, at: Time, most: u32, within_us: u64) -> bool {
        if at.micros_since(self.followed.0) >= within_us {
            self.followed = (at, 0);
        }
        self.followed.1 = self.followed.1.saturating_add(1);
        let may = self.followed.1 <= most;
        if !may {
            self.refused = self.refused.saturating_add(1);
        }
        may
    }

    /// The node answered; true if somebody had asked.
    fn answered(&mut self, passage: Passage) -> bool {
        let entry = self.by.get_mut(&(passage.netns, passage.to));
        entry.is_some_and(|entry| {
            entry.answer = Some(passage.through);
            true
        })
    }

    /// A way that is to be asked for. Each is told once.
    pub(super) fn next_wanted(&mut self) -> Option<PacketEnds> {
        self.wanted.pop_first()
    }

    /// Whether the node was asked, and has not answered.
    pub(super) fn waits(&self, netns: NetnsId, to: IpAddr) -> bool {
        let entry = self.by.get(&(netns, to));
        entry.is_some_and(|entry| entry.answer.is_none())
    }

    /// What is known.
    pub(super) fn of(&self, netns: NetnsId, to: IpAddr) -> Option<&Through> {
        self.by.get(&(netns, to))?.answer.as_ref()?.as_ref()
    }

    /// The namespaces that packets of this one pass; `None` where the node has not answered.
    pub(super) fn nodes_of(&self, netns: NetnsId) -> impl Iterator<Item = Option<NetnsId>> {
        let all = self.by.range((netns, IpAddr::from([0, 0, 0, 0]))..);
        let own = all.take_while(move |((of, _), _)| *of == netns);
        own.filter_map(|(_, entry)| match &entry.answer {
            Some(through) => Some(Some(through.as_ref()?.node)),
            None => Some(None),
        })
    }

    /// Whether packets of somebody pass this namespace.
    pub(super) fn is_passed(&self, node: NetnsId) -> bool {
        self.by.values().any(|entry| {
            let through = entry.answer.as_ref().and_then(Option::as_ref);
            through.is_some_and(|through| through.node == node)
        })
    }

    /// A namespace is gone, or another pod's.
    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.by.retain(|(of, _), _| *of != netns);
    }

    /// Forgets what nobody asks about; the namespaces that nobody passes any more.
    fn forget(&mut self, at: Time) -> BTreeSet<NetnsId> {
        let old = |entry: &Entry| at.micros_since(entry.used) > FORGET_US;
        let mut nodes = BTreeSet::new();
        self.by.retain(|_, entry| {
            let gone = old(entry);
            if gone && let Some(Some(through)) = &entry.answer {
                nodes.insert(through.node);
            }
            !gone
        });
        nodes.retain(|node| !self.is_passed(*node));
        nodes
    }
}

impl Engine {
    /// The node says how packets pass it: its rules are wanted, and who waits for them is
    /// looked at again.
    pub(super) fn passage(&mut self, passage: Passage) {
        let netns = passage.netns;
        if let Some(through) = &passage.through {
            let pod = self.known.directory.pod_of(netns);
            let watch = pod.and_then(|pod| self.known.watches.get(&pod));
            let silent = watch.is_some_and(|watch| watch.unanswered.any_to(passage.to));
            self.ask_node(through.node, silent);
        }
        if self.known.passages.answered(passage)
            && let Some(pod) = self.known.directory.pod_of(netns)
        {
            self.blame_pod(pod);
        }
        self.findings.touched = true;
    }

    /// Forgets what nobody asks about, and the rules that nobody needs any more.
    pub(super) fn forget_passages(&mut self) {
        for node in self.known.passages.forget(self.now) {
            // A namespace of a pod is read anyway.
            if self.known.directory.pod_of(node).is_none() {
                self.known.rulebook.forget_read(node);
            }
        }
    }

    /// The addresses of a namespace, if they are known.
    pub(super) fn addresses_of(&self, netns: NetnsId) -> Option<Vec<IpAddr>> {
        let entry = self.known.directory.netns.get(&netns)?;
        (!entry.addresses.is_empty()).then(|| entry.addresses.clone())
    }

    /// The namespace of a pod that has one of its own.
    pub(super) fn own_netns(&self, pod: PodId) -> Option<NetnsId> {
        let entry = self.known.directory.pod(pod)?;
        entry.netns.filter(|_| !entry.pod.host_network)
    }
}
