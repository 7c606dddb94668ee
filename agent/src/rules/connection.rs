//! The connection that is asked about, with what is known of it.
//!
//! Whatever is not known stays open (`None`), and the answer is unknown where it depends on it: a guess here would become a
//! false alarm there.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::model::{Direction, Family};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in the IP header.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The interface by which the first packet goes out or came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// This one.
    Named(String),
    /// One that is not `lo`, of unknown name.
    NotLoopback,
    /// Nothing is known about it.
    Unknown,
}

/// One connection of a network namespace, seen at its first packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Outbound: made by a socket of the namespace. Inbound: came in from outside.
    pub direction: Direction,
    /// Transport.
    pub protocol: Protocol,
    /// Where it comes from; an unspecified address or port 0 is not known.
    pub source: SocketAddr,
    /// Where it was made to.
    pub destination: SocketAddr,
    /// Outbound: user of the socket's file.
    pub uid: Option<u32>,
    /// Outbound: group of the socket's file.
    pub gid: Option<u32>,
    /// Outbound: the interface that routing chose for the destination. Inbound: the one it came in by.
    pub interface: Interface,
    /// Inbound, and passed on: the interface it leaves by. The namespace is then one on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_by: Option<Interface>,
    /// The mark its first packet has from the start: that of the socket, mostly 0.
    pub mark: Option<u32>,
    /// Addresses of the namespace, loopback ones need not be listed.
    pub local: Option<Vec<IpAddr>>,
    /// Where sockets of the namespace listen; one for both families is there twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<SocketAddr>>,
}

impl Connection {
    /// A connection that a socket of the namespace makes: the interface follows from the destination where it can.
    #[must_use]
    pub fn outbound(
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        local: Option<Vec<IpAddr>>,
    ) -> Self {
        let (source, destination) = (canonical(source), canonical(destination));
        let mut connection = Self {
            direction: Direction::Outbound,
            protocol,
            source,
            destination,
            uid: None,
            gid: None,
            interface: Interface::Unknown,
            leaves_by: None,
            mark: Some(0),
            local,
            listeners: None,
        };
        connection.interface = match connection.is_local(destination.ip()) {
            Some(true) => Interface::Named("lo".to_owned()),
            Some(false) => Interface::NotLoopback,
            None => Interface::Unknown,
        };
        connection
    }

    /// A connection that comes in from outside.
    #[must_use]
    pub fn inbound(
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        local: Option<Vec<IpAddr>>,
    ) -> Self {
        Self {
            direction: Direction::Inbound,
            protocol,
            source: canonical(source),
            destination: canonical(destination),
            uid: None,
            gid: None,
            interface: Interface::NotLoopback,
            leaves_by: None,
            mark: Some(0),
            local,
            listeners: None,
        }
    }

    /// The same, come in by this interface.
    #[must_use]
    pub fn come_in_by(mut self, interface: Interface) -> Self {
        self.interface = interface;
        self
    }

    /// The same, passed on by this interface.
    #[must_use]
    pub fn passed_on_by(mut self, interface: Interface) -> Self {
        self.leaves_by = Some(interface);
        self
    }

    /// The same, made by a socket of this user and group.
    #[must_use]
    pub const fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        self.uid = Some(uid);
        self.gid = Some(gid);
        self
    }

    /// The family that is spoken on the wire.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.destination.ip())
    }

    /// Whether an address belongs to the namespace, if that is known.
    pub(super) fn is_local(&self, address: IpAddr) -> Option<bool> {
        if address.is_loopback() {
            return Some(true);
        }
        let local = self.local.as_ref()?;
        Some(local.iter().any(|own| own.to_canonical() == address))
    }
}

/// An IPv4-mapped address is IPv4 on the wire.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
