//! The connection tracking table of a network namespace, as the kernel counts it.

use serde::{Deserialize, Serialize};

/// One table: what is in it, and what came of packets it was asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Entries now.
    pub count: u64,
    /// Entries there may be; 0: no limit.
    pub max: u64,
    /// Packets lost for want of an entry, or because theirs could not be put in.
    pub drop: u64,
    /// Entries given up early to make room.
    pub early_drop: u64,
    /// Packets that belong to no connection the table knows.
    pub invalid: u64,
}

impl Conntrack {
    /// No room for another entry.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.max > 0 && self.count >= self.max
    }

    /// Hardly any room.
    #[must_use]
    pub const fn is_nearly_full(&self) -> bool {
        self.max > 0 && self.count.saturating_mul(10) >= self.max.saturating_mul(9)
    }
}
