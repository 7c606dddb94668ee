//! What a CPU limit did to a control group, as its `cpu.stat` counts it.

use serde::{Deserialize, Serialize};

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuLevel {
    /// The container's own.
    Container,
    /// The one of its whole pod.
    Pod,
}

impl CpuLevel {
    /// Name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// A limit, and what came of it since the control group was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimit {
    /// Whose it is.
    pub level: CpuLevel,
    /// CPU time allowed per period, microseconds.
    pub quota_us: u64,
    /// The period, microseconds.
    pub period_us: u64,
    /// Periods in which anything ran.
    pub periods: u64,
    /// Those of them in which all that was allowed was used up.
    pub throttled: u64,
    /// Time for which it was kept from running, all CPUs together.
    pub throttled_us: u64,
}
