//! What one pod's traffic has shown so far, as far as later verdicts and findings need it.
//!
//! "Not captured" means little alone; "not captured while the other family is" names the
//! cause. This is that memory: small, bounded, one per pod.

use std::net::SocketAddr;

use super::{
    Reason,
    collide::Collisions,
    control::Control,
    facts::View,
    resets::Resets,
    runs::{Run, Runs},
    severed::Severed,
    turned_away::TurnedAway,
    unanswered::Unanswered,
    verdict::{Expected, Party, Path},
};
use crate::{
    mesh::Intent,
    model::{Direction, EdgeKey, Family, Time},
};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// One value per direction and family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grid<T>([T; 4]);

impl<T> Grid<T> {
    const fn ix(direction: Direction, family: Family) -> usize {
        let row = match direction {
            Direction::Outbound => 0,
            Direction::Inbound => 2,
        };
        match family {
            Family::Ipv4 => row,
            Family::Ipv6 => row + 1,
        }
    }

    pub(super) fn get(&self, direction: Direction, family: Family) -> &T {
        &self.0[Self::ix(direction, family)]
    }

    pub(super) fn get_mut(&mut self, direction: Direction, family: Family) -> &mut T {
        &mut self.0[Self::ix(direction, family)]
    }
}

/// Refusals of one destination without a success between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusals {
    pub(super) count: u64,
    pub(super) first: Time,
    pub(super) last: Time,
}

impl Run for Refusals {
    fn last(&self) -> Time {
        self.last
    }
}

/// What refuses the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refuser {
    /// Its own app.
    App,
    /// A destination outside the pod.
    Upstream,
}

/// What a pod's traffic has shown.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Last connection captured.
    pub(super) captured: Grid<Option<Time>>,
    /// Connections meant to be captured that went direct, without those of the proxy's ids.
    pub(super) direct: Grid<u64>,
    /// Handshakes to the proxy that hang or ended without an answer.
    pub(super) hanging: u64,
    /// Handshakes that nobody answers.
    pub(super) unanswered: Unanswered,
    /// Destinations that refuse whoever asks.
    pub(super) turned_away: TurnedAway,
    /// Connections inside the pod whose ends no longer hear each other.
    pub(super) severed: Severed,
    /// New connections that an old socket stands in the way of.
    pub(super) collisions: Collisions,
    /// The control plane.
    pub(super) control: Control,
    /// Destinations that reset the proxy.
    pub(super) resets: Resets,
    /// Destinations of the app whose connections the proxy ends at once, while it dials nobody.
    pub(super) hung_up: Resets,
    /// Destinations that refuse the proxy: its app's, and others.
    app: Runs<Refusals>,
    upstream: Runs<Refusals>,
}

impl Watch {
    /// Remembers what an edge's established connections show. Done for a whole drain before
    /// any of it is judged, so that the order inside a drain does not matter.
    pub(super) fn learn(&mut self, at: Time, key: &EdgeKey, view: &View, intent: &Intent, n: u64) {
        if n == 0 {
            return;
        }
        let (direction, family) = (key.direction, view.family);
        // A process with the proxy's ids says nothing about the rules for the others.
        let ordinary = direction == Direction::Inbound || !has_proxy_id(key, intent);
        let captured = match direction {
            Direction::Outbound => view.party == Party::App && view.path == Path::Capture,
            Direction::Inbound => {
                view.party == Party::Proxy && view.path == Path::Direct && !view.mesh_port
            }
        };
        let direct = view.party == Party::App
            && view.path == Path::Direct
            && view.expected == Expected::Captured;
        if captured && direction == Direction::Outbound {
            self.control.asked(intent, key.remote.port());
        }
        if captured && ordinary {
            *self.captured.get_mut(direction, family) = Some(at);
        }
        if direct && ordinary {
            let count = self.direct.get_mut(direction, family);
            *count = count.saturating_add(n);
        }
        if view.party == Party::Proxy && direction == Direction::Outbound {
            self.app.remove(key.remote);
            self.upstream.remove(key.remote);
            self.resets.established(key.remote, n);
            if self.control.is_it(intent, key.remote.port()) {
                self.control.reached = Some(at);
            }
        }
        // A connection that was captured was answered by the proxy, not by its destination.
        if direction == Direction::Outbound && view.path != Path::Capture {
            self.unanswered.answered(key.remote);
        }
    }

    /// Why an edge that should be captured went direct.
    pub(super) fn cause(
        &self,
        key: &EdgeKey,
        view: &View,
        intent: &Intent,
        has_ipv4: bool,
    ) -> Reason {
        let (direction, family) = (key.direction, view.family);
        if view.path != Path::Direct {
            return Reason::Unknown;
        }
        if direction == Direction::Outbound && Some(key.owner.uid) == intent.proxy_uid {
            return Reason::ProxyUid;
        }
        if direction == Direction::Outbound && Some(key.owner.gid) == intent.proxy_gid {
            return Reason::ProxyGid;
        }
        if self.captured.get(direction, family).is_some() {
            return Reason::Unknown;
        }
        if family == Family::Ipv6 && self.only_ipv4_is_captured(direction, has_ipv4) {
            return Reason::Ipv6;
        }
        Reason::NoRules
    }

    /// IPv4 is captured; or nothing of it was seen to go direct, in a pod that speaks it.
    fn only_ipv4_is_captured(&self, direction: Direction, has_ipv4: bool) -> bool {
        let seen = |d| self.captured.get(d, Family::Ipv4).is_some();
        let leaks = *self.direct.get(direction, Family::Ipv4) > 0;
        let elsewhere = seen(Direction::Outbound) || seen(Direction::Inbound);
        seen(direction) || !leaks && (elsewhere || has_ipv4)
    }

    /// Whether any capture was ever seen in this direction.
    pub(super) fn captures(&self, direction: Direction) -> bool {
        let either = |f| self.captured.get(direction, f).is_some();
        either(Family::Ipv4) || either(Family::Ipv6)
    }

    /// Whether anything went direct in this direction that should have been captured.
    pub(super) fn leaks(&self, direction: Direction) -> bool {
        FAMILIES.iter().any(|f| *self.direct.get(direction, *f) > 0)
    }

    /// The proxy was refused by `to`; returns the run of refusals so far.
    pub(super) fn refused(&mut self, at: Time, who: Refuser, to: SocketAddr, n: u64) -> Refusals {
        let runs = match who {
            Refuser::App => &mut self.app,
            Refuser::Upstream => {
                self.unanswered.answered(to);
                self.resets.refused(to, n);
                &mut self.upstream
            }
        };
        let fresh = Refusals {
            count: 0,
            first: at,
            last: at,
        };
        let run = runs.again(at, to, fresh);
        run.count = run.count.saturating_add(n);
        run.last = at;
        *run
    }

    /// Destinations outside the pod that refuse the proxy.
    pub(super) fn refusing(&self) -> impl Iterator<Item = (&SocketAddr, &Refusals)> {
        self.upstream.iter()
    }

    /// Whether anybody of this kind still refuses.
    pub(super) fn refuses(&self, who: Refuser) -> bool {
        match who {
            Refuser::App => !self.app.is_empty(),
            Refuser::Upstream => !self.upstream.is_empty(),
        }
    }
}

/// Whether the rules would return this socket for its ids.
fn has_proxy_id(key: &EdgeKey, intent: &Intent) -> bool {
    Some(key.owner.uid) == intent.proxy_uid || Some(key.owner.gid) == intent.proxy_gid
}
