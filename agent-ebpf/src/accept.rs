//! How long established children wait to be accepted.
//!
//! `struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)` since 6.10,
//! `struct sock *inet_csk_accept(struct sock *sk, int flags, int *err, bool kern)` before.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};

use sidestep_abi::EdgeKey;

use crate::{
    edges,
    maps::{ACCEPT_SLOTS, ACCEPTABLE, Acceptable, sk_hash},
    open,
};

/// A child that may be accepted from now on.
#[inline(always)]
pub(crate) fn acceptable(sk: u64, key: &EdgeKey) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    open::began(sk, now);
    if let Some(slot) = ACCEPTABLE.get_ptr_mut(sk_hash(sk) & (ACCEPT_SLOTS - 1)) {
        // SAFETY: a map value.
        unsafe {
            *slot = Acceptable {
                sk,
                since_ns: now,
                key: *key,
            };
        }
    }
}

#[fexit(function = "inet_csk_accept")]
pub(crate) fn accept_fexit(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(2));
    0
}

#[fexit(function = "inet_csk_accept")]
pub(crate) fn accept_fexit_old(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(4));
    0
}

#[kretprobe(function = "inet_csk_accept")]
pub(crate) fn accept_kretprobe(ctx: RetProbeContext) -> u32 {
    accepted(ctx.ret());
    0
}

#[inline(always)]
fn accepted(sk: *const u8) {
    let cookie = sk as u64;
    // Nobody waiting is what a listener polled in vain returns.
    if cookie == 0 {
        return;
    }
    let Some(slot) = ACCEPTABLE.get_ptr_mut(sk_hash(cookie) & (ACCEPT_SLOTS - 1)) else {
        return;
    };
    // SAFETY: a map value; a helper without arguments.
    unsafe {
        if (*slot).sk != cookie {
            return;
        }
        (*slot).sk = 0;
        let waited = edges::micros(bpf_ktime_get_ns(), (*slot).since_ns);
        edges::time(&(*slot).key, waited);
    }
}
