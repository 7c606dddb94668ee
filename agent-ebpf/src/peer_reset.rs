//! A connection that its peer resets before it has answered anything.
//!
//! `void tcp_receive_reset(struct sock *sk)`, before the socket's state changes. Protocols that do
//! not understand each other end like this. A reset after an answer is left alone: closing a
//! connection that way is somebody's habit, and costs a look at two fields here.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use sidestep_abi::{ABSENT, ARRIVAL_UNKNOWN};

use crate::{
    connect, events,
    kernel::{Direct, Kernel, Probed, Sock, TCP, offset},
    state::ESTABLISHED,
};

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
    if offset!(tcp_bytes_received) == ABSENT {
        return;
    }
    // SAFETY: an integer, behind what a BTF pointer to `struct sock` may reach.
    let answer: u64 = unsafe { Probed::load(sk, offset!(tcp_bytes_received)) };
    if answer != 0 {
        return;
    }
    let mut key = connect::pending_key(sock);
    key.arrival = ARRIVAL_UNKNOWN;
    key.local_port = sock.local_port();
    events::tell_of_reset(&key);
}
