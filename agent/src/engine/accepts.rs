//! Times that connections wait to be accepted, by whose listener they wait at.
//!
//! The kernel side times every child from established to accepted; an event loop that is late
//! shows here long before its queue is full. Where accepts are not told there are no rows.

use serde::{Deserialize, Serialize};

use crate::model::{Histogram, PodKey, Workload};

/// Whose listener a connection waits at until it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepts {
    /// The proxy's, where the app's connections are redirected to.
    CaptureOutbound,
    /// The proxy's, where peers' connections are redirected to.
    CaptureInbound,
    /// Another of the proxy's: admin, health, metrics.
    Proxy,
    /// The app's; in a pod without a mesh everybody's.
    App,
}

impl Accepts {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CaptureOutbound => "capture_outbound",
            Self::CaptureInbound => "capture_inbound",
            Self::Proxy => "proxy",
            Self::App => "app",
        }
    }
}

/// Times from established to accepted in a pod, by listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Whose listener.
    pub listener: Accepts,
    /// The times.
    pub histogram: Histogram,
}
