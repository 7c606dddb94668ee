//! New connections of an app that meet what the proxy kept of an older one with the same addresses.
//!
//! Redirected, all of an app's connections end at one port of the proxy, so there only the app's own port tells them
//! apart. Once conntrack has forgotten an older one that the proxy never closed, the port may be taken again: the new SYN
//! meets the old socket, which answers with an ACK in place of a SYN-ACK. Kernels heal that with a reset of the old one
//! within milliseconds; where the reset does not come through the connection hangs until it is given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{Code, diagnose, directory::PodId, machine::Engine, streams::Page};
use crate::{
    mesh::Intent,
    model::{NetnsId, Stream, StreamState},
};

/// SYNs sent again: by then a kernel that can has healed it.
const RESENT: u8 = 2;

/// A SYN that an old socket stands in the way of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Collision {
    /// Where the app's connection comes from, and where it wants to go.
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) resent: u8,
    /// The proxy's end, and how far it is.
    pub(super) at: SocketAddr,
    pub(super) state: StreamState,
    pub(super) uid: u32,
}

/// The collisions of a pod at the last look: both sockets, by the kernel's numbers.
#[derive(Debug, Default)]
pub(super) struct Collisions {
    before: BTreeSet<(u64, u64)>,
}

fn collisions(page: &Page, intent: &Intent) -> BTreeMap<(u64, u64), Collision> {
    let is_old = |one: &&Stream| {
        one.state != StreamState::Dialling && intent.is_capture_port(one.local.port())
    };
    let old = page.streams.iter().filter(is_old);
    let old: BTreeMap<SocketAddr, &Stream> = old.map(|one| (one.remote, one)).collect();
    let dials = |one: &&Stream| one.state == StreamState::Dialling && one.retransmits > 0;
    let dialling = page.streams.iter().filter(dials);
    let met = dialling.filter_map(|one| {
        let other = old.get(&one.local)?;
        let collision = Collision {
            from: one.local,
            to: one.remote,
            resent: one.retransmits,
            at: other.local,
            state: other.state,
            uid: other.uid,
        };
        Some(((one.cookie, other.cookie), collision))
    });
    met.collect()
}

impl Engine {
    /// A look at the connections of a pod.
    pub(super) fn look_for_collisions(&mut self, pod: PodId, netns: NetnsId) {
        let intent = self.known.directory.pod(pod).and_then(|p| p.intent.clone());
        let (Some(intent), Some(page)) = (intent, self.known.streams.of(netns)) else {
            return;
        };
        let now = collisions(page, &intent);
        let watch = self.known.watches.entry(pod).or_default();
        // Seen once, a handshake may have ended while the table was read.
        let stays = |(both, one): &(&(u64, u64), &Collision)| {
            watch.collisions.before.contains(both) && one.resent >= RESENT
        };
        let lasting: Vec<Collision> = (now.iter().filter(stays))
            .map(|(_, one)| one.clone())
            .collect();
        let over = now.is_empty() && !watch.collisions.before.is_empty();
        watch.collisions.before = now.into_keys().collect();
        if !lasting.is_empty() {
            diagnose::collide(self.now, pod, &lasting, &mut self.findings);
        } else if over {
            self.resolve(pod, Code::FailTupleCollision);
        }
    }
}
