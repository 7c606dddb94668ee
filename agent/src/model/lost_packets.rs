//! Packets that the kernel dropped of an address somebody watched.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Direction, NetnsId};

/// Packets dropped alike since the last look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPackets {
    /// The watched address.
    pub local: IpAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Outbound: the watched address had sent them.
    pub direction: Direction,
    /// What of a handshake they were, if anything.
    pub part: Part,
    /// Namespace in which they were dropped, where the packets say.
    pub netns: Option<NetnsId>,
    /// The kernel's own name for why, without its prefix; absent where it has none.
    pub reason: Option<String>,
    /// Function of the kernel that dropped them, where its names can be read.
    pub function: Option<String>,
    /// How many.
    pub packets: u64,
}

/// What a packet is in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It begins one.
    Syn,
    /// It answers that.
    SynAck,
    /// Anything later.
    Later,
}

impl Part {
    /// Name for people, and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::Later => "later",
        }
    }
}

impl LostPackets {
    /// Why, in one bounded word: the kernel's reason, or the function that dropped them.
    #[must_use]
    pub fn why(&self) -> &str {
        let told = self
            .reason
            .as_deref()
            .filter(|reason| *reason != "NOT_SPECIFIED");
        told.or(self.function.as_deref())
            .or(self.reason.as_deref())
            .unwrap_or("unknown")
    }
}
