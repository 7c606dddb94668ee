//! Atomic instructions on map values.
//!
//! `core::sync::atomic` hides them for this target because old kernels lack some; the
//! additions below exist since BPF does, the exchange since Linux 5.12 (a program that
//! holds it is refused before, so it is compiled into one variant only).

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds to a counter.
///
/// # Safety
/// `word` must point into a map value, 4-byte aligned.
#[inline(always)]
pub(crate) unsafe fn add32(word: *mut u32, by: u32) {
    // SAFETY: the caller's promise. Relaxed and unused: the plain addition, not the
    // fetching one that old kernels refuse.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(word, by) };
}

/// Adds to a counter.
///
/// # Safety
/// `word` must point into a map value, 8-byte aligned.
#[inline(always)]
pub(crate) unsafe fn add64(word: *mut u64, by: u64) {
    // SAFETY: as above.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, by) };
}

/// Changes a word from `from` to `to`; false if it held something else.
///
/// # Safety
/// `word` must point into a map value, 8-byte aligned.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, from: u64, to: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, from, to)
            .1
    }
}
