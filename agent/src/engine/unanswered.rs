//! Handshakes of one pod that nobody answers, by destination.
//!
//! A SYN that is sent twice is everyday life on a lossy link; one that is sent three times, or
//! several connections that all have to send theirs again, is a destination that does not answer.
//! The kernel tells of a resent SYN while the connection still waits, so that nobody has to wait
//! for the whole time-out. Any answer of a destination ends its run.

use std::net::{IpAddr, SocketAddr};

use super::{
    edges::Comm,
    runs::{Run, Runs},
};
use crate::model::{EdgeKey, Time};

/// SYNs of one connection sent again that make a run by themselves: the third was sent
/// 2 to 3 seconds after the first, depending on the kernel.
const RESENT: u8 = 2;
/// Connections that make a run together, and the time they must span.
const CONNECTIONS: u64 = 3;
const SPAN_US: u64 = 1_000_000;
/// A caller that gives up sooner did not wait for an answer.
pub(super) const PATIENCE_US: u64 = 200_000;

/// A destination that does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hang {
    /// Its latest connection.
    pub(super) key: EdgeKey,
    pub(super) container: Option<u16>,
    pub(super) process: Option<Comm>,
    pub(super) first: Time,
    pub(super) last: Time,
    /// Connections that sent their SYN again, or were given up in vain.
    pub(super) connections: u64,
    /// SYNs known to have been sent again, all connections together.
    pub(super) resent: u64,
    /// The most of one connection.
    pub(super) most: u8,
    /// It is the proxy's, and leaves the pod.
    pub(super) upstream: bool,
    /// The pod's own rules explain it.
    pub(super) explained: bool,
}

impl Hang {
    /// Whether it is more than bad luck.
    pub(super) fn is_run(&self) -> bool {
        let spans = self.last.micros_since(self.first);
        self.most >= RESENT || self.connections >= CONNECTIONS && spans >= SPAN_US
    }
}

impl Run for Hang {
    fn last(&self) -> Time {
        self.last
    }
}

/// One sign of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sign {
    pub(super) key: EdgeKey,
    pub(super) container: Option<u16>,
    pub(super) process: Option<Comm>,
    /// SYNs of this connection sent again so far: told at powers of two.
    pub(super) resent: u8,
    /// See [`Hang::upstream`].
    pub(super) upstream: bool,
}

/// All destinations of a pod that do not answer.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    by: Runs<Hang>,
}

impl Unanswered {
    /// A connection was not answered so far.
    pub(super) fn note(&mut self, at: Time, sign: &Sign) -> Hang {
        let fresh = Hang {
            key: sign.key,
            container: sign.container,
            process: sign.process,
            first: at,
            last: at,
            connections: 0,
            resent: 0,
            most: 0,
            upstream: sign.upstream,
            explained: false,
        };
        let hang = self.by.again(at, sign.key.remote, fresh);
        hang.key = sign.key;
        hang.container = sign.container;
        hang.process = sign.process.or(hang.process);
        hang.last = at;
        hang.connections += u64::from(sign.resent <= 1);
        // Told at 1, 2, 4, 8: the half of it was added before.
        hang.resent += u64::from(sign.resent - sign.resent / 2);
        hang.most = hang.most.max(sign.resent);
        hang.upstream = sign.upstream;
        *hang
    }

    /// The pod's own rules explain this destination.
    pub(super) fn explain(&mut self, to: SocketAddr) {
        if let Some(hang) = self.by.get_mut(to) {
            hang.explained = true;
        }
    }

    /// What explained some of them is no more.
    pub(super) fn explain_anew(&mut self) {
        self.by.each(|hang| hang.explained = false);
    }

    /// This destination answered.
    pub(super) fn answered(&mut self, to: SocketAddr) {
        self.by.remove(to);
    }

    /// Whether this destination does not answer.
    pub(super) fn is_silent(&self, to: SocketAddr) -> bool {
        self.by.contains(to)
    }

    /// Whether any port of this address does not answer.
    pub(super) fn any_to(&self, to: IpAddr) -> bool {
        self.by.iter().any(|(one, _)| one.ip() == to)
    }

    /// What did not answer lately.
    pub(super) fn recent(&self, at: Time, within_us: u64) -> impl Iterator<Item = &Hang> {
        let all = self.by.iter().map(|(_, hang)| hang);
        all.filter(move |hang| at.micros_since(hang.last) <= within_us)
    }

    /// Upstreams that do not answer the proxy, as far as its own pod's rules are not why.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Hang> {
        let all = self.by.iter().map(|(_, hang)| hang);
        all.filter(|h| h.upstream && !h.explained)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::runs::MAX_DESTINATIONS, *};
    use crate::model::{Arrival, CgroupId, Direction, NetnsId, Owner};

    fn sign(port: u16, resent: u8) -> Sign {
        let ip: IpAddr = [10, 0, 0, 9].into();
        Sign {
            key: EdgeKey {
                owner: Owner {
                    netns: NetnsId(1),
                    cgroup: CgroupId(1),
                    uid: 0,
                    gid: 0,
                },
                direction: Direction::Outbound,
                local: ip,
                local_port: 0,
                remote: SocketAddr::new(ip, port),
                arrival: Arrival::Nowhere,
            },
            container: None,
            process: None,
            resent,
            upstream: true,
        }
    }

    #[test]
    fn one_resent_syn_is_bad_luck_and_two_are_not() {
        let mut all = Unanswered::default();
        assert!(!all.note(Time(1), &sign(80, 1)).is_run());
        let hang = all.note(Time(2_000_000), &sign(80, 2));
        assert!(hang.is_run());
        assert_eq!((hang.connections, hang.resent), (1, 2));
        let hang = all.note(Time(8_000_000), &sign(80, 4));
        assert_eq!((hang.connections, hang.resent), (1, 4));
    }

    #[test]
    fn three_connections_are_a_run_unless_one_was_answered() {
        let mut all = Unanswered::default();
        assert!(!all.note(Time(0), &sign(80, 1)).is_run());
        assert!(!all.note(Time(600_000), &sign(80, 1)).is_run());
        all.answered(sign(80, 1).key.remote);
        assert!(!all.note(Time(1_200_000), &sign(80, 1)).is_run());
        assert!(!all.note(Time(1_800_000), &sign(80, 1)).is_run());
        assert!(all.note(Time(2_400_000), &sign(80, 1)).is_run());
        // A run that paused is none.
        assert!(!all.note(Time(62_400_000), &sign(80, 1)).is_run());
    }

    #[test]
    fn the_one_silent_for_longest_makes_room() {
        let mut all = Unanswered::default();
        for port in 1..=100 {
            all.note(Time(u64::from(port)), &sign(port, 1));
        }
        assert_eq!(all.by.iter().count(), MAX_DESTINATIONS);
        let oldest = all.by.iter().map(|(to, _)| to.port()).min();
        assert_eq!(oldest, Some(37));
    }
}
