//! Open connections, and how the agent asks which of them wait.
//!
//! Whoever is answered and closed within a second is never looked at. The agent sees in this table, which it shares
//! with the probes, which sockets have stayed; a program that is attached to nothing and run by the agent looks at
//! those, and notes the namespaces in which any of them waits.

use crate::plain;

/// Connections there is place for; a power of two.
pub const OPEN_SLOTS: u32 = 16_384;
/// Namespaces that may be noted between two readings.
pub const WAITING: u32 = 1_024;
/// Arguments of one run; four places in each, every one as its number plus one, or 0.
pub const LOOK_ARGUMENTS: usize = 12;
/// Places looked at in one run.
pub const LOOK_AT: usize = LOOK_ARGUMENTS * 4;

/// Nanoseconds are shifted by so much to become the table's unit of time, a little more than a millisecond.
pub const OPEN_TIME_SHIFT: u32 = 20;
/// Whoever stays for less than about a second is not looked at: an answer takes its time.
pub const OPEN_STAYS: u32 = 954;

/// An open connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// The socket's address in the kernel, 0 if free. To tell sockets apart, nothing to follow.
    pub sk: u64,
    /// Since when nothing has moved on it: `CLOCK_MONOTONIC` in 2²⁰ ns, modulo 2³².
    pub since: u32,
    /// What had moved then; 0 before the first look.
    pub mark: u32,
}

plain!(Open, 16, { sk: 0, since: 8, mark: 12 });
