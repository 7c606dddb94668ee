//! The agent's account of what it asked the cluster, as plain data for the board.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One kind of object that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStats {
    /// The list is whole and the watch has not failed since.
    pub synced: bool,
    /// Objects known.
    pub objects: u64,
    /// Changes told by the API server, lists included.
    pub changes: u64,
    /// Whole lists read. Grows only at start, and when the server no longer knows where the watch stood.
    pub lists: u64,
}

/// What was asked of the API server and what came of it, cumulative since the start. Empty without a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStats {
    /// By kind: `pods`, `namespaces`.
    pub watches: BTreeMap<String, WatchStats>,
    /// Requests by the answer's HTTP status, `none` where there was no answer.
    pub requests: BTreeMap<String, u64>,
    /// Kubernetes Events by what came of them: `sent`, `merged`, `failed`, `dropped`, `pod_gone`.
    pub events: BTreeMap<String, u64>,
    /// Pods and namespaces not held because there were too many.
    pub refused: u64,
}
