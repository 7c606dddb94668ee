//! A TCP connection as the kernel's socket table shows it: what was said, and what waits.
//!
//! One row per socket, both ends of a connection inside one namespace being two rows. Bytes and
//! ages are the kernel's own; who a socket belongs to (app, proxy) is for the engine to say.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How far a connection is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// SYN sent, no answer yet.
    Dialling,
    /// Both directions open.
    Open,
    /// The peer closed, the owner has not (`CLOSE_WAIT`).
    PeerClosed,
    /// The owner closed, the peer has not (`FIN_WAIT1`, `FIN_WAIT2`).
    OwnerClosed,
}

/// A TCP socket with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Unique for the life of the kernel.
    pub cookie: u64,
    /// Its own end, after NAT.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// How far it is.
    pub state: StreamState,
    /// Owner of the socket, [`super::NO_ID`] if unknown.
    pub uid: u32,
    /// Some process has it; false while it waits in an accept queue, and for what a process left.
    pub held: bool,
    /// Bytes received and not read.
    pub unread: u32,
    /// Bytes written and not acknowledged by the peer.
    pub unsent: u32,
    /// Bytes received since it was opened.
    pub received: u64,
    /// Bytes sent since it was opened.
    pub sent: u64,
    /// Milliseconds since data was last sent; since it was opened if none was.
    pub sent_ms: u32,
    /// Milliseconds since data was last received; since it was opened if none was.
    pub received_ms: u32,
    /// Times its unanswered SYN or segment was sent again.
    pub retransmits: u8,
}

impl Stream {
    /// It spoke and was never answered, on this connection.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        self.sent > 0 && self.received == 0
    }

    /// It was spoken to and never answered.
    #[must_use]
    pub const fn has_not_answered(&self) -> bool {
        self.received > 0 && self.sent == 0
    }

    /// Milliseconds since anything was sent or received.
    #[must_use]
    pub fn idle_ms(&self) -> u32 {
        self.sent_ms.min(self.received_ms)
    }
}
