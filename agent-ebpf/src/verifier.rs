//! Helping the verifier to see less.
//!
//! It walks every path, and merges two only where all it knows is the same. A number it
//! knows exactly on each of four paths keeps them apart to the end of the program; made
//! unknown where they meet, the rest is walked once.

/// The same number, of which nothing is known any more; `any` must be unknown to it.
#[inline(always)]
pub(crate) fn forget(number: u64, any: u64) -> u64 {
    let mut number = number;
    // SAFETY: two exclusive ors with the same value change nothing.
    unsafe { core::arch::asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) number, in(reg) any) };
    number
}
