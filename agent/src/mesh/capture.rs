//! The rules a mesh's settings amount to, without users and groups.
//!
//! The order of the questions is the order of the mesh's own rules: which of two reasons
//! for going direct is told depends on it. Sockets of the proxy itself (user, group) are
//! the caller's business: it knows whose socket it is.

use std::net::{IpAddr, SocketAddr};

use super::{
    intent::{DnsCapture, Exemption, Expectation},
    nets::NetSet,
    ports::PortSet,
    profile::{LocalScope, Mode, Protocol, Resolvers},
    read::Sourced,
    users::UserRule,
};

/// Where names are asked for.
const DNS: u16 = 53;

/// What is captured and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub mode: Sourced<Mode>,
    pub include_inbound_ports: Sourced<PortSet>,
    pub exclude_inbound_ports: Sourced<PortSet>,
    pub exclude_inbound_ranges: Sourced<NetSet>,
    pub include_outbound_ports: Sourced<PortSet>,
    pub exclude_outbound_ports: Sourced<PortSet>,
    pub include_outbound_ranges: Sourced<NetSet>,
    pub exclude_outbound_ranges: Sourced<NetSet>,
    /// Whether the direction is captured at all.
    pub capture_inbound: Sourced<bool>,
    /// Whether the direction is captured at all.
    pub capture_outbound: Sourced<bool>,
    /// Users left alone, by list and by rule.
    pub users: Vec<Sourced<Vec<UserRule>>>,
    /// Left alone whatever the settings say.
    pub exempt_inbound_ranges: NetSet,
    /// Left alone whatever the settings say.
    pub exempt_outbound_ranges: NetSet,
    /// Left alone whatever the settings say.
    pub exempt_inbound_ports: PortSet,
    /// Left alone whatever the settings say.
    pub exempt_outbound_ports: PortSet,
    /// Excluded inbound ports count only while all inbound ports are captured.
    pub inbound_exclusions_need_wildcard: bool,
    /// Ports of the proxy itself: excluding one is the mesh's doing, not the user's.
    pub own_ports: Vec<u16>,
    /// Addresses the proxy binds when it dials its own app.
    pub inbound_bind: Vec<IpAddr>,
    /// What counts as a connection of the pod to itself.
    pub local: LocalScope,
    /// Interfaces that are left alone, both ways.
    pub exclude_interfaces: Sourced<Vec<String>>,
    /// Interfaces behind which is a virtual machine: what comes in by them is captured as what the pod sends.
    pub reroute_interfaces: Sourced<Vec<String>>,
    /// How name resolution is captured, if it is.
    pub dns: Option<DnsCapture>,
}

impl Rules {
    /// Why a connection to `to` may go direct, `None` if it must be captured.
    pub(super) fn outbound(&self, to: SocketAddr, own: &[IpAddr]) -> Option<Exemption> {
        let (ip, port) = (to.ip().to_canonical(), to.port());
        if let Some(off) = self.off_outbound() {
            return Some(off);
        }
        if self.exempt_outbound_ports.contains(port) || self.exempt_outbound_ranges.contains(ip) {
            return Some(Exemption::MeshPort);
        }
        if self.exclude_outbound_ports.value.contains(port) {
            return self.port_listed(port, &self.exclude_outbound_ports.source);
        }
        if self.is_local(ip, own) {
            return Some(Exemption::Local);
        }
        match &self.dns {
            Some(dns) if port == DNS && dns.captures_all_tcp() => return None,
            // Where only datagrams are captured, queries over TCP are returned before all else.
            Some(dns) if port == DNS && !dns.protocols.contains(&Protocol::Tcp) => {
                return Some(Exemption::MeshPort);
            }
            _ => {}
        }
        if self.exclude_outbound_ranges.value.contains(ip) {
            return listed(&self.exclude_outbound_ranges.source);
        }
        let included = self.include_outbound_ports.value.contains(port)
            || self.include_outbound_ranges.value.contains(ip);
        match included {
            true => None,
            false if self.outbound_is_off() => off(&self.include_outbound_ranges.source),
            false => listed(&self.include_outbound_ranges.source),
        }
    }

    /// The port that captures a query over UDP to `to`, if one does. Lists of ranges do not
    /// count: the rules for queries stand before them.
    pub(super) fn query(&self, to: SocketAddr, own: &[IpAddr]) -> Option<u16> {
        let dns = self.dns.as_ref()?;
        let ip = to.ip().to_canonical();
        let captures = to.port() == DNS
            && dns.protocols.contains(&Protocol::Udp)
            && dns.resolvers != Resolvers::Localhost;
        let exempt = self.off_outbound().is_some()
            || self.exempt_outbound_ports.contains(DNS)
            || self.exempt_outbound_ranges.contains(ip)
            || self.exclude_outbound_ports.value.contains(DNS)
            || ip.is_loopback()
            || is_own(ip, own);
        (captures && !exempt).then_some(dns.port)
    }

    /// Why this user's connections to `port` are left alone, `None` if they are not.
    pub(super) fn user(&self, uid: u32, port: u16) -> Option<Exemption> {
        let covers = |rules: &&Sourced<Vec<UserRule>>| {
            let mut rules = rules.value.iter();
            rules.any(|rule| rule.covers(uid, port))
        };
        let rules = self.users.iter().find(covers)?;
        listed(&rules.source)
    }

