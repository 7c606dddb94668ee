//! Source ports of a network namespace, as far as one destination has used up many of them.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How many source ports are in use from one address to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// The address dialled from.
    pub from: IpAddr,
    /// The destination.
    pub to: SocketAddr,
    /// Ports of open connections.
    pub open: u64,
    /// Ports of connections that were closed and whose ports cannot be used again yet.
    pub waiting: u64,
    /// Ports there are.
    pub range: u64,
}

impl PortUse {
    /// Ports in use, in hundredths of those there are.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        let used = self.open.saturating_add(self.waiting);
        if self.range == 0 {
            return 0;
        }
        used.saturating_mul(100) / self.range
    }
}
