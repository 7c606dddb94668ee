//! UDP as far as a mesh cares: name resolution, and what may be HTTP/3.
//!
//! Called by the NAT decision of a new flow that is not TCP; a packet of a known flow never
//! comes here. Where no rule of a namespace rewrites anything, its flows are not tracked, and
//! nothing of them comes here either. Counted per destination and decision in a map of its
//! own, which the agent empties: no event, no histogram.
//!
//! Must never: look at a payload, or count a flow of somebody else than the running task.

use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::bpf_get_current_cgroup_id,
    },
    maps::HashMap,
};
use sidestep_abi::{
    ARRIVAL_DECIDED, ARRIVAL_NOWHERE, ARRIVAL_UNKNOWN, Counter, DIRECTION_OUTBOUND, DatagramValue,
    EdgeKey, FAMILY_IPV4, FAMILY_IPV6, Range, Task, Tuple,
};

use crate::{
    atomic,
    kernel::AF_INET6,
    maps::{DATAGRAMS, DECISION_REDIRECT, lost},
    range::{MAP_IPS, read_range, same},
    task::current_netns,
};

/// Name resolution.
const DNS: u16 = 53;
/// HTTP/3.
const QUIC: u16 = 443;
/// `BPF_NOEXIST`: insert only if there is nothing yet.
const NO_EXIST: u64 = 1;

/// NAT decided for a new flow in the namespace `netns`.
#[inline(always)]
pub(crate) fn decided(netns: u32, tuple: &Tuple, range: &Range) {
    let port = u16::from_be(tuple.dst_port);
    // The same packet is decided for again in every namespace it crosses, in this task's context.
    if (port != DNS && port != QUIC) || netns == 0 || current_netns() != netns {
        return;
    }
    let ids = bpf_get_current_uid_gid();
    let mut key = EdgeKey {
        // SAFETY: a helper without arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        netns,
        uid: ids as u32,
        gid: (ids >> 32) as u32,
        remote_port: port,
        direction: DIRECTION_OUTBOUND,
        family: FAMILY_IPV4,
        local: [tuple.src[0], 0, 0, 0],
        remote: [tuple.dst[0], 0, 0, 0],
        ..EdgeKey::default()
    };
    if tuple.family == AF_INET6 {
        key.family = FAMILY_IPV6;
        key.local = tuple.src;
        key.remote = tuple.dst;
    }
    (key.arrival, key.arrival_port) = arrival(tuple, range);
    count(&DATAGRAMS, &key, Counter::DatagramLost);
}

/// Where the flow goes: to a port of this host, elsewhere than asked, or as asked.
#[inline(always)]
fn arrival(tuple: &Tuple, range: &Range) -> (u8, u16) {
    let decision = read_range(range, tuple);
    if decision & DECISION_REDIRECT != 0 {
        (ARRIVAL_DECIDED, decision as u16)
    } else if range.flags & MAP_IPS != 0 && !same(tuple, &range.addr) {
        (ARRIVAL_UNKNOWN, 0)
    } else {
        (ARRIVAL_NOWHERE, 0)
    }
}

/// Adds one to what a map has for `key`, which the agent takes out of it.
#[inline(always)]
pub(crate) fn count(map: &HashMap<EdgeKey, DatagramValue>, key: &EdgeKey, full: Counter) {
    if map.get_ptr_mut(key).is_none() {
        let value = DatagramValue {
            flows: 0,
            task: Task {
                pid: (bpf_get_current_pid_tgid() >> 32) as u32,
                comm: bpf_get_current_comm().unwrap_or_default(),
            },
            reserved: 0,
        };
        // Failing is fine: another CPU was first, or the next lookup fails too.
        let _ = map.insert(key, value, NO_EXIST);
    }
    match map.get_ptr_mut(key) {
        // SAFETY: a map value, 8-byte aligned.
        Some(value) => unsafe { atomic::add64(&raw mut (*value).flows, 1) },
        None => lost(full),
    }
}
