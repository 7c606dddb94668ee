//! Who a socket belongs to, in the kernel's own identifiers.

use serde::{Deserialize, Serialize};

/// A user or group id that the kernel did not tell.
pub const NO_ID: u32 = u32::MAX;

/// Inode number of a network namespace (`ls -Li /proc/PID/ns/net`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsId(pub u32);

/// Inode number of a cgroup v2 directory, 0 if the kernel did not tell.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// Whose socket it is: the namespace it lives in, the cgroup that opened it, and the
/// credentials netfilter's owner match compares (those of the socket *file*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Network namespace of the socket.
    pub netns: NetnsId,
    /// Cgroup of the socket; an accepted socket inherits its listener's.
    pub cgroup: CgroupId,
    /// Filesystem user id of the socket file's credentials, [`NO_ID`] if unknown.
    pub uid: u32,
    /// Filesystem group id of the socket file's credentials, [`NO_ID`] if unknown.
    pub gid: u32,
}

/// Which way a connection was opened, seen from its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The pod called connect(2).
    Outbound,
    /// The pod accepted.
    Inbound,
}

impl Direction {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// Address family as spoken on the wire: an IPv4-mapped IPv6 socket is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Family of an address.
    #[must_use]
    pub const fn of(ip: std::net::IpAddr) -> Self {
        match ip {
            std::net::IpAddr::V4(_) => Self::Ipv4,
            std::net::IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}
