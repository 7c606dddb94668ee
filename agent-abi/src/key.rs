//! What the kernel counts under, and what it counts.
//!
//! The key is 64 bytes without padding: the kernel hashes and compares raw bytes, so a
//! hole would split one edge into many.

use crate::{Malformed, plain, read};

/// Outbound: the owner called connect(2).
pub const DIRECTION_OUTBOUND: u8 = 0;
/// Inbound: the owner listens.
pub const DIRECTION_INBOUND: u8 = 1;

/// Came out nowhere in its own namespace.
pub const ARRIVAL_NOWHERE: u8 = 0;
/// A child socket appeared on `arrival_port` of the same namespace.
pub const ARRIVAL_PORT: u8 = 1;
/// NAT decided to redirect to `arrival_port`; no child was seen.
pub const ARRIVAL_DECIDED: u8 = 2;
/// Answered over loopback; no child was seen. Inbound: the client is a socket of the same namespace.
pub const ARRIVAL_LOOPBACK: u8 = 3;
/// Lost track of.
pub const ARRIVAL_UNKNOWN: u8 = 4;

/// IPv4, and IPv4-mapped IPv6.
pub const FAMILY_IPV4: u8 = 4;
/// IPv6.
pub const FAMILY_IPV6: u8 = 6;

/// Flag of a listener: an IPv6 socket that takes IPv4 too.
pub const FLAG_DUAL_STACK: u8 = 1;
/// Flag of an edge: the map was full, addresses and ports are left out.
pub const FLAG_OVERFLOW: u8 = 2;

/// User or group id that is not known.
pub const NO_ID: u32 = u32::MAX;

/// Buckets of the latency histogram: bucket `i` holds `[2^i, 2^(i+1))` microseconds, the
/// first everything below 2, the last everything above.
pub const HISTOGRAM_BUCKETS: usize = 26;

/// Who connected to what, and where it arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// Inode of the cgroup v2 directory, 0 if unknown.
    pub cgroup: u64,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Owner's fsuid, [`NO_ID`] if unknown.
    pub uid: u32,
    /// Owner's fsgid, [`NO_ID`] if unknown.
    pub gid: u32,
    /// Inbound and listeners: own port. Outbound: 0.
    pub local_port: u16,
    /// Outbound: port asked of connect(2). Inbound: 0.
    pub remote_port: u16,
    /// Port of the arrival, with [`ARRIVAL_PORT`] and [`ARRIVAL_DECIDED`].
    pub arrival_port: u16,
    /// One of `ARRIVAL_*`.
    pub arrival: u8,
    /// One of `DIRECTION_*`.
    pub direction: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
    /// Bits of `FLAG_*`.
    pub flags: u8,
    /// Always 0: the bytes are hashed.
    pub reserved: u16,
    /// Own address as it lies in memory (network order); IPv4 in the first word, the rest 0.
    pub local: [u32; 4],
    /// Peer's address, likewise.
    pub remote: [u32; 4],
}

plain!(EdgeKey, 64, {
    cgroup: 0, netns: 8, uid: 12, gid: 16, local_port: 20, remote_port: 22, arrival_port: 24,
    arrival: 26, direction: 27, family: 28, flags: 29, reserved: 30, local: 32, remote: 48,
});

impl EdgeKey {
    /// Reads and checks a key.
    ///
    /// # Errors
    /// [`Malformed`] if the size or a value is not a key's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let key: Self = read(bytes)?;
        key.check()?;
        Ok(key)
    }

    /// Checks the values a key may hold.
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        let refuse = |field, found: u64| Err(Malformed::Value { field, found });
        if self.direction > DIRECTION_INBOUND {
            return refuse("direction", self.direction.into());
        }
        if self.arrival > ARRIVAL_UNKNOWN {
            return refuse("arrival", self.arrival.into());
        }
        match self.family {
            FAMILY_IPV4 | FAMILY_IPV6 => Ok(()),
            other => refuse("family", other.into()),
        }
    }
}

/// What is counted for an edge. All counters wrap; the reader takes differences.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeValue {
    /// Sum of the durations in the histogram, microseconds.
    pub sum_us: u64,
    /// Durations, see [`HISTOGRAM_BUCKETS`]. Before the outcomes, so that any five-bit
    /// index stays inside the value: what the verifier can see of a bucket's number.
    pub buckets: [u32; HISTOGRAM_BUCKETS],
    /// Connections by outcome, indexed by `OUTCOME_*`.
    pub outcomes: [u32; crate::OUTCOME_COUNT],
}

plain!(EdgeValue, 144, { sum_us: 0, buckets: 8, outcomes: 112 });

impl EdgeValue {
    /// Reads a value; every bit pattern is one.
    ///
    /// # Errors
    /// [`Malformed`] if the size is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        read(bytes)
    }
}

/// What is counted for flows over UDP to one destination. Its key is an [`EdgeKey`] with the
/// running task's ids instead of the socket's, and an arrival of `ARRIVAL_DECIDED` (NAT
/// redirects), `ARRIVAL_UNKNOWN` (NAT sends it elsewhere) or `ARRIVAL_NOWHERE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramValue {
    /// Flows since the entry was made: the reader takes it out.
    pub flows: u64,
    /// Who made the first of them.
    pub task: crate::Task,
    /// Always 0.
    pub reserved: u32,
}

plain!(DatagramValue, 32, { flows: 0, task: 8, reserved: 28 });
