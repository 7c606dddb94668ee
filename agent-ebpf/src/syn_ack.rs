//! The answer to a SYN sent again: the peer does not hear it.
//!
//! `int tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req)`, with the
//! listener. A request begins with the same fields as a socket.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use sidestep_abi::{ARRIVAL_UNKNOWN, DIRECTION_INBOUND, EVENT_SYN_ACK_RESENT, EdgeKey};

use crate::{
    addr::words,
    events::{self, Detail},
    kernel::{Direct, Kernel, Probed, Sock},
};

#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn syn_ack_tp_btf(ctx: BtfTracePointContext) -> i32 {
    resent(&Sock::<Direct>::new(ctx.arg(0)), ctx.arg(1));
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
pub(crate) fn syn_ack_raw_tp(ctx: RawTracePointContext) -> i32 {
    resent(&Sock::<Probed>::new(ctx.arg(0)), ctx.arg(1));
    0
}

#[inline(always)]
fn resent<K: Kernel>(listener: &Sock<K>, request: *const u8) {
    let request = Sock::<Probed>::new(request);
    let ends = request.ends();
    let (uid, gid) = listener.file_owner();
    let key = EdgeKey {
        cgroup: listener.cgroup(),
        netns: listener.netns(),
        uid,
        gid,
        local_port: request.local_port(),
        remote_port: request.remote_port(),
        direction: DIRECTION_INBOUND,
        arrival: ARRIVAL_UNKNOWN,
        family: ends.family,
        local: words(ends.local),
        remote: words(ends.remote),
        ..EdgeKey::default()
    };
    events::tell_within_budget(
        EVENT_SYN_ACK_RESENT,
        &key,
        &events::NOBODY,
        &Detail::default(),
    );
}
