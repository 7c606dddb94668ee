//! From the wire's records to the core's words.
//!
//! The only place that knows both. A value no record may hold was refused before; what is
//! merely unknown (no room for an address, no uid) becomes the model's word for unknown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sidestep_abi as abi;

use crate::model::{
    Arrival, CgroupId, Counts, Datagrams, Direction, EdgeDelta, EdgeKey, Family, Histogram,
    Listener, NetnsId, Outcome, Owner, Process, Rewrite, RulesBackend, Signal, Time,
};

/// An edge; its addresses are unspecified where the kernel side had no room for them.
pub(super) fn edge_key(key: &abi::EdgeKey) -> EdgeKey {
    EdgeKey {
        owner: owner(key),
        direction: direction(key.direction),
        local: address(key.family, key.local),
        local_port: key.local_port,
        remote: SocketAddr::new(address(key.family, key.remote), key.remote_port),
        arrival: match key.arrival {
            abi::ARRIVAL_PORT => Arrival::Port(key.arrival_port),
            abi::ARRIVAL_DECIDED => Arrival::Decided(key.arrival_port),
            abi::ARRIVAL_LOOPBACK => Arrival::Loopback,
            abi::ARRIVAL_NOWHERE => Arrival::Nowhere,
            _ => Arrival::Unknown,
        },
    }
}

/// A direction; the value was checked when it was read.
pub(super) const fn direction(direction: u8) -> Direction {
    if direction == abi::DIRECTION_INBOUND {
        Direction::Inbound
    } else {
        Direction::Outbound
    }
}

/// Both ends of a packet.
pub(super) fn ends(
    family: u8,
    local: [u32; 4],
    remote: [u32; 4],
    port: u16,
) -> (IpAddr, SocketAddr) {
    let remote = SocketAddr::new(address(family, remote), port);
    (address(family, local), remote)
}

fn owner(key: &abi::EdgeKey) -> Owner {
    Owner {
        netns: NetnsId(key.netns),
        cgroup: CgroupId(key.cgroup),
        uid: key.uid,
        gid: key.gid,
    }
}

fn address(family: u8, words: [u32; 4]) -> IpAddr {
    if family == abi::FAMILY_IPV4 {
        return Ipv4Addr::from(words[0].to_ne_bytes()).into();
    }
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).into()
}

/// The difference between two readings of an edge, `None` if nothing happened.
pub(super) fn delta(
    key: &abi::EdgeKey,
    new: &abi::EdgeValue,
    old: &abi::EdgeValue,
) -> Option<EdgeDelta> {
    if new == old {
        return None;
    }
    let since = |outcome: u8| {
        let index = usize::from(outcome);
        u64::from(new.outcomes[index].wrapping_sub(old.outcomes[index]))
    };
    let mut duration = Histogram {
        sum_us: new.sum_us.wrapping_sub(old.sum_us),
        ..Histogram::default()
    };
    for (index, bucket) in duration.buckets.iter_mut().enumerate() {
        *bucket = u64::from(new.buckets[index].wrapping_sub(old.buckets[index]));
    }
    Some(EdgeDelta {
        key: edge_key(key),
        counts: Counts {
            established: since(abi::OUTCOME_ESTABLISHED),
            refused: since(abi::OUTCOME_REFUSED),
            timed_out: since(abi::OUTCOME_TIMED_OUT),
            unreachable: since(abi::OUTCOME_UNREACHABLE),
            failed: since(abi::OUTCOME_FAILED),
            aborted: since(abi::OUTCOME_ABORTED),
            no_address: since(abi::OUTCOME_NO_ADDRESS),
            denied: since(abi::OUTCOME_DENIED),
        },
        duration,
    })
}

/// Counts one settled connection on top of what is there.
pub(super) fn add_settled(value: &mut abi::EdgeValue, duration_us: u32) {
    let established = &mut value.outcomes[usize::from(abi::OUTCOME_ESTABLISHED)];
    *established = established.wrapping_add(1);
    if duration_us == u32::MAX {
        return;
    }
    let last = abi::HISTOGRAM_BUCKETS - 1;
    let bucket = (duration_us.max(1).ilog2() as usize).min(last);
    value.buckets[bucket] = value.buckets[bucket].wrapping_add(1);
    value.sum_us = value.sum_us.wrapping_add(duration_us.into());
}

/// Flows over UDP.
pub(super) fn datagrams(key: &abi::EdgeKey, value: &abi::DatagramValue) -> Datagrams {
    Datagrams {
        key: edge_key(key),
        flows: value.flows,
        process: process(&value.task),
    }
}

