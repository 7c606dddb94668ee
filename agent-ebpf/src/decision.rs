//! What NAT decides for a connection, before anybody answers.
//!
//! `unsigned int nf_nat_setup_info(struct nf_conn *ct, const struct nf_nat_range2 *range,
//! enum nf_nat_manip_type maniptype)`, in the nf_nat module: attached when it loads.
//!
//! Called once per connection and direction. In connect(2)'s own context it decides the
//! connection the thread is making; anywhere else an incoming one.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::kprobe, programs::ProbeContext};
use sidestep_abi::{EVENT_INBOUND_REDIRECT, EdgeKey, FAMILY_IPV4, FAMILY_IPV6, LateOffsets};

use crate::{
    edges,
    events::{self, Detail},
    kernel::{AF_INET6, Kernel, Probed, Sock, TCP, offset},
    maps::{
        CONNECTING, CONNECTING_SLOTS, DECISION_NONE, DECISION_REDIRECT, LATE, PENDING,
        PENDING_SLOTS, Pending, TOLD, TOLD_SLOTS, end_hash,
    },
};

/// `NF_NAT_MANIP_DST`: the destination is rewritten.
const MANIP_DST: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`: the range sets an address.
const MAP_IPS: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the range sets a port.
const MAP_PORT: u32 = 2;

#[kprobe(function = "nf_nat_setup_info")]
pub(crate) fn decision_kprobe(ctx: ProbeContext) -> u32 {
    if ctx.arg::<u32>(2) != Some(MANIP_DST) {
        return 0;
    }
    if let (Some(ct), Some(range), Some(late)) = (ctx.arg(0), ctx.arg(1), LATE.get(0)) {
        decided(ct, range, late);
    }
    0
}

#[inline(always)]
fn decided(ct: *const u8, range: *const u8, late: &LateOffsets) {
    let Some((key, peer_port)) = original(ct, late) else {
        return;
    };
    let decision = read_range(range, late, &key);
    if let Some(pending) = connecting(&key) {
        // SAFETY: a map value.
        unsafe { (*pending).decision = decision };
        return;
    }
    let _ = peer_port;
    if decision & DECISION_REDIRECT != 0 {
        tell_inbound(ct, late, key, decision as u16);
    }
}

/// The connection's original tuple: local is the source, remote the destination.
#[inline(always)]
fn original(ct: *const u8, late: &LateOffsets) -> Option<(EdgeKey, u16)> {
    let tuple = ct.wrapping_add((late.ct_tuplehash + late.hash_tuple) as usize);
    let mut key = EdgeKey::default();
    // SAFETY: integers, read through the helper.
    unsafe {
        if u16::from(Probed::load::<u8>(tuple, late.tuple_protocol)) != TCP {
            return None;
        }
        key.remote_port = u16::from_be(Probed::load(tuple, late.tuple_dst_port));
        if Probed::load::<u16>(tuple, late.tuple_family) == AF_INET6 {
            key.family = FAMILY_IPV6;
            key.local = Probed::load(tuple, late.tuple_src);
            key.remote = Probed::load(tuple, late.tuple_dst);
        } else {
            key.family = FAMILY_IPV4;
            key.local[0] = Probed::load(tuple, late.tuple_src);
            key.remote[0] = Probed::load(tuple, late.tuple_dst);
        }
        let port = u16::from_be(Probed::load(tuple, late.tuple_src_port));
        Some((key, port))
    }
}

/// What a range decides: a redirect only if it leads to this host.
///
/// A rewritten destination elsewhere (a service's virtual address) is no interception.
#[inline(always)]
fn read_range(range: *const u8, late: &LateOffsets, key: &EdgeKey) -> u32 {
    // SAFETY: integers, read through the helper.
    unsafe {
        let flags: u32 = Probed::load(range, late.range_flags);
        if flags & MAP_PORT == 0 {
            return DECISION_NONE;
        }
        let port = u16::from_be(Probed::load(range, late.range_port));
        if flags & MAP_IPS != 0 {
            let addr: [u32; 4] = Probed::load(range, late.range_addr);
            if !leads_here(key, &addr) || (port == key.remote_port && same(key, &addr)) {
                return DECISION_NONE;
            }
        } else if port == key.remote_port {
            return DECISION_NONE;
        }
        DECISION_REDIRECT | u32::from(port)
    }
}

/// Loopback, or one of the two addresses the connection has anyway.
#[inline(always)]
fn leads_here(key: &EdgeKey, addr: &[u32; 4]) -> bool {
    if key.family == FAMILY_IPV4 {
        return addr[0] & 0xff == 127 || addr[0] == key.local[0] || addr[0] == key.remote[0];
    }
    let loopback = addr[0] == 0 && addr[1] == 0 && addr[2] == 0 && addr[3] == 1_u32.to_be();
    loopback || equal(addr, &key.local) || equal(addr, &key.remote)
}

#[inline(always)]
fn same(key: &EdgeKey, addr: &[u32; 4]) -> bool {
    if key.family == FAMILY_IPV4 {
        return addr[0] == key.remote[0];
    }
    equal(addr, &key.remote)
}

#[inline(always)]
fn equal(a: &[u32; 4], b: &[u32; 4]) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

/// The connect(2) this thread is in, if the tuple is that connection's.
#[inline(always)]
fn connecting(key: &EdgeKey) -> Option<*mut Pending> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let entry = CONNECTING.get(thread & (CONNECTING_SLOTS - 1))?;
    if entry.thread != thread {
        return None;
    }
    let pending = PENDING.get_ptr_mut(entry.slot & (PENDING_SLOTS - 1))?;
    // SAFETY: a map value.
    let sk = unsafe { core::ptr::read_volatile(&raw const (*pending).sk) };
    if sk == 0 {
        return None;
    }
    let sock = Sock::<Probed>::new(sk as *const u8);
    let ours = sock.remote_port() == key.remote_port && equal(&sock.ends().remote, &key.remote);
    ours.then_some(pending)
}

/// Tells an incoming redirect the first time it is seen.
#[inline(always)]
fn tell_inbound(ct: *const u8, late: &LateOffsets, mut key: EdgeKey, to: u16) {
    // SAFETY: a pointer and an integer, read through the helper.
    unsafe {
        let net: *const u8 = Probed::load(ct, late.ct_net);
        key.netns = Probed::load(net, offset!(net_inum));
    }
    let seen = end_hash(key.netns, to, &[key.remote_port.into(), 0, 0, 0]);
    let Some(told) = TOLD.get_ptr_mut(seen as u32 & (TOLD_SLOTS - 1)) else {
        return;
    };
    // SAFETY: a map value.
    unsafe {
        if *told == seen {
            return;
        }
        *told = seen;
    }
    key.local_port = to;
    events::tell_within_budget(
        EVENT_INBOUND_REDIRECT,
        &key,
        &edges::NOBODY,
        &Detail::default(),
    );
}
