//! What NAT decides for a connection, before anybody answers.
//!
//! `unsigned int nf_nat_setup_info(struct nf_conn *ct, const struct nf_nat_range2 *range,
//! enum nf_nat_manip_type maniptype)`, in the nf_nat module: attached when it loads.
//!
//! Called once per connection and direction. In connect(2)'s own context it decides the
//! connection the thread is making; anywhere else an incoming one.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::kprobe, programs::ProbeContext};
use sidestep_abi::{EVENT_INBOUND_REDIRECT, EdgeKey, FAMILY_IPV4, LateOffsets, Range, Tuple};

use crate::{
    datagram,
    events::{self, Detail},
    kernel::{AF_INET6, Kernel, Probed, TCP, UDP, offset},
    maps::{
        CONNECTING, CONNECTING_SLOTS, DECISION_REDIRECT, LATE, PENDING, PENDING_SLOTS, Pending,
        TOLD, TOLD_SLOTS, destination, end_hash,
    },
    range::read_range,
};

/// `NF_NAT_MANIP_DST`: the destination is rewritten.
const MANIP_DST: u32 = 1;

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
    let at = late.ct_tuplehash.wrapping_add(late.hash_tuple);
    // SAFETY: plain records whose layout the agent compared with this kernel's.
    let (tuple, range) = unsafe {
        (
            Probed::load::<Tuple>(ct, at),
            Probed::load::<Range>(range, 0),
        )
    };
    if u16::from(tuple.protocol) != TCP {
        if u16::from(tuple.protocol) == UDP {
            datagram::decided(netns(ct, late), &tuple, &range);
        }
        return;
    }
    let decision = read_range(&range, &tuple);
    if let Some(pending) = connecting(ct, late, &tuple) {
        // SAFETY: a map value.
        unsafe { (*pending).decision = decision };
    } else if decision & DECISION_REDIRECT != 0 {
        tell_inbound(ct, late, &tuple, decision as u16);
    }
}

/// The connect(2) this thread is in, if the tuple is that connection's.
#[inline(always)]
fn connecting(ct: *const u8, late: &LateOffsets, tuple: &Tuple) -> Option<*mut Pending> {
    let thread = bpf_get_current_pid_tgid() as u32;
    let entry = CONNECTING.get(thread & (CONNECTING_SLOTS - 1))?;
    if entry.thread != thread {
        return None;
    }
    let pending = PENDING.get_ptr_mut(entry.slot & (PENDING_SLOTS - 1))?;
    // A peer's namespace on this host decides for the same SYN, in the same task's context.
    let six = tuple.family == AF_INET6;
    let word = if six { tuple.dst[3] } else { tuple.dst[0] };
    let to = destination(tuple.dst_port, word);
    // SAFETY: a map value; an integer, read through the helper.
    unsafe {
        let net: u64 = Probed::load(ct, late.ct_net);
        let same = (*pending).to == to && (*pending).net == net;
        ((*pending).sk != 0 && (*pending).place == 0 && same).then_some(pending)
    }
}

/// Namespace of a tracked connection.
#[inline(always)]
fn netns(ct: *const u8, late: &LateOffsets) -> u32 {
    // SAFETY: a pointer and an integer, read through the helper.
    unsafe {
        let net: *const u8 = Probed::load(ct, late.ct_net);
        Probed::load(net, offset!(net_inum))
    }
}

/// Tells an incoming redirect the first time it is seen.
#[inline(always)]
fn tell_inbound(ct: *const u8, late: &LateOffsets, tuple: &Tuple, to: u16) {
    let netns = netns(ct, late);
    let from = u16::from_be(tuple.dst_port);
    let seen = end_hash(netns, to, [from.into(), 0]);
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
    let key = EdgeKey {
        netns,
        family: FAMILY_IPV4,
        remote_port: from,
        local_port: to,
        ..EdgeKey::default()
    };
    events::tell_within_budget(
        EVENT_INBOUND_REDIRECT,
        &key,
        &events::NOBODY,
        &Detail::default(),
    );
}
