//! Where a hanging connection hangs: the stages of the path, in the order they are passed.
//!
//! Beside the board and not in it, because verdicts, socket tables and metrics speak of them alike.

use serde::{Deserialize, Serialize};

/// Where a hanging connection hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The app's SYN gets no answer from its own proxy.
    HandshakeToProxy,
    /// Established, waiting in the proxy's accept queue.
    ProxyAcceptQueue,
    /// Accepted, and the proxy does not read what was sent.
    ProxyNotReading,
    /// The proxy's SYN gets no answer.
    HandshakeToUpstream,
    /// The request went upstream, and nothing comes back.
    UpstreamSilent,
    /// The proxy answers, and whoever asked does not take it.
    ReturnPath,
}

impl Stage {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeToProxy => "handshake_to_proxy",
            Self::ProxyAcceptQueue => "proxy_accept_queue",
            Self::ProxyNotReading => "proxy_not_reading",
            Self::HandshakeToUpstream => "handshake_to_upstream",
            Self::UpstreamSilent => "upstream_silent",
            Self::ReturnPath => "return_path",
        }
    }
}
