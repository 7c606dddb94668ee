//! A connect(2) from its SYN to its answer.
//!
//! The beginning runs in the caller's context and is the only moment at which the process
//! is known; the answer usually comes in a softirq of somebody else. What the beginning
//! knows waits in a small table keyed by the socket's address, never in a hash.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use sidestep_abi::{
    ARRIVAL_DECIDED, ARRIVAL_NOWHERE, ARRIVAL_PORT, ARRIVAL_UNKNOWN, Counter, DIRECTION_OUTBOUND,
    EVENT_FAILED, EdgeKey, OUTCOME_ABORTED, OUTCOME_DENIED, OUTCOME_ESTABLISHED, OUTCOME_FAILED,
    OUTCOME_NO_ADDRESS, OUTCOME_REFUSED, OUTCOME_TIMED_OUT, OUTCOME_UNREACHABLE,
};

use crate::{
    addr::{Ends, halves, words},
    edges,
    edges::NO_DURATION,
    events::{self, Detail},
    kernel::{Kernel, Sock},
    maps::{
        CONNECTING, CONNECTING_SLOTS, Connecting, DECISION_NONE, DECISION_REDIRECT,
        DECISION_UNKNOWN, PENDING, PENDING_SLOTS, Pending, lost, sk_hash,
    },
    open, reset, task,
    verifier::forget,
};

const EPERM: u16 = 1;
const EACCES: u16 = 13;
const ENETUNREACH: u16 = 101;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;
const EHOSTUNREACH: u16 = 113;

/// CLOSE→SYN_SENT, in the caller's context. No port is chosen yet.
#[inline(never)]
pub(crate) fn begin<K: Kernel>(sock: &Sock<K>) {
    let sk = sock.cookie();
    let index = free_slot(sk);
    let Some(pending) = PENDING.get_ptr_mut(index) else {
        return;
    };
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: map values; helpers without arguments.
    unsafe {
        let now = bpf_ktime_get_ns();
        open::began(sk, now);
        (*pending).sk = 0;
        (*pending).since_ns = now;
        (*pending).to = sock.destination();
        (*pending).net = sock.net();
        (*pending).place = 0;
        (*pending).decision = DECISION_UNKNOWN;
        (*pending).retransmits = 0;
        (*pending).task.pid = (thread >> 32) as u32;
        task::name::<K>(&raw mut (*pending).task);
        core::ptr::write_volatile(&raw mut (*pending).sk, sk);
        if let Some(connecting) = CONNECTING.get_ptr_mut(thread as u32 & (CONNECTING_SLOTS - 1)) {
            *connecting = Connecting {
                thread: thread as u32,
                slot: index,
            };
        }
    }
}

/// The slot a new connect may use: one of its pair, the first if both are taken.
#[inline(always)]
fn free_slot(sk: u64) -> u32 {
    let index = sk_hash(sk) & (PENDING_SLOTS - 1);
    if !unanswered(index, sk) {
        return index;
    }
    if !unanswered(index ^ 1, sk) {
        return index ^ 1;
    }
    lost(Counter::PendingOverwritten);
    index
}

/// Whether a slot holds a connect of another socket that still waits for its answer.
#[inline(always)]
fn unanswered(index: u32, sk: u64) -> bool {
    let Some(pending) = PENDING.get_ptr(index) else {
        return true;
    };
    // SAFETY: a map value.
    let (holder, place) = unsafe { ((*pending).sk, (*pending).place) };
    holder != 0 && holder != sk && place == 0
}

#[inline(always)]
fn holder(index: u32) -> u64 {
    PENDING
        .get_ptr(index)
        // SAFETY: a map value.
        .map_or(0, |p| unsafe {
            core::ptr::read_volatile(&raw const (*p).sk)
        })
}

/// What [`begin`] left for this socket, or nobody's slot, whose `sk` is 0 as all in it.
///
/// Never `None` in truth: the verifier asks. One pointer for both, or it would walk all
/// that follows twice.
#[inline(always)]
pub(crate) fn find(sk: u64) -> Option<*mut Pending> {
    let hash = sk_hash(sk);
    let index = hash & (PENDING_SLOTS - 1);
    let found = if holder(index) == sk {
        index
    } else if holder(index ^ 1) == sk {
        index ^ 1
    } else {
        PENDING_SLOTS
    };
    PENDING.get_ptr_mut(forget(found.into(), hash.into()) as u32)
}

