//! A SYN that met no listener: the sign of a redirect to nobody.
//!
//! Tracepoint since 6.10, also without a socket:
//! `tcp_send_reset(const struct sock *sk, const struct sk_buff *skb, const enum sk_rst_reason reason)`.
//! Before it, the static functions behind it:
//! `tcp_v4_send_reset(const struct sock *sk, struct sk_buff *skb)`, `tcp_v6_send_reset` alike.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, kprobe},
    programs::{BtfTracePointContext, ProbeContext},
};
use sidestep_abi::{ABSENT, EVENT_NO_LISTENER, EdgeKey, FAMILY_IPV4, FAMILY_IPV6};

use crate::{
    addr::{Addr, halves},
    events::{self, Detail},
    kernel::{Kernel, Probed, offset},
    maps::{REFUSED, REFUSED_SLOTS, end_hash},
};

/// A refusal older than this was of another connection with the same port.
const FRESH_NS: u64 = 1_000_000_000;
/// SYN and ACK in the flags byte of a TCP header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn reset_tp_btf(ctx: BtfTracePointContext) -> i32 {
    // Reading the third argument makes the verifier refuse kernels that trace only
    // resets of existing sockets.
    let _reason: u32 = core::hint::black_box(ctx.arg(2));
    sent(ctx.arg(0), ctx.arg(1));
    0
}

#[kprobe(function = "tcp_v4_send_reset")]
pub(crate) fn reset_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        sent(sk, skb);
    }
    0
}

#[inline(always)]
fn sent(sk: *const u8, skb: *const u8) {
    if !sk.is_null() || skb.is_null() {
        return;
    }
    let Some((key, peer_port)) = syn(skb) else {
        return;
    };
    let tag = end_hash(key.netns, peer_port, halves(key.remote));
    if let Some(slot) = REFUSED.get_ptr_mut(tag as u32 & (REFUSED_SLOTS - 1)) {
        // SAFETY: a map value; a helper without arguments.
        unsafe {
            (*slot).at_ns = bpf_ktime_get_ns();
            (*slot).port = key.local_port.into();
            (*slot).tag = tag;
        }
    }
    events::tell_within_budget(EVENT_NO_LISTENER, &key, &events::NOBODY, &Detail::default());
}

/// Takes the port of this namespace at which the SYN of a connection met no listener, 0 if none.
#[inline(always)]
pub(crate) fn met_no_listener(netns: u32, port: u16, addr: Addr) -> u16 {
    let tag = end_hash(netns, port, addr);
    let Some(slot) = REFUSED.get_ptr_mut(tag as u32 & (REFUSED_SLOTS - 1)) else {
        return 0;
    };
    // SAFETY: a map value; a helper without arguments.
    unsafe {
        if (*slot).tag != tag {
            return 0;
        }
        (*slot).tag = 0;
        let fresh = bpf_ktime_get_ns().wrapping_sub((*slot).at_ns) <= FRESH_NS;
        (*slot).port as u16 * u16::from(fresh)
    }
}

/// Reads a SYN: namespace and addresses as a key, with both ports, and the peer's port.
#[inline(always)]
fn syn(skb: *const u8) -> Option<(EdgeKey, u16)> {
    if offset!(skb_head) == ABSENT
        || offset!(skb_network_header) == ABSENT
        || offset!(skb_transport_header) == ABSENT
        || offset!(skb_dev) == ABSENT
        || offset!(dev_net) == ABSENT
    {
        return None;
    }
    // SAFETY: integers and pointers, read through the helper.
    unsafe {
        let head: *const u8 = Probed::load(skb, offset!(skb_head));
        let network: u16 = Probed::load(skb, offset!(skb_network_header));
        let transport: u16 = Probed::load(skb, offset!(skb_transport_header));
        let tcp = head.wrapping_add(transport.into());
        let flags: u8 = Probed::load(tcp, 13);
        if flags & (SYN | ACK) != SYN {
            return None;
        }
        let mut key = ip_addresses(head.wrapping_add(network.into()))?;
        let dev: *const u8 = Probed::load(skb, offset!(skb_dev));
        let net: *const u8 = Probed::load(dev, offset!(dev_net));
        key.netns = Probed::load(net, offset!(net_inum));
        let peer_port = u16::from_be(Probed::load(tcp, 0));
        key.remote_port = peer_port;
        key.local_port = u16::from_be(Probed::load(tcp, 2));
        Some((key, peer_port))
    }
}

/// Addresses of an IP header; local is the destination.
///
/// # Safety
/// None beyond the helper's: any address may be given.
#[inline(always)]
unsafe fn ip_addresses(ip: *const u8) -> Option<EdgeKey> {
    let mut key = EdgeKey::default();
    // SAFETY: integers, read through the helper.
    unsafe {
        let version: u8 = Probed::load(ip, 0);
        match version >> 4 {
            4 => {
                key.family = FAMILY_IPV4;
                key.remote[0] = Probed::load(ip, 12);
                key.local[0] = Probed::load(ip, 16);
            }
            6 => {
                key.family = FAMILY_IPV6;
                key.remote = Probed::load(ip, 8);
                key.local = Probed::load(ip, 24);
            }
            _ => return None,
        }
    }
    Some(key)
}
