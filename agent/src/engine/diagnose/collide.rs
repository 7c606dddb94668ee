//! Findings about new connections that an old socket of the proxy stands in the way of.

use crate::{
    engine::{
        Code,
        collide::Collision,
        directory::PodId,
        findings::{Case, Findings},
    },
    model::{Direction, Family, StreamState, Time},
};

const fn state(state: StreamState) -> &'static str {
    match state {
        StreamState::Dialling => "SYN_SENT",
        StreamState::Open => "ESTABLISHED",
        StreamState::PeerClosed => "CLOSE_WAIT: the app closed it, the proxy has not",
        StreamState::OwnerClosed => "FIN_WAIT: the proxy closed it, the app has not",
    }
}

/// SYNs of an app meet sockets that the proxy kept of older connections.
pub(in crate::engine) fn collide(at: Time, pod: PodId, all: &[Collision], findings: &mut Findings) {
    let case = findings.note(at, Some(pod), Code::FailTupleCollision);
    case.connections = case.connections.max(all.len() as u64);
    for one in all {
        case.destinations.add(one.to, 1);
        *case
            .about
            .get_mut(Direction::Outbound, Family::of(one.to.ip())) = true;
    }
    if let Some(one) = all.iter().max_by_key(|one| (one.resent, one.from)) {
        let dials = format!(
            "from {} to {}: SYN sent again {} times",
            one.from, one.to, one.resent
        );
        case.state(at, "dials", dials);
        let kept = format!(
            "{} with peer {}, uid {}, {}",
            one.at,
            one.from,
            one.uid,
            state(one.state)
        );
        case.state(at, "old_socket", kept);
    }
    case.state(at, "waiting_now", all.len().to_string());
    case.witnesses.insert("SYNs are sent again");
    case.witnesses
        .insert("an older socket on the capture port has their very addresses");
}

/// In one sentence.
pub(super) fn summary(case: &Case, pod: &str, n: &str) -> String {
    let old = case.fact("old_socket").unwrap_or_default();
    format!("{n} of {pod} hang: their SYNs meet a socket the proxy kept of an older one ({old})")
}

/// What to change.
pub(super) fn remedy(proxy: &str) -> String {
    format!(
        "Let what resets the old socket through: rules in the pod that drop resets (--tcp-flags RST) or INVALID packets. Have old sockets end before their ports are used again: both ends close (an app that leaves connections in CLOSE_WAIT, idle time-outs of {proxy}), nf_conntrack_tcp_timeout_close_wait and _fin_wait longer than half-closed connections live, and a wider net.ipv4.ip_local_port_range."
    )
}
