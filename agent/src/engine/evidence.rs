//! What one edge adds to a case: who connected where, and how often.

use std::net::SocketAddr;

use super::edges::Comm;
use crate::model::{Direction, EdgeKey, Family};

/// Evidence from one edge.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) direction: Direction,
    pub(super) family: Family,
    /// Destination; inbound: the peer's address and the port of the pod.
    pub(super) destination: SocketAddr,
    pub(super) process: Option<Comm>,
    pub(super) ids: Option<(u32, u32)>,
    pub(super) container: Option<u16>,
    pub(super) n: u64,
}

impl Sample {
    /// Of `n` connections that were made, by nobody known.
    pub(super) fn made(key: &EdgeKey, n: u64) -> Self {
        Self {
            direction: Direction::Outbound,
            family: Family::of(key.remote.ip()),
            destination: key.remote,
            process: None,
            ids: Some((key.owner.uid, key.owner.gid)),
            container: None,
            n,
        }
    }
}
