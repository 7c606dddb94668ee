//! Where packets with a mark go, by the routing rules of a network namespace.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NetnsId;

/// Packets that a namespace sends, with a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkedEnds {
    /// The namespace.
    pub netns: NetnsId,
    /// Its own address.
    pub from: IpAddr,
    /// Where they go.
    pub to: IpAddr,
    /// Their mark.
    pub mark: u32,
}

/// Where they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedWay {
    /// The namespace.
    pub netns: NetnsId,
    /// Their mark.
    pub mark: u32,
    /// The interface they leave by, empty if there is no way; absent: they stay in the namespace.
    pub leaves: Option<String>,
    /// The table that a routing rule for the mark names, if there is such a rule.
    pub table: Option<u32>,
}
