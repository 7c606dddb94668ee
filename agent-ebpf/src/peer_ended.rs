//! A connection that its peer ends before it has answered anything, by a reset or by a FIN.
//!
//! `void tcp_receive_reset(struct sock *sk)`, before the socket's state changes. Protocols that do
//! not understand each other end like this. A reset after an answer is left alone: closing a
//! connection that way is somebody's habit, and costs a look at two fields here.
//!
//! A FIN shows as a client's ESTABLISHED→CLOSE_WAIT. It is told if it comes at once: whoever
//! closes what nobody used for long only tidies up. Of connections that NAT is known to have let pass nobody asks.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use sidestep_abi::{ABSENT, ARRIVAL_UNKNOWN};

use crate::{
    connect, events,
    kernel::{Direct, ESTABLISHED, Kernel, Probed, Sock, TCP, offset},
};

/// A FIN later than this after connect(2) does not come at once.
const AT_ONCE_NS: u64 = 1_000_000_000;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn peer_reset_tp_btf(ctx: BtfTracePointContext) -> i32 {
    received(&Sock::<Direct>::new(ctx.arg(0)), ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub(crate) fn peer_reset_raw_tp(ctx: RawTracePointContext) -> i32 {
    received(&Sock::<Probed>::new(ctx.arg(0)), ctx.arg(0));
    0
}

#[inline(always)]
fn received<K: Kernel>(sock: &Sock<K>, sk: *const u8) {
    if u32::from(sock.state()) != ESTABLISHED || sock.protocol() != TCP {
        return;
    }
    if answered(sk, 0) {
        return;
    }
    let mut key = connect::pending_key(sock);
    key.arrival = ARRIVAL_UNKNOWN;
    key.local_port = sock.local_port();
    events::tell_of_reset(&key);
}

/// ESTABLISHED→CLOSE_WAIT of a client that called connect(2) at `since`, in nanoseconds.
#[inline(never)]
pub(crate) fn closed<K: Kernel>(sock: &Sock<K>, since: u64) {
    // The FIN itself is counted as a byte.
    if answered(sock.cookie() as *const u8, 1) {
        return;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(since) > AT_ONCE_NS {
        return;
    }
    let Some(more) = events::may_tell_of_close(sock.netns(), now) else {
        return;
    };
    let mut key = connect::pending_key(sock);
    key.arrival = ARRIVAL_UNKNOWN;
    events::tell_of_close(&key, more);
}

/// Whether the peer has sent more than `nothing`; it has where nobody can know.
#[inline(always)]
fn answered(sk: *const u8, nothing: u64) -> bool {
    if offset!(tcp_bytes_received) == ABSENT {
        return true;
    }
    // SAFETY: an integer, behind what a BTF pointer to `struct sock` may reach.
    let received: u64 = unsafe { Probed::load(sk, offset!(tcp_bytes_received)) };
    received > nothing
}
