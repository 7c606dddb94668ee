//! Deep probe: what the kernel drops of a few watched addresses, where and why.
//!
//! `void kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason[, struct sock *rx_sk])`,
//! the reason since 5.17. Attached on suspicion only, and detached again: it runs for every packet
//! that any namespace drops. By address and not by namespace, because what a pod sends is dropped in
//! its own namespace, on the node, or where it arrives. Two lookups decide for most packets.
//!
//! Must never: look behind the TCP header, or tell anything of an address nobody watches.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use sidestep_abi::{
    ABSENT, Counter, DIRECTION_INBOUND, DIRECTION_OUTBOUND, DropKey, FAMILY_IPV4, FAMILY_IPV6,
    TCP_ACK, TCP_SYN,
};

use crate::{
    atomic, events,
    kernel::{Kernel, Probed, TCP, netns_inode, offset},
    maps::{DROPS, WATCHED, lost},
};

/// `BPF_NOEXIST`: insert only if there is nothing yet.
const NO_EXIST: u64 = 1;

#[raw_tracepoint(tracepoint = "kfree_skb")]
pub(crate) fn drops_reason_raw_tp(ctx: RawTracePointContext) -> i32 {
    // Attaching fails where the tracepoint has no third argument.
    dropped(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
pub(crate) fn drops_raw_tp(ctx: RawTracePointContext) -> i32 {
    dropped(ctx.arg(0), ctx.arg(1), 0);
    0
}

#[inline(always)]
fn dropped(skb: *const u8, location: u64, reason: u32) {
    if skb.is_null() || offset!(skb_head) == ABSENT || offset!(skb_network_header) == ABSENT {
        return;
    }
    let mut key = DropKey {
        location,
        reason,
        ..DropKey::default()
    };
    if !read(skb, &mut key) {
        return;
    }
    // SAFETY: values of this map are only looked at for being there.
    let (sent, meant) = unsafe {
        (
            WATCHED.get(key.local).is_some(),
            WATCHED.get(key.remote).is_some(),
        )
    };
    if !sent && !meant {
        return;
    }
    key.netns = netns(skb);
    if !sent {
        key.direction = DIRECTION_INBOUND;
        (key.local, key.remote) = (key.remote, key.local);
    }
    key.remote_port = port(skb, &mut key);
    if !events::may_look(key.local[0] ^ key.local[3]) {
        lost(Counter::DropUnseen);
        return;
    }
    count(&key);
}

#[inline(always)]
fn count(key: &DropKey) {
    if DROPS.get_ptr_mut(key).is_none() {
        // Failing is fine: another CPU was first, or the next lookup fails too.
        let _ = DROPS.insert(key, 0, NO_EXIST);
    }
    match DROPS.get_ptr_mut(key) {
        // SAFETY: a map value, 8-byte aligned.
        Some(count) => unsafe { atomic::add64(count, 1) },
        None => lost(Counter::DropUnseen),
    }
}

/// Reads family and addresses of a TCP packet, as if it were sent by `local`; false for others.
#[inline(always)]
fn read(skb: *const u8, key: &mut DropKey) -> bool {
    // SAFETY: integers and a pointer, read through the helper.
    unsafe {
        let ip = ip_header(skb);
        let version: u8 = Probed::load(ip, 0);
        key.direction = DIRECTION_OUTBOUND;
        let protocol: u8 = match version >> 4 {
            4 => {
                key.family = FAMILY_IPV4;
                key.local[0] = Probed::load(ip, 12);
                key.remote[0] = Probed::load(ip, 16);
                Probed::load(ip, 9)
            }
            6 => {
                key.family = FAMILY_IPV6;
                key.local = Probed::load(ip, 8);
                key.remote = Probed::load(ip, 24);
                // Behind other headers it is not looked for.
                Probed::load(ip, 6)
            }
            _ => return false,
        };
        u16::from(protocol) == TCP
    }
}

/// Port of the other end; the flags go into the key.
#[inline(always)]
fn port(skb: *const u8, key: &mut DropKey) -> u16 {
    // SAFETY: integers and a pointer, read through the helper.
    unsafe {
        let ip = ip_header(skb);
        let words: u8 = Probed::load(ip, 0);
        let length = if key.family == FAMILY_IPV6 {
            40
        } else {
            usize::from(words & 0xf) * 4
        };
        let tcp = ip.wrapping_add(length);
        let flags: u8 = Probed::load(tcp, 13);
        key.tcp_flags = flags & (TCP_SYN | TCP_ACK);
        let at = if key.direction == DIRECTION_INBOUND {
            0
        } else {
            2
        };
        u16::from_be(Probed::load(tcp, at))
    }
}

/// # Safety
/// None beyond the helper's: any address may be given.
#[inline(always)]
unsafe fn ip_header(skb: *const u8) -> *const u8 {
    // SAFETY: an integer and a pointer, read through the helper.
    unsafe {
        let head: *const u8 = Probed::load(skb, offset!(skb_head));
        let network: u16 = Probed::load(skb, offset!(skb_network_header));
        head.wrapping_add(network.into())
    }
}

/// The namespace a packet is in: that of its device, or of its socket; 0 if it has neither.
#[inline(always)]
fn netns(skb: *const u8) -> u32 {
    // SAFETY: pointers, read through the helper.
    unsafe {
        if offset!(skb_dev) != ABSENT && offset!(dev_net) != ABSENT {
            let dev: *const u8 = Probed::load(skb, offset!(skb_dev));
            if !dev.is_null() {
                return netns_inode(Probed::load(dev, offset!(dev_net)));
            }
        }
        if offset!(skb_sk) == ABSENT {
            return 0;
        }
        let sk: *const u8 = Probed::load(skb, offset!(skb_sk));
        if sk.is_null() {
            return 0;
        }
        netns_inode(Probed::load(sk, offset!(skc_net)))
    }
}
