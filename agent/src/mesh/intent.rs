//! What the pod's spec says must be captured.

use std::net::{IpAddr, SocketAddr};

use super::capture::{self, Rules};

/// Where an intent was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentSource {
    /// The pod's manifest.
    Manifest,
    /// No manifest: the proxy's listeners in the namespace gave the mesh away.
    Listeners,
}

/// What must happen to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Redirected to this port of the pod's own proxy.
    Captured {
        /// The capture port.
        port: u16,
    },
    /// Left alone.
    Exempt {
        /// By what.
        by: Exemption,
    },
}

/// Why a connection may go direct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// To loopback or to the pod's own address.
    Local,
    /// The whole direction is not captured (capture mode none, empty include list).
    DirectionOff {
        /// The annotation, argument or default that says so, for people.
        source: String,
    },
    /// Excluded port, range, or not in an include list.
    Listed {
        /// The annotation, argument or default that says so, for people (`annotation x: "9000"`).
        source: String,
    },
    /// A port the mesh itself leaves alone (health, metrics, tunnel).
    MeshPort,
}

/// What the pod's spec says must be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Profile name.
    pub profile: String,
    /// Where it was read.
    pub source: IntentSource,
    /// Port that captures outbound connections.
    pub outbound_port: u16,
    /// Port that captures inbound connections.
    pub inbound_port: u16,
    /// Other ports the proxy itself listens on (admin, health, metrics, DNS, tunnel).
    pub own_ports: Vec<u16>,
    /// Uid whose sockets the rules return, if the mesh has such a rule.
    pub proxy_uid: Option<u32>,
    /// Gid whose sockets the rules return, if the mesh has such a rule.
    pub proxy_gid: Option<u32>,
    /// Names of the containers that are the proxy.
    pub proxy_containers: Vec<String>,
    /// Names of init containers of the mesh itself.
    pub mesh_init_containers: Vec<String>,
    /// Addresses the proxy binds when it dials its own app (127.0.0.6, ::6).
    pub inbound_bind: Vec<IpAddr>,
    /// Inbound capture leaves accepted sockets the destination that was asked for (TPROXY):
    /// whose listener accepted tells, not on which port.
    pub inbound_keeps_destination: bool,
    /// Settings that decide whether IPv6 is captured, for remedies.
    pub ipv6_setting: String,
    /// What the intent says, one line each, for people.
    pub describe: Vec<String>,
    /// What could not be understood (an unknown annotation value), each with what, where, what to do.
    pub problems: Vec<String>,
    /// The lists behind [`Intent::outbound`] and [`Intent::inbound`].
    pub(super) rules: Rules,
}

impl Intent {
    /// What must happen to a connection that a container other than the proxy opens to `to`.
    /// `own` are the pod's own addresses. Users and groups are not considered: whose socket it
    /// is, the caller knows.
    #[must_use]
    pub fn outbound(&self, to: SocketAddr, own: &[IpAddr]) -> Expectation {
        capture::expectation(self.rules.outbound(to, own), self.outbound_port)
    }

    /// What must happen to a connection that `from` opens to the pod's port `port`.
    #[must_use]
    pub fn inbound(&self, from: IpAddr, port: u16, own: &[IpAddr]) -> Expectation {
        capture::expectation(self.rules.inbound(from, port, own), self.inbound_port)
    }
}
