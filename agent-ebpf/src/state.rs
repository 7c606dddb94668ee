//! The one tracepoint that carries connection life: `inet_sock_set_state`.
//!
//! `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
//!
//! A proxied connection makes about twenty state changes and four of them matter, so the
//! first thing done is to leave. Compiled twice, see `kernel.rs`.
//!
//! Each behaviour is a function of its own, never inlined: together their frames would
//! not fit the 512 bytes a program may have.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use crate::{
    arrival, connect,
    kernel::{
        CLOSE, CLOSE_WAIT, Direct, ESTABLISHED, Kernel, LISTEN, Probed, SYN_RECV, SYN_SENT, Sock,
        TCP,
    },
    listen, open, peer_ended,
};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn state_tp_btf(ctx: BtfTracePointContext) -> i32 {
    change::<Direct>(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn state_raw_tp(ctx: RawTracePointContext) -> i32 {
    change::<Probed>(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[inline(always)]
fn change<K: Kernel>(sk: *const u8, old: u32, new: u32) {
    let sock = Sock::<K>::new(sk);
    match (old, new) {
        (CLOSE, SYN_SENT) if sock.protocol() == TCP => connect::begin(&sock),
        (SYN_SENT, ESTABLISHED) if sock.protocol() == TCP => arrival::established(&sock),
        (SYN_SENT, CLOSE) if sock.protocol() == TCP => {
            open::ended(sk as u64);
            connect::failed(&sock);
        }
        (SYN_RECV, ESTABLISHED) if sock.protocol() == TCP => arrival::child(&sock),
        (ESTABLISHED, _) if sock.protocol() == TCP => {
            let dialled = arrival::left(&sock);
            if new != CLOSE_WAIT {
                open::ended(sk as u64);
            } else if dialled != 0 {
                peer_ended::closed(&sock, dialled);
            }
        }
        (CLOSE_WAIT, _) => open::ended(sk as u64),
        (CLOSE, LISTEN) if sock.protocol() == TCP => listen::began(&sock),
        (LISTEN, CLOSE) if sock.protocol() == TCP => listen::ended(&sock),
        _ => {}
    }
}
