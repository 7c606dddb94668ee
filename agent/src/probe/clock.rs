//! The kernel's monotonic clock on the wall clock's scale.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Offset between both clocks, taken once: a clock step later moves nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    /// Wall clock minus monotonic clock, nanoseconds.
    offset_ns: u64,
}

impl Anchor {
    /// Reads both clocks now.
    pub(super) fn now() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0));
        Self {
            offset_ns: wall.saturating_sub(monotonic_ns()),
        }
    }

    /// The moment of a kernel timestamp.
    pub(super) const fn time(self, monotonic_ns: u64) -> Time {
        Time(self.offset_ns.saturating_add(monotonic_ns) / 1000)
    }
}

/// What `bpf_ktime_get_ns` returns at this moment.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the answer; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    secs * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
