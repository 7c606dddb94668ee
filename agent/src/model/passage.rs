//! The way of a pod's packets through the node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NetnsId;

/// Packets of a namespace, from and to these addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketEnds {
    /// The namespace.
    pub netns: NetnsId,
    /// Its own address.
    pub from: IpAddr,
    /// Where they go.
    pub to: IpAddr,
}

/// How packets of a pod to one address pass the namespace that holds the other end of the
/// pod's interface: the node's own, as a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The pod's namespace.
    pub netns: NetnsId,
    /// Where they go.
    pub to: IpAddr,
    /// What they pass; absent where no IP rules of another namespace see them, or that is not known.
    pub through: Option<Through>,
}

/// The namespace packets pass, and by which interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// The namespace.
    pub node: NetnsId,
    /// The interface that its rules see them come in by.
    pub came_in: String,
    /// Where they go from there.
    pub leaves: Leaves,
}

/// Where packets go from the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaves {
    /// Out by this interface.
    By(String),
    /// They are for the node itself.
    Here,
    /// Its routes do not say.
    NotKnown,
}