/// Microseconds since connect(2), not known for nobody's slot.
///
/// # Safety
/// `pending` must be a value of the map.
#[inline(always)]
pub(crate) unsafe fn duration(pending: *const Pending, now: u64) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { (*pending).since_ns } {
        0 => {
            lost(Counter::PendingMissing);
            NO_DURATION
        }
        since => edges::micros(now, since),
    }
}

/// A client that leaves ESTABLISHED without having been seen to enter it: the program was
/// interrupted by itself on that CPU, and the kernel skips such runs.
///
/// Not inlined: with a key of its own and one of the table counted in one frame, Linux 7.2 takes
/// the key's last word for dead and refuses the program.
#[inline(never)]
pub(crate) fn missed<K: Kernel>(sock: &Sock<K>, pending: &Pending) {
    let mut key = pending_key(sock);
    set_arrival(&mut key, pending.decision, 0);
    edges::count(&key, &pending.task, OUTCOME_ESTABLISHED, NO_DURATION);
}

/// SYN_SENT→CLOSE: refused, timed out, unreachable, or given up by the caller.
#[inline(never)]
pub(crate) fn failed<K: Kernel>(sock: &Sock<K>) {
    let Some(pending) = find(sock.cookie()) else {
        return;
    };
    let mut key = pending_key(sock);
    let errno = sock.error();
    let port = sock.local_port();
    let refused_at = reset::met_no_listener(key.netns, port, halves(key.local));
    // SAFETY: a map value that nobody else frees while this socket is in SYN_SENT; a helper
    // without arguments.
    unsafe {
        let after_us = match duration(pending, bpf_ktime_get_ns()) {
            NO_DURATION => 0,
            us => us,
        };
        let detail = Detail {
            after_us: forget(after_us.into(), errno.into()),
            errno,
            refused_at,
            outcome: forget(outcome(errno, port).into(), errno.into()) as u8,
            retransmits: (*pending).retransmits as u8,
        };
        set_arrival(&mut key, (*pending).decision, refused_at);
        edges::count(&key, &(*pending).task, detail.outcome, NO_DURATION);
        events::tell_within_budget(EVENT_FAILED, &key, &(*pending).task, &detail);
        core::ptr::write_volatile(&raw mut (*pending).sk, 0);
    }
}

/// What is known about where a connect went that was never established.
#[inline(always)]
pub(crate) fn set_arrival(key: &mut EdgeKey, decision: u32, refused_at: u16) {
    let (arrival, port) = if decision & DECISION_REDIRECT != 0 {
        (ARRIVAL_DECIDED, decision as u16)
    } else if refused_at != 0 {
        (ARRIVAL_PORT, refused_at)
    } else if decision == DECISION_NONE {
        (ARRIVAL_NOWHERE, 0)
    } else {
        (ARRIVAL_UNKNOWN, 0)
    };
    key.arrival = forget(arrival.into(), key.netns.into()) as u8;
    key.arrival_port = forget(port.into(), key.netns.into()) as u16;
}

/// The outbound edge of a client socket that is not established, arrival not filled in.
#[inline(always)]
pub(crate) fn pending_key<K: Kernel>(sock: &Sock<K>) -> EdgeKey {
    let mut key = EdgeKey::default();
    outbound(sock, &sock.ends(), sock.netns(), &mut key);
    key
}

/// Fills in the outbound edge of a client socket, with arrival nowhere.
#[inline(always)]
pub(crate) fn outbound<K: Kernel>(sock: &Sock<K>, ends: &Ends, netns: u32, key: &mut EdgeKey) {
    let (uid, gid) = sock.file_owner();
    *key = EdgeKey {
        cgroup: sock.cgroup(),
        netns,
        uid,
        gid,
        local_port: 0,
        remote_port: sock.remote_port(),
        arrival_port: 0,
        arrival: ARRIVAL_NOWHERE,
        direction: DIRECTION_OUTBOUND,
        family: ends.family,
        flags: 0,
        reserved: 0,
        local: words(ends.local),
        remote: words(ends.remote),
    };
}

#[inline(always)]
fn outcome(errno: u16, port: u16) -> u8 {
    match errno {
        // connect(2) ended before it had a port: it found none, and tells only its caller.
        0 if port == 0 => OUTCOME_NO_ADDRESS,
        0 => OUTCOME_ABORTED,
        EPERM | EACCES => OUTCOME_DENIED,
        ECONNREFUSED => OUTCOME_REFUSED,
        ETIMEDOUT => OUTCOME_TIMED_OUT,
        ENETUNREACH | EHOSTUNREACH => OUTCOME_UNREACHABLE,
        _ => OUTCOME_FAILED,
    }
}
