//! Destinations that somebody rewrote inside connect(2), before netfilter saw anything.
//!
//! A BPF hook of a cgroup may change the address a program asked for (a service's becomes a
//! pod's). The socket then knows the new one only; what was asked still lies in the caller's
//! memory, where connect(2) read it a moment ago. So both are compared when the SYN leaves,
//! which is the same moment and the same thread. Attached only where such a hook was seen.
//!
//! `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
//!
//! Must never: count a connection whose caller's memory does not say clearly what was asked.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use sidestep_abi::{ABSENT, ARRIVAL_UNKNOWN, Counter, FAMILY_IPV4, FAMILY_IPV6};

use crate::{
    addr::{halves, is_mapped},
    connect, datagram,
    kernel::{AF_INET6, CLOSE, Kernel, Probed, SYN_SENT, Sock, TCP, load_user, offset},
    maps::REWRITES,
};

/// `AF_INET`.
const AF_INET: u16 = 2;
/// `connect`, on x86-64.
const NR_CONNECT: u64 = 42;

/// An address given to connect(2): the beginning of `struct sockaddr_in` and `sockaddr_in6`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Asked {
    /// `AF_*`.
    family: u16,
    /// Port, network order.
    port: u16,
    /// IPv4: the address. IPv6: flow information.
    first: u32,
    /// IPv6: the address. IPv4: padding.
    addr: [u32; 4],
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn rewrite_raw_tp(ctx: RawTracePointContext) -> i32 {
    let sock = Sock::<Probed>::new(ctx.arg(0));
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if old == CLOSE
        && new == SYN_SENT
        && sock.protocol() == TCP
        && let Some(asked) = asked()
    {
        compare(&sock, &asked);
    }
    0
}

/// What the running task gave to connect(2), if that is the system call it is in.
#[inline(always)]
fn asked() -> Option<Asked> {
    if offset!(regs_number) == ABSENT || offset!(regs_second) == ABSENT {
        return None;
    }
    // SAFETY: helpers that check what they are given; integers, and a pointer of user space.
    unsafe {
        let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8;
        if Probed::load::<u64>(registers, offset!(regs_number)) != NR_CONNECT {
            return None;
        }
        load_user(Probed::load(registers, offset!(regs_second)))
    }
}

/// Counts a connection that goes elsewhere than asked. The edge's own address and arrival
/// port are where it goes.
#[inline(always)]
fn compare(sock: &Sock<Probed>, asked: &Asked) {
    let (family, to) = match asked.family {
        AF_INET => (FAMILY_IPV4, [asked.first, 0, 0, 0]),
        AF_INET6 if is_mapped(halves(asked.addr)) => (FAMILY_IPV4, [asked.addr[3], 0, 0, 0]),
        AF_INET6 => (FAMILY_IPV6, asked.addr),
        _ => return,
    };
    // No address at all means this host, and the kernel itself says so.
    if to[0] | to[1] | to[2] | to[3] == 0 {
        return;
    }
    let mut key = connect::pending_key(sock);
    let (used, given) = (halves(key.remote), halves(to));
    let elsewhere =
        used[0] != given[0] || used[1] != given[1] || key.remote_port != u16::from_be(asked.port);
    if key.family != family || !elsewhere {
        return;
    }
    key.local = key.remote;
    key.arrival_port = key.remote_port;
    key.arrival = ARRIVAL_UNKNOWN;
    key.remote = to;
    key.remote_port = u16::from_be(asked.port);
    datagram::count(&REWRITES, &key, Counter::RewriteLost);
}
