//! Counting: one hash shared by all CPUs, atomic adds, nothing told but the first sight.
//!
//! A per-CPU hash would spare the atomics and cost its memory once per CPU; at a few
//! counts per connection the atomics are not what is paid.

use sidestep_abi::{Counter, EdgeKey, EdgeValue, FLAG_OVERFLOW, OUTCOME_COUNT, Task};

use crate::{
    atomic, events,
    maps::{COUNTED, EDGES, OVERFLOW, lost},
};

/// `BPF_NOEXIST`: insert only if there is nothing yet.
const NO_EXIST: u64 = 1;
/// A duration that is not known.
pub(crate) const NO_DURATION: u32 = u32::MAX;

static ZERO: EdgeValue = EdgeValue {
    sum_us: 0,
    outcomes: [0; OUTCOME_COUNT],
    buckets: [0; sidestep_abi::HISTOGRAM_BUCKETS],
};

/// Where every edge begins; by reference, or it is copied to the stack first.
#[inline(always)]
fn zero() -> &'static EdgeValue {
    &ZERO
}

/// Counts one connection of an edge. Not inlined: four callers, and the verifier walks
/// it once per call either way.
#[inline(never)]
pub(crate) fn count(key: &EdgeKey, task: &Task, outcome: u8, duration_us: u32) -> u32 {
    if let Some(value) = EDGES.get_ptr_mut(key) {
        add(value, outcome, duration_us);
        return 0;
    }
    first(key, task, outcome, duration_us)
}

/// Adds a duration to an edge that exists.
#[inline(always)]
pub(crate) fn time(key: &EdgeKey, duration_us: u32) {
    if let Some(value) = EDGES.get_ptr_mut(key) {
        add_duration(value, duration_us);
        counted();
    }
}

/// Says that there is something to read, after it was counted, or that somebody waits to be. Read first: the word is all CPUs'.
#[inline(always)]
pub(crate) fn counted() {
    if let Some(word) = COUNTED.get_ptr_mut(0) {
        // SAFETY: a map value.
        unsafe {
            if core::ptr::read_volatile(word) == 0 {
                core::ptr::write_volatile(word, 1);
            }
        }
    }
}

#[inline(never)]
fn first(key: &EdgeKey, task: &Task, outcome: u8, duration_us: u32) -> u32 {
    let inserted = EDGES.insert(key, zero(), NO_EXIST);
    if inserted.is_ok() {
        events::first_seen(key, task);
    }
    match EDGES.get_ptr_mut(key) {
        Some(value) => add(value, outcome, duration_us),
        None => overflow(key, outcome, duration_us),
    }
    0
}

#[inline(always)]
fn overflow(key: &EdgeKey, outcome: u8, duration_us: u32) {
    lost(Counter::EdgeMapFull);
    let key = &EdgeKey {
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        flags: FLAG_OVERFLOW,
        ..*key
    };
    if OVERFLOW.get_ptr_mut(key).is_none() {
        // Failing is fine: another CPU was first, or the next lookup fails too.
        let _ = OVERFLOW.insert(key, zero(), NO_EXIST);
    }
    match OVERFLOW.get_ptr_mut(key) {
        Some(value) => add(value, outcome, duration_us),
        None => lost(Counter::EdgeLost),
    }
}

#[inline(always)]
fn add(value: *mut EdgeValue, outcome: u8, duration_us: u32) {
    if usize::from(outcome) >= OUTCOME_COUNT {
        return;
    }
    // SAFETY: a map value, and the index was bounded above.
    unsafe {
        let count = (&raw mut (*value).outcomes).cast::<u32>();
        atomic::add32(count.add(outcome.into()), 1);
    }
    if duration_us != NO_DURATION {
        add_duration(value, duration_us);
    }
    counted();
}

#[inline(always)]
fn add_duration(value: *mut EdgeValue, duration_us: u32) {
    let bucket = bucket(duration_us);
    // SAFETY: a map value; `bucket` is at most 25.
    unsafe {
        let count = (&raw mut (*value).buckets).cast::<u32>();
        atomic::add32(count.add(bucket as usize), 1);
        atomic::add64(&raw mut (*value).sum_us, duration_us.into());
    }
}

/// Index of the highest bit, at most 25, without a branch: BPF cannot count leading
/// zeros, and every branch would double what the verifier walks after it.
#[inline(always)]
fn bucket(us: u32) -> u32 {
    let mut below = us | (us >> 1);
    below |= below >> 2;
    below |= below >> 4;
    below |= below >> 8;
    below |= below >> 16;
    // All bits up to the highest are set: a de Bruijn multiplication tells 32 such words apart.
    let index = (below.wrapping_mul(0x07c4_acdd) >> 27) & 31;
    // SAFETY: a constant of 32 bytes, and five bits.
    let bit = unsafe {
        core::ptr::read_volatile((&raw const BUCKET_OF).cast::<u8>().add(index as usize))
    };
    u32::from(bit) & 31
}

/// Bucket by de Bruijn index: the highest bit's number, but 25 for all above.
static BUCKET_OF: [u8; 32] = [
    0, 9, 1, 10, 13, 21, 2, 25, 11, 14, 16, 18, 22, 25, 3, 25, 8, 12, 20, 25, 15, 17, 24, 7, 19,
    25, 23, 6, 25, 5, 4, 25,
];

/// Microseconds between two moments, capped below "not known".
#[inline(always)]
pub(crate) fn micros(now: u64, since: u64) -> u32 {
    let us = now.wrapping_sub(since) / 1000;
    if us >= u64::from(NO_DURATION) {
        NO_DURATION - 1
    } else {
        us as u32
    }
}
