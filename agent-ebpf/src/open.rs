//! Which connections are open, and which of those wait.
//!
//! Two writes per socket keep the table: when it begins, and when its owner or both sides have closed. What waits is
//! found by [`open_look`], which is attached to nothing: the agent runs it for the places of sockets that have stayed
//! for a second. So what is looked at follows the connections that last, not those that come and go, nor the kernel's
//! whole table of sockets.
//!
//! A place may hold the address of a socket that is gone (a run of the probes was skipped): all of it is read through
//! the helper, and what is no open connection any more loses its place.
//!
//! Must never: be run where the kernel lacks a field of it. The agent knows which there are.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::raw_tracepoint, programs::RawTracePointContext};
use sidestep_abi::{Counter, OPEN_SLOTS, OPEN_STAYS, OPEN_TIME_SHIFT, Open};

use crate::{
    kernel::{CLOSE_WAIT, ESTABLISHED, Kernel as _, Probed, SYN_SENT, Sock, offset},
    maps::{OPEN, WAITING, lost, sk_hash},
};

/// Places beside each other; a socket may have one of two such rows.
const WAYS: u32 = 4;
/// In the table's unit: a shift where a division would be dear.
#[inline(always)]
const fn moment(ns: u64) -> u32 {
    (ns >> OPEN_TIME_SHIFT) as u32
}

/// The first place of one of a socket's rows.
#[inline(always)]
fn row(hash: u32, which: u32) -> u32 {
    (hash >> (6 * which)) & (OPEN_SLOTS - 1) & !(WAYS - 1)
}

/// Puts `new` into the first of a socket's places that holds `old`.
#[inline(always)]
fn replace(sk: u64, old: u64, new: u64, now: u64) -> bool {
    let hash = sk_hash(sk);
    for number in 0..2 * WAYS {
        let index = row(hash, number / WAYS) + number % WAYS;
        let Some(place) = OPEN.get_ptr_mut(index) else {
            return false;
        };
        // SAFETY: a map value.
        unsafe {
            if core::ptr::read_volatile(&raw const (*place).sk) != old {
                continue;
            }
            if new != 0 {
                (*place).since = moment(now);
                (*place).mark = 0;
            }
            core::ptr::write_volatile(&raw mut (*place).sk, new);
        }
        return true;
    }
    false
}

/// A connection begins, at `now` in nanoseconds.
#[inline(always)]
pub(crate) fn began(sk: u64, now: u64) {
    if !replace(sk, 0, sk, now) {
        lost(Counter::OpenUntracked);
    }
}

/// Its owner closed it, or both sides did.
#[inline(always)]
pub(crate) fn ended(sk: u64) {
    // Not there: it is older than the probes, or found no place.
    replace(sk, sk, 0, 0);
}

/// Looks at up to [`sidestep_abi::LOOK_AT`] places: see [`sidestep_abi::LOOK_ARGUMENTS`].
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn open_look(ctx: RawTracePointContext) -> i32 {
    // SAFETY: a helper without arguments.
    let now = moment(unsafe { bpf_ktime_get_ns() });
    four(ctx.arg(0), now);
    four(ctx.arg(1), now);
    four(ctx.arg(2), now);
    four(ctx.arg(3), now);
    four(ctx.arg(4), now);
    four(ctx.arg(5), now);
    four(ctx.arg(6), now);
    four(ctx.arg(7), now);
    four(ctx.arg(8), now);
    four(ctx.arg(9), now);
    four(ctx.arg(10), now);
    four(ctx.arg(11), now);
    0
}

#[inline(always)]
fn four(places: u64, now: u32) {
    look(places as u16, now);
    look((places >> 16) as u16, now);
    look((places >> 32) as u16, now);
    look((places >> 48) as u16, now);
}

/// Looks at the place of this number plus one.
#[inline(never)]
fn look(number: u16, now: u32) {
    if number == 0 {
        return;
    }
    let Some(place) = OPEN.get_ptr_mut(u32::from(number) - 1) else {
        return;
    };
    // SAFETY: a map value.
    let sk = unsafe { core::ptr::read_volatile(&raw const (*place).sk) };
    if sk == 0 {
        return;
    }
    let sock = Sock::<Probed>::new(sk as *const u8);
    let state = u32::from(sock.state());
    if state != ESTABLISHED && state != SYN_SENT && state != CLOSE_WAIT {
        // SAFETY: a map value.
        unsafe { core::ptr::write_volatile(&raw mut (*place).sk, 0) };
        return;
    }
    let at = Sequence::of(sk);
    // SAFETY: a map value.
    if !unsafe { at.stays(place, now) } {
        return;
    }
    let owned = load::<u64>(sk, offset!(sk_socket)) != 0;
    let waits = match state {
        // Whoever owns none of it waits to be accepted.
        ESTABLISHED => !owned || at.leaves_something() || is_one_sided(sk),
        // The peer closed it: whoever has it could close it, too.
        CLOSE_WAIT => owned,
        _ => true,
    };
    if waits {
        // Full is as good: the agent looks everywhere then.
        let _ = WAITING.insert(sock.netns(), now, 0);
    }
}

#[inline(always)]
fn load<T: Copy>(sk: u64, offset: u32) -> T {
    // SAFETY: integers only, read through the helper, which checks the address.
    unsafe { Probed::load(sk as *const u8, offset) }
}

/// Only one side has ever said anything.
#[inline(always)]
fn is_one_sided(sk: u64) -> bool {
    let received: u64 = load(sk, offset!(tcp_bytes_received));
    let sent: u64 = load(sk, offset!(tcp_bytes_sent));
    (received == 0) != (sent == 0)
}

/// How far a socket is.
struct Sequence {
    received: u32,
    read: u32,
    acknowledged: u32,
    written: u32,
}

impl Sequence {
    #[inline(always)]
    fn of(sk: u64) -> Self {
        Self {
            received: load(sk, offset!(tcp_rcv_nxt)),
            read: load(sk, offset!(tcp_copied_seq)),
            acknowledged: load(sk, offset!(tcp_snd_una)),
            written: load(sk, offset!(tcp_write_seq)),
        }
    }

    /// Something was not read, or not acknowledged.
    #[inline(always)]
    fn leaves_something(&self) -> bool {
        self.received != self.read || self.acknowledged != self.written
    }

    /// Whether nothing has moved for long; notes what did.
    ///
    /// # Safety
    /// `place` must be a map value.
    #[inline(always)]
    unsafe fn stays(&self, place: *mut Open, now: u32) -> bool {
        let moved = self.received.rotate_left(8) ^ self.read.rotate_left(16);
        let mark = (moved ^ self.acknowledged.rotate_left(24) ^ self.written) | 1;
        // SAFETY: the caller's promise.
        unsafe {
            let before = (*place).mark;
            if before != mark {
                (*place).mark = mark;
                // Before the first look nothing is known but its age.
                if before != 0 {
                    (*place).since = now;
                    return false;
                }
            }
            now.wrapping_sub((*place).since) >= OPEN_STAYS
        }
    }
}