/// A destination rewritten inside connect(2).
pub(super) fn rewrite(key: &abi::EdgeKey, value: &abi::DatagramValue) -> Rewrite {
    let asked = edge_key(key);
    Rewrite {
        used: SocketAddr::new(asked.local, key.arrival_port),
        key: EdgeKey {
            local: address(key.family, [0; 4]),
            arrival: Arrival::Unknown,
            ..asked
        },
        connections: value.flows,
        process: process(&value.task),
    }
}

/// A task's name up to its first zero.
pub(super) fn process(task: &abi::Task) -> Process {
    let end = task
        .comm
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(abi::COMM_LEN);
    Process {
        pid: task.pid,
        comm: String::from_utf8_lossy(&task.comm[..end]).into_owned(),
    }
}

fn closed(event: &abi::Event) -> Signal {
    Signal::Closed {
        key: edge_key(&event.key),
        n: event.after_us.saturating_add(1),
    }
}

/// A ring buffer record; the kinds were checked when it was read.
pub(super) fn signal(event: &abi::Event, at: Time) -> Option<Signal> {
    let key = &event.key;
    Some(match event.kind {
        abi::EVENT_FIRST_SEEN => Signal::FirstSeen {
            key: edge_key(key),
            process: process(&event.task),
        },
        abi::EVENT_FAILED => Signal::Failed {
            key: edge_key(key),
            outcome: outcome(event.outcome),
            errno: event.errno,
            refused_at: (event.refused_at != 0).then_some(event.refused_at),
            process: process(&event.task),
            after_us: event.after_us,
            retransmits: event.retransmits,
        },
        abi::EVENT_STALLED => Signal::Stalled {
            key: edge_key(key),
            retransmits: event.retransmits,
            process: process(&event.task),
        },
        abi::EVENT_RESET => Signal::Reset {
            key: edge_key(&abi::EdgeKey {
                local_port: 0,
                ..*key
            }),
            port: key.local_port,
        },
        abi::EVENT_CLOSED => closed(event),
        abi::EVENT_SYN_ACK_RESENT => Signal::SynAckResent {
            owner: owner(key),
            local: SocketAddr::new(address(key.family, key.local), key.local_port),
            peer: SocketAddr::new(address(key.family, key.remote), key.remote_port),
        },
        abi::EVENT_NO_LISTENER => Signal::NoListener {
            netns: NetnsId(key.netns),
            port: key.local_port,
            local: address(key.family, key.local),
            peer: SocketAddr::new(address(key.family, key.remote), key.remote_port),
        },
        abi::EVENT_INBOUND_REDIRECT => Signal::InboundRedirect {
            netns: NetnsId(key.netns),
            from: key.remote_port,
            to: key.local_port,
        },
        abi::EVENT_LISTENING => Signal::Listening {
            owner: owner(key),
            listener: listener(key),
            process: process(&event.task),
        },
        abi::EVENT_LISTENING_ENDED => Signal::ListeningEnded {
            netns: NetnsId(key.netns),
            listener: listener(key),
        },
        abi::EVENT_RULES_CHANGED => rules_changed(event, at)?,
        _ => return None,
    })
}

/// `None` for a backend this agent does not know.
fn rules_changed(event: &abi::Event, at: Time) -> Option<Signal> {
    Some(Signal::RulesChanged {
        netns: NetnsId(event.key.netns),
        at,
        backend: match event.key.local_port {
            abi::RULES_LEGACY => RulesBackend::Legacy,
            abi::RULES_NFT => RulesBackend::Nft,
            _ => return None,
        },
        family: match i32::from(event.key.remote_port) {
            libc::AF_INET => Some(Family::Ipv4),
            libc::AF_INET6 => Some(Family::Ipv6),
            _ => None,
        },
        uid: event.key.uid,
        process: process(&event.task),
    })
}

fn listener(key: &abi::EdgeKey) -> Listener {
    let addr = address(key.family, key.local);
    Listener {
        addr,
        port: key.local_port,
        dual_stack: key.flags & abi::FLAG_DUAL_STACK != 0 && addr.is_unspecified(),
    }
}

const fn outcome(outcome: u8) -> Outcome {
    match outcome {
        abi::OUTCOME_ESTABLISHED => Outcome::Established,
        abi::OUTCOME_REFUSED => Outcome::Refused,
        abi::OUTCOME_TIMED_OUT => Outcome::TimedOut,
        abi::OUTCOME_UNREACHABLE => Outcome::Unreachable,
        abi::OUTCOME_ABORTED => Outcome::Aborted,
        abi::OUTCOME_NO_ADDRESS => Outcome::NoAddress,
        abi::OUTCOME_DENIED => Outcome::Denied,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