    fn off_outbound(&self) -> Option<Exemption> {
        match (self.mode.value, self.capture_outbound.value) {
            (Mode::Off, _) => off(&self.mode.source),
            (_, false) => off(&self.capture_outbound.source),
            (_, true) => None,
        }
    }

    fn off_inbound(&self) -> Option<Exemption> {
        match (self.mode.value, self.capture_inbound.value) {
            (Mode::Off, _) => off(&self.mode.source),
            (_, false) => off(&self.capture_inbound.source),
            (_, true) => None,
        }
    }

    /// Why a connection from `from` to port `port` may come in direct, `None` if it must be captured.
    pub(super) fn inbound(&self, from: IpAddr, port: u16, own: &[IpAddr]) -> Option<Exemption> {
        let from = from.to_canonical();
        if let Some(off) = self.off_inbound() {
            return Some(off);
        }
        if is_own(from, own) || self.inbound_bind.contains(&from) {
            return Some(Exemption::Local);
        }
        if self.exempt_inbound_ports.contains(port) || self.exempt_inbound_ranges.contains(from) {
            return Some(Exemption::MeshPort);
        }
        if self.inbound_exclusions_count() && self.exclude_inbound_ports.value.contains(port) {
            return self.port_listed(port, &self.exclude_inbound_ports.source);
        }
        if self.exclude_inbound_ranges.value.contains(from) {
            return listed(&self.exclude_inbound_ranges.source);
        }
        match self.include_inbound_ports.value.contains(port) {
            true => None,
            false if self.include_inbound_ports.value.is_empty() => {
                off(&self.include_inbound_ports.source)
            }
            // Not captured because nobody listed it, and nobody would: it is the proxy's.
            false => self.port_listed(port, &self.include_inbound_ports.source),
        }
    }

    /// Why connections by this interface are left alone, `None` if they are not. `x+` is every
    /// name that begins so.
    pub(super) fn interface(&self, name: &str) -> Option<Exemption> {
        let names = &self.exclude_interfaces;
        covers(&names.value, name).then(|| Exemption::Listed {
            source: names.source.clone(),
        })
    }

    /// Whether what comes in by this interface is captured as what the pod sends.
    pub(super) fn reroutes(&self, name: &str) -> bool {
        covers(&self.reroute_interfaces.value, name)
    }

    /// Which port captures a connection to `to`, if it must be captured.
    pub(super) fn outbound_port(&self, to: SocketAddr, usual: u16) -> u16 {
        match &self.dns {
            Some(dns) if to.port() == DNS && dns.captures_all_tcp() => dns.port,
            _ => usual,
        }
    }

    /// What leaves inbound connections uncaptured by an empty list, where no switch turned the
    /// direction off.
    pub(super) fn inbound_list_is_empty(&self) -> Option<&str> {
        let on = self.off_inbound().is_none();
        let list = &self.include_inbound_ports;
        (on && list.value.is_empty()).then_some(list.source.as_str())
    }

    fn is_local(&self, ip: IpAddr, own: &[IpAddr]) -> bool {
        match self.local {
            LocalScope::Interface => is_own(ip, own),
            LocalScope::Localhost => {
                let localhost = [
                    IpAddr::from([127, 0, 0, 1]),
                    std::net::Ipv6Addr::LOCALHOST.into(),
                ];
                ip.is_unspecified() || localhost.contains(&ip)
            }
        }
    }

    /// Nothing at all is captured on the way out.
    pub(super) fn outbound_is_off(&self) -> bool {
        self.include_outbound_ranges.value.is_empty()
            && self.include_outbound_ports.value.is_empty()
    }

    /// Whether the list of excluded inbound ports has any effect.
    pub(super) fn inbound_exclusions_count(&self) -> bool {
        !self.inbound_exclusions_need_wildcard || self.include_inbound_ports.value == PortSet::All
    }

    fn port_listed(&self, port: u16, source: &str) -> Option<Exemption> {
        if self.own_ports.contains(&port) {
            Some(Exemption::MeshPort)
        } else {
            listed(source)
        }
    }
}

impl DnsCapture {
    fn captures_all_tcp(&self) -> bool {
        self.resolvers == Resolvers::All && self.protocols.contains(&Protocol::Tcp)
    }
}

/// What an exemption, or none, means for a direction captured at `port`.
pub(super) fn expectation(exempt: Option<Exemption>, port: u16) -> Expectation {
    match exempt {
        Some(by) => Expectation::Exempt { by },
        None => Expectation::Captured { port },
    }
}

/// Whether one of the listed names is this one, or is `x+` and how it begins.
fn covers(listed: &[String], name: &str) -> bool {
    listed.iter().any(|listed| match listed.strip_suffix('+') {
        Some(start) => name.starts_with(start),
        None => name == listed,
    })
}

/// Loopback in the kernel's sense: the address of an interface of this namespace, or the
/// unspecified address (connect(2) takes it for loopback).
fn is_own(ip: IpAddr, own: &[IpAddr]) -> bool {
    ip.is_loopback() || ip.is_unspecified() || own.iter().any(|o| o.to_canonical() == ip)
}

fn listed(source: &str) -> Option<Exemption> {
    Some(Exemption::Listed {
        source: source.to_owned(),
    })
}

fn off(source: &str) -> Option<Exemption> {
    Some(Exemption::DirectionOff {
        source: source.to_owned(),
    })
}
