//! Telling: ring buffer records, and the budget that keeps a failing namespace from
//! drowning the others. Each kind of trouble has a budget of its own, so that none hides another;
//! what cannot be told is counted, or told in sum with the next.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sidestep_abi::{Counter, EVENT_CLOSED, EVENT_FIRST_SEEN, EVENT_RESET, EdgeKey, Event, Task};

use crate::maps::{BUDGET_KINDS, BUDGET_SLOTS, BUDGETS, Budget, EVENTS, lost};

/// Nobody, where no task is known.
pub(crate) static NOBODY: Task = Task {
    pid: 0,
    comm: [0; 16],
};

/// Events a namespace may tell at once.
const BURST: u32 = 200;
/// One more every 10 ms: 100 per second.
const REFILL_NS: u64 = 10_000_000;
/// Closes a namespace may tell at once, and one more every 100 ms: they speak for all the others.
const CLOSES: u32 = 20;
const CLOSE_NS: u64 = 100_000_000;

/// What has a budget of its own.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Kind {
    /// Connections that do not come about.
    Connection,
    /// What was done to the namespace.
    Namespace,
    Reset,
    Close,
    /// Packets dropped of a watched address.
    Look,
}

const _: () = assert!(Kind::Look as u32 + 1 == BUDGET_KINDS);

/// Tells that an edge was counted for the first time. Bounded by the edge map itself.
#[inline(always)]
pub(crate) fn first_seen(key: &EdgeKey, task: &Task) {
    tell(EVENT_FIRST_SEEN, key, task, &Detail::default());
}

/// What only failures, stalls and closes have to say.
#[derive(Default)]
pub(crate) struct Detail {
    /// Microseconds since connect(2); of a close how many more there were.
    pub(crate) after_us: u64,
    /// `sk_err`.
    pub(crate) errno: u16,
    /// Port of the own namespace that nobody listened on.
    pub(crate) refused_at: u16,
    /// How it ended.
    pub(crate) outcome: u8,
    /// SYNs sent again.
    pub(crate) retransmits: u8,
}

/// Tells, if the namespace's budget allows.
#[inline(always)]
pub(crate) fn tell_within_budget(kind: u32, key: &EdgeKey, task: &Task, detail: &Detail) {
    if spend(Kind::Connection, key.netns) {
        tell(kind, key, task, detail);
    } else {
        lost(Counter::EventsSuppressed);
    }
}

/// Tells of the namespace itself, from a budget of its own: a pod whose connections fail
/// by the thousand must not hide what was done to its rules.
#[inline(always)]
pub(crate) fn tell_of_namespace(kind: u32, key: &EdgeKey, task: &Task) {
    if spend(Kind::Namespace, key.netns) {
        tell(kind, key, task, &Detail::default());
    } else {
        lost(Counter::EventsSuppressed);
    }
}

/// Tells of a reset, from a budget of its own: whoever is reset by the thousand must not hide
/// connections that do not come about.
#[inline(always)]
pub(crate) fn tell_of_reset(key: &EdgeKey) {
    if spend(Kind::Reset, key.netns) {
        tell(EVENT_RESET, key, &NOBODY, &Detail::default());
    } else {
        lost(Counter::EventsSuppressed);
    }
}

/// Whether a close may be told now, and how many of the namespace were not since the last that was.
/// Asked before the key is read: where every connection is closed so, few are told, with the number of
/// the others.
#[inline(always)]
pub(crate) fn may_tell_of_close(netns: u32, now: u64) -> Option<u64> {
    let budget = budget(Kind::Close, netns, now, CLOSES, CLOSE_NS)?;
    // SAFETY: a map value.
    unsafe {
        if !take(budget) {
            (*budget).untold += 1;
            return None;
        }
        let untold = (*budget).untold;
        (*budget).untold = 0;
        Some(untold)
    }
}

/// Tells of a close that stands for so many more.
#[inline(always)]
pub(crate) fn tell_of_close(key: &EdgeKey, more: u64) {
    let detail = Detail {
        after_us: more,
        ..Detail::default()
    };
    tell(EVENT_CLOSED, key, &NOBODY, &detail);
}

/// Whether one more packet dropped of a watched address may be looked at.
#[inline(always)]
pub(crate) fn may_look(at: u32) -> bool {
    spend(Kind::Look, at)
}

/// Tells.
#[inline(always)]
pub(crate) fn tell(kind: u32, key: &EdgeKey, task: &Task, detail: &Detail) {
    #[cfg(feature = "debug")]
    note(kind, key.netns, detail.outcome, detail.errno);
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        lost(Counter::RingBuffer);
        return;
    };
    entry.write(Event {
        // SAFETY: a helper without arguments.
        at_ns: unsafe { bpf_ktime_get_ns() },
        after_us: detail.after_us,
        kind,
        task: *task,
        errno: detail.errno,
        refused_at: detail.refused_at,
        outcome: detail.outcome,
        retransmits: detail.retransmits,
        reserved: 0,
        key: *key,
    });
    entry.submit(0);
}

/// Logs what is told, whether or not there is room to tell it.
#[cfg(feature = "debug")]
#[inline(never)]
fn note(kind: u32, netns: u32, outcome: u8, errno: u16) {
    aya_log_ebpf::debug!(
        (),
        "event {} in namespace {}, outcome {}, errno {}",
        kind,
        netns,
        outcome,
        errno
    );
}

/// Takes a token of a namespace's bucket.
#[inline(always)]
fn spend(kind: Kind, netns: u32) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    match budget(kind, netns, now, BURST, REFILL_NS) {
        // SAFETY: a map value.
        Some(budget) => unsafe { take(budget) },
        None => false,
    }
}

/// The bucket of a namespace, with what it has earned by now. Not atomic: a race costs or grants a token.
#[inline(always)]
fn budget(kind: Kind, netns: u32, now: u64, burst: u32, refill_ns: u64) -> Option<*mut Budget> {
    let slot = kind as u32 * BUDGET_SLOTS + (netns & (BUDGET_SLOTS - 1));
    let budget = BUDGETS.get_ptr_mut(slot)?;
    // SAFETY: a map value.
    unsafe {
        if (*budget).netns != netns {
            (*budget).netns = netns;
            (*budget).tokens = burst;
            (*budget).at_ns = now;
            (*budget).untold = 0;
        }
        let earned = now.wrapping_sub((*budget).at_ns) / refill_ns;
        if earned > 0 {
            (*budget).at_ns = now;
            let tokens = u64::from((*budget).tokens) + earned;
            (*budget).tokens = if tokens > burst.into() {
                burst
            } else {
                tokens as u32
            };
        }
    }
    Some(budget)
}

/// Takes a token, if there is one.
///
/// # Safety
/// `budget` must be a value of the map.
#[inline(always)]
unsafe fn take(budget: *mut Budget) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*budget).tokens == 0 {
            return false;
        }
        (*budget).tokens -= 1;
    }
    true
}
