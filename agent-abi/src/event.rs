//! The one record of the ring buffer.
//!
//! One fixed layout for every kind keeps the reservation a constant for the verifier and
//! the decoder a single function; fields a kind does not use are 0.

use crate::{EdgeKey, Malformed, plain, read};

/// An edge was counted for the first time.
pub const EVENT_FIRST_SEEN: u32 = 1;
/// A connect ended without being established.
pub const EVENT_FAILED: u32 = 2;
/// A SYN was sent again.
pub const EVENT_STALLED: u32 = 3;
/// A SYN met no listener: `key` holds namespace, local and remote address and both ports.
pub const EVENT_NO_LISTENER: u32 = 4;
/// NAT redirects an incoming connection: `key.remote_port` → `key.local_port`.
pub const EVENT_INBOUND_REDIRECT: u32 = 5;
/// A socket began to listen: `key` holds owner, local address and port, dual-stack flag.
pub const EVENT_LISTENING: u32 = 6;
/// A listening socket was closed.
pub const EVENT_LISTENING_ENDED: u32 = 7;

/// Somebody changed netfilter rules: `key` holds the namespace, the user who did it,
/// `RULES_*` in `local_port`, the address family in `remote_port` (0 if not known).
pub const EVENT_RULES_CHANGED: u32 = 8;

/// An established connection was reset by its peer before a single byte of an answer came:
/// `key.local_port` is its own port, whichever end called connect(2).
pub const EVENT_RESET: u32 = 9;

/// The answer to a SYN was sent again: `key` holds namespace and cgroup of the listener, both
/// addresses and both ports.
pub const EVENT_SYN_ACK_RESENT: u32 = 10;

/// A client's connection was closed by its peer at once, without a single byte of an answer; of those
/// that NAT is known to have let pass this is not told.
pub const EVENT_CLOSED: u32 = 11;

/// A table of the older backend was replaced.
pub const RULES_LEGACY: u16 = 1;
/// A batch of nftables was committed; an empty one is as well.
pub const RULES_NFT: u16 = 2;

/// Handshake completed.
pub const OUTCOME_ESTABLISHED: u8 = 0;
/// Refused by a reset (ECONNREFUSED).
pub const OUTCOME_REFUSED: u8 = 1;
/// Never answered (ETIMEDOUT).
pub const OUTCOME_TIMED_OUT: u8 = 2;
/// Network or host unreachable.
pub const OUTCOME_UNREACHABLE: u8 = 3;
/// Another error.
pub const OUTCOME_FAILED: u8 = 4;
/// Closed by the caller before an answer.
pub const OUTCOME_ABORTED: u8 = 5;
/// No source port or address was free: no SYN was sent (EADDRNOTAVAIL).
pub const OUTCOME_NO_ADDRESS: u8 = 6;
/// Forbidden by a policy on the way, which said so (EACCES, EPERM).
pub const OUTCOME_DENIED: u8 = 7;
/// Number of outcomes.
pub const OUTCOME_COUNT: usize = 8;

/// Length of a task's name in the kernel (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// The task that called connect(2) or listen(2), or changed rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Thread group id in the first pid namespace, 0 if unknown.
    pub pid: u32,
    /// Name, padded with 0.
    pub comm: [u8; COMM_LEN],
}

plain!(Task, 20, { pid: 0, comm: 4 });

/// A record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// Failed: microseconds from connect(2) to the end. Closed: how many more of its namespace were, since
    /// the last that was told.
    pub after_us: u64,
    /// One of `EVENT_*`.
    pub kind: u32,
    /// Who; unknown where no task is known.
    pub task: Task,
    /// Failed: `sk_err`.
    pub errno: u16,
    /// Failed: port of the own namespace at which the SYN met no listener, 0 if none.
    pub refused_at: u16,
    /// Failed: one of `OUTCOME_*`.
    pub outcome: u8,
    /// Stalled: retransmits so far.
    pub retransmits: u8,
    /// Always 0.
    pub reserved: u16,
    /// The edge, or the parts of one that the kind uses.
    pub key: EdgeKey,
}

plain!(Event, 112, {
    at_ns: 0, after_us: 8, kind: 16, task: 20, errno: 40, refused_at: 42, outcome: 44,
    retransmits: 45, reserved: 46, key: 48,
});

impl Event {
    /// Reads and checks a record.
    ///
    /// # Errors
    /// [`Malformed`] if the size or a value is not an event's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let event: Self = read(bytes)?;
        if !(EVENT_FIRST_SEEN..=EVENT_CLOSED).contains(&event.kind) {
            return Err(Malformed::Value {
                field: "kind",
                found: event.kind.into(),
            });
        }
        if usize::from(event.outcome) >= OUTCOME_COUNT {
            return Err(Malformed::Value {
                field: "outcome",
                found: event.outcome.into(),
            });
        }
        event.key.check()?;
        Ok(event)
    }
}
