//! A SYN sent again: the handshake hangs.
//!
//! `int tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb[, int err])`

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use sidestep_abi::EVENT_STALLED;

use crate::{
    connect,
    events::{self, Detail},
    kernel::{Direct, Kernel, Probed, SYN_SENT, Sock, TCP},
};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn retransmit_tp_btf(ctx: BtfTracePointContext) -> i32 {
    again(&Sock::<Direct>::new(ctx.arg(0)));
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub(crate) fn retransmit_raw_tp(ctx: RawTracePointContext) -> i32 {
    again(&Sock::<Probed>::new(ctx.arg(0)));
    0
}

#[inline(always)]
fn again<K: Kernel>(sock: &Sock<K>) {
    if u32::from(sock.state()) != SYN_SENT || sock.protocol() != TCP {
        return;
    }
    let Some(pending) = connect::find(sock.cookie()) else {
        return;
    };
    // SAFETY: a map value that nobody else frees while this socket is in SYN_SENT.
    unsafe {
        if (*pending).sk == 0 {
            return;
        }
        let times = (*pending).retransmits.wrapping_add(1);
        (*pending).retransmits = times;
        if times & (times - 1) != 0 {
            return;
        }
        let mut key = connect::pending_key(sock);
        connect::set_arrival(&mut key, (*pending).decision, 0);
        let detail = Detail {
            after_us: (bpf_ktime_get_ns() - (*pending).since_ns) / 1000,
            retransmits: times as u8,
            ..Detail::default()
        };
        events::tell_within_budget(EVENT_STALLED, &key, &(*pending).task, &detail);
    }
}
