//! Established clients whose arrival is not known yet, shared with userspace by mmap.
//!
//! A set-associative table: [`AWAIT_BUCKETS`] buckets of [`AWAIT_WAYS`] state words, and
//! one payload per word. The word owns its payload: `FREE → BUSY → tag` by the writer,
//! `tag → BUSY → FREE` by whoever resolves the connection (its child socket, its close, a
//! connection that needs the place, the agent's sweep). Each transition out of `FREE` or a
//! tag is a compare-and-exchange, so exactly one party counts a connection.

use crate::{EdgeKey, Malformed, Task, plain, read};

/// Buckets of the table; a power of two.
pub const AWAIT_BUCKETS: u32 = 4096;
/// Slots per bucket.
pub const AWAIT_WAYS: u32 = 4;

/// Nobody's.
pub const STATE_FREE: u64 = 0;
/// Being written or resolved.
pub const STATE_BUSY: u64 = 1;
/// Every tag is at least this.
pub const STATE_MIN_TAG: u64 = 2;

/// State words of one bucket.
pub type AwaitBucket = [u64; AWAIT_WAYS as usize];

/// Payload of one slot: a connection of which only the arrival is missing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AwaitSlot {
    /// When it was established, `CLOCK_MONOTONIC` nanoseconds.
    pub since_ns: u64,
    /// Microseconds from connect(2) to established, `u32::MAX` if not known.
    pub duration_us: u32,
    /// Source port, host order.
    pub local_port: u16,
    /// Always 0.
    pub reserved: u16,
    /// The edge. `arrival` holds what to count if no child ever claims it.
    pub key: EdgeKey,
    /// Who connected.
    pub task: Task,
    /// Always 0.
    pub reserved2: u32,
}

plain!(AwaitSlot, 104, {
    since_ns: 0, duration_us: 8, local_port: 12, reserved: 14, key: 16, task: 80, reserved2: 100,
});

impl AwaitSlot {
    /// Reads and checks a payload.
    ///
    /// # Errors
    /// [`Malformed`] if the size or a value is not a payload's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let slot: Self = read(bytes)?;
        slot.key.check()?;
        Ok(slot)
    }
}
