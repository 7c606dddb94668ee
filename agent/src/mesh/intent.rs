//! What the pod's spec says must be captured, and what may go direct, and because of what.
//!
//! Every exemption carries the text of the pod that grants it: a finding must be able to name
//! what a person would change. What the spec does not tell is left open, never guessed.

use std::net::{IpAddr, SocketAddr};

use super::{
    capture::{self, Rules},
    profile::{Protocol, Resolvers},
};
use crate::model::Family;

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
    /// A port the mesh itself leaves alone (health, metrics, tunnel), or a peer of its own (probes).
    MeshPort,
}

/// How name resolution is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCapture {
    /// Port that port 53 is redirected to.
    pub port: u16,
    /// Over which protocols.
    pub protocols: Vec<Protocol>,
    /// For which resolvers.
    pub resolvers: Resolvers,
    /// The annotation, argument or default that turns it on, for people.
    pub source: String,
}

/// Whether rules are expected for a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRules {
    /// The family.
    pub family: Family,
    /// Whether the mesh installs rules for it.
    pub installed: bool,
    /// What says so, for people.
    pub source: String,
}

/// A container that the spec gives an id of the proxy's, so that the rules let it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedId {
    /// The container.
    pub container: String,
    /// `runAsUser` or `runAsGroup`.
    pub field: &'static str,
    /// The id.
    pub id: u32,
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
    /// Ports of the mesh's control plane that the proxy dials.
    pub control_ports: Vec<u16>,
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
    /// What on the pod makes it a member where no container of its own does, for people.
    pub mark: Option<String>,
    /// The proxy is the node's: its sockets in this pod's namespace belong to no container of it.
    pub node_proxy: bool,
    /// Port where the proxies of peers come in, past the rules.
    pub tunnel_port: Option<u16>,
    /// The proxy dials the app from the address of the peer.
    pub inbound_keeps_source: bool,
    /// Routing table that the mesh has for marked packets.
    pub mark_table: Option<u32>,
    /// How name resolution is captured, if it is.
    pub dns: Option<DnsCapture>,
    /// Families of which is known whether there are rules for them.
    pub families: Vec<FamilyRules>,
    /// Containers that the rules let pass because the spec gives them the proxy's ids.
    pub shared_ids: Vec<SharedId>,
    /// What the intent says, one line each, for people.
    pub describe: Vec<String>,
    /// What could not be understood (an unknown annotation value), each with what, where, what to do.
    pub problems: Vec<String>,
    /// Users of the mesh's own init containers, as the spec gives them.
    pub mesh_users: Vec<u32>,
    /// The lists behind [`Intent::outbound`] and [`Intent::inbound`].
    pub(super) rules: Rules,
}

impl Intent {
    /// What must happen to a connection that a container other than the proxy opens to `to`.
    /// `own` are the pod's own addresses. Users and groups are not considered: whose socket it
    /// is, the caller knows.
    #[must_use]
    pub fn outbound(&self, to: SocketAddr, own: &[IpAddr]) -> Expectation {
        let port = self.rules.outbound_port(to, self.outbound_port);
        capture::expectation(self.rules.outbound(to, own), port)
    }

    /// Whether the proxy has this port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        let dns = self.dns.as_ref().is_some_and(|dns| dns.port == port);
        self.is_capture_port(port) || dns || self.own_ports.contains(&port)
    }

    /// Whether the proxy accepts captured connections there, of either direction.
    #[must_use]
    pub const fn is_capture_port(&self, port: u16) -> bool {
        port == self.outbound_port || port == self.inbound_port
    }

    /// The same, for a process of this user: some settings leave users alone.
    #[must_use]
    pub fn outbound_by(&self, uid: u32, to: SocketAddr, own: &[IpAddr]) -> Expectation {
        match self.outbound(to, own) {
            Expectation::Captured { port } => {
                let by = self.rules.user(uid, to.port());
                // The mesh excludes its own init container's user by itself: nobody's choice.
                let by = by.map(|by| match self.mesh_users.contains(&uid) {
                    true => Exemption::MeshPort,
                    false => by,
                });
                capture::expectation(by, port)
            }
            exempt @ Expectation::Exempt { .. } => exempt,
        }
    }

    /// The port that must capture a query over UDP which a process of this user sends to the
    /// resolver `to`, if it must be captured.
    #[must_use]
    pub fn query_by(&self, uid: u32, to: SocketAddr, own: &[IpAddr]) -> Option<u16> {
        let port = self.rules.query(to, own)?;
        self.rules.user(uid, to.port()).is_none().then_some(port)
    }

    /// Why connections by the pod's interface of this name are left alone, `None` if they are not.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<Exemption> {
        self.rules.interface(name)
    }

    /// The port that captures what comes in by this interface.
    #[must_use]
    pub fn inbound_port_by(&self, interface: Option<&str>) -> u16 {
        if interface.is_some_and(|name| self.rules.reroutes(name)) {
            self.outbound_port
        } else {
            self.inbound_port
        }
    }

    /// What must happen to a connection that `from` opens to the pod's port `port`.
    #[must_use]
    pub fn inbound(&self, from: IpAddr, port: u16, own: &[IpAddr]) -> Expectation {
        capture::expectation(self.rules.inbound(from, port, own), self.inbound_port)
    }

    /// Whether rules are expected for this family, `None` if nothing says.
    #[must_use]
    pub fn covers(&self, family: Family) -> Option<&FamilyRules> {
        self.families.iter().find(|rules| rules.family == family)
    }

    /// The list that captures no inbound port at all, if it is a list that does.
    #[must_use]
    pub fn empty_inbound_list(&self) -> Option<&str> {
        self.rules.inbound_list_is_empty()
    }
}
