//! What a memory limit did to a control group, as its files count it.

use serde::{Deserialize, Serialize};

/// The memory of a control group, and how often the kernel killed for want of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// The container it is of; absent: the whole pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Processes killed since it was made. A pod's counts those of its containers, also of those that
    /// are gone, in version 2; in version 1 it counts none of them.
    pub kills: u64,
    /// Bytes in use.
    pub used: u64,
    /// The most that ever were, where the kernel remembers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Bytes allowed; absent: no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}
