//! From an edge to the facts a verdict needs: addresses and containers become small enums.
//!
//! Pure functions of the key, the pod and its intent. Where the container of a socket is
//! not known, the proxy gets the benefit of the doubt by its uid: a proxy taken for an app
//! would be a false alarm on every one of its connections.

use std::net::{IpAddr, SocketAddr};

use super::{
    Accepts,
    directory::PodEntry,
    verdict::{Expected, Party, Path},
};
use crate::{
    mesh::{Exemption, Expectation, Intent},
    model::{Arrival, ContainerKind, Direction, EdgeKey, Family},
};

/// An edge as its pod's intent sees it, whatever its outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) party: Party,
    pub(super) expected: Expected,
    pub(super) path: Path,
    pub(super) mesh_port: bool,
    /// What exempts it, for people; empty unless the user's own list does.
    pub(super) source: String,
    pub(super) family: Family,
}

impl View {
    /// Whether it is the proxy's and leaves the pod.
    pub(super) const fn is_upstream(&self) -> bool {
        matches!(self.party, Party::Proxy) && matches!(self.path, Path::Direct | Path::Lost)
    }

    /// An app's connection that should have been captured and was not.
    pub(super) const fn direct(family: Family) -> Self {
        Self {
            party: Party::App,
            expected: Expected::Captured,
            path: Path::Direct,
            mesh_port: false,
            source: String::new(),
            family,
        }
    }
}

/// Looks at an edge of `pod`, whose addresses are `own`.
pub(super) fn look(key: &EdgeKey, pod: &PodEntry, container: Option<u16>, own: &[IpAddr]) -> View {
    let local = is_own(key, own);
    let Some(intent) = &pod.intent else {
        return View {
            party: Party::App,
            expected: Expected::NoMesh,
            path: if local { Path::Own } else { path_unmeshed(key) },
            mesh_port: false,
            source: String::new(),
            family: Family::of(key.remote.ip()),
        };
    };
    let party = party(key, pod, intent, container);
    let (expectation, path) = match key.direction {
        Direction::Outbound => (
            intent.outbound_by(key.owner.uid, key.remote, own),
            path_out(key, intent, local),
        ),
        Direction::Inbound => (
            intent.inbound(key.remote.ip(), key.local_port, own),
            path_in(key, intent, local),
        ),
    };
    // The address is one of the interface by which the connection goes.
    let interface = pod.interface(key.local).filter(|_| !local);
    let rerouted = is_rerouted(key, intent, interface);
    let expectation = match (expectation, interface) {
        // Before every list.
        _ if rerouted => Expectation::Captured {
            port: intent.outbound_port,
        },
        (Expectation::Captured { port }, Some(name)) => match intent.interface(name) {
            Some(by) => Expectation::Exempt { by },
            None => Expectation::Captured { port },
        },
        (expectation, _) => expectation,
    };
    let (expected, source) = match is_mesh_init(pod, intent, container) {
        // Installing and checking the rules is the mesh's own business.
        true => (Expected::MeshPort, String::new()),
        false => expected(expectation),
    };
    View {
        party,
        expected,
        path,
        mesh_port: is_mesh_port(key, intent)
            && !(rerouted && key.local_port == intent.outbound_port),
        source,
        family: Family::of(key.remote.ip()),
    }
}

/// Whether a connection that came in to the app may be the proxy's own, which takes the peer's
/// address: its socket in this namespace may have been missed.
pub(super) fn may_be_the_proxys(key: &EdgeKey, view: &View, intent: &Intent) -> bool {
    intent.inbound_keeps_source
        && key.direction == Direction::Inbound
        && view.party != Party::Proxy
        && view.expected == Expected::Captured
        && view.path == Path::Direct
}

/// Whose listener accepts the connections of an inbound edge.
pub(super) fn accepts(key: &EdgeKey, view: &View, intent: Option<&Intent>) -> Accepts {
    let Some(intent) = intent else {
        return Accepts::App;
    };
    match key.local_port {
        port if port == intent.outbound_port => Accepts::CaptureOutbound,
        port if port == intent.inbound_port => Accepts::CaptureInbound,
        _ if view.party == Party::Proxy && intent.inbound_keeps_destination && !view.mesh_port => {
            Accepts::CaptureInbound
        }
        _ if view.party == Party::Proxy => Accepts::Proxy,
        _ => Accepts::App,
    }
}

/// Whether it came in by an interface behind which is a virtual machine, whose connections are captured as if the pod had
/// made them.
fn is_rerouted(key: &EdgeKey, intent: &Intent, interface: Option<&str>) -> bool {
    key.direction == Direction::Inbound
        && intent.outbound_port != intent.inbound_port
        && intent.inbound_port_by(interface) == intent.outbound_port
}

fn is_mesh_init(pod: &PodEntry, intent: &Intent, container: Option<u16>) -> bool {
    let container = pod.container(container);
    container.is_some_and(|c| intent.mesh_init_containers.contains(&c.name))
}

fn expected(expectation: Expectation) -> (Expected, String) {
    match expectation {
        Expectation::Captured { .. } => (Expected::Captured, String::new()),
        Expectation::Exempt { by } => match by {
            Exemption::Local => (Expected::Local, String::new()),
            Exemption::DirectionOff { source } => (Expected::Off, source),
            Exemption::Listed { source } => (Expected::Listed, source),
            Exemption::MeshPort => (Expected::MeshPort, String::new()),
        },
    }
}

fn party(key: &EdgeKey, pod: &PodEntry, intent: &Intent, container: Option<u16>) -> Party {
    let Some(container) = pod.container(container) else {
        // The node's proxy is in no container of the pod; whoever else is not, is taken for it.
        if intent.node_proxy {
            return Party::Proxy;
        }
        return party_by_doubt(key, intent);
    };
    if intent.proxy_containers.contains(&container.name) {
        Party::Proxy
    } else if container.kind == ContainerKind::Init {
        Party::Init
    } else {
        Party::App
    }
}

fn party_by_doubt(key: &EdgeKey, intent: &Intent) -> Party {
    let uid = Some(key.owner.uid) == intent.proxy_uid;
    let proxy = match key.direction {
        Direction::Outbound => uid,
        // A transparent proxy runs as another uid, but with its gid.
        Direction::Inbound => {
            let gid = Some(key.owner.gid) == intent.proxy_gid;
            uid || gid || intent.is_capture_port(key.local_port) || is_mesh_port(key, intent)
        }
    };
    if proxy { Party::Proxy } else { Party::App }
}

/// Whether the port at this pod's end is the mesh's own business, not the app's.
fn is_mesh_port(key: &EdgeKey, intent: &Intent) -> bool {
    match key.direction {
        Direction::Outbound => {
            let port = key.remote.port();
            let through = matches!(key.arrival, Arrival::Port(p) if intent.is_capture_port(p));
            through || intent.is_capture_port(port) || intent.own_ports.contains(&port)
        }
        Direction::Inbound => {
            key.local_port == intent.outbound_port || intent.own_ports.contains(&key.local_port)
        }
    }
}

/// Whether the other end is the pod itself.
fn is_own(key: &EdgeKey, own: &[IpAddr]) -> bool {
    let remote = key.remote.ip();
    remote.is_loopback() || remote.is_unspecified() || remote == key.local || own.contains(&remote)
}

fn path_unmeshed(key: &EdgeKey) -> Path {
    match key.arrival {
        Arrival::Nowhere => Path::Direct,
        Arrival::Port(_) | Arrival::Decided(_) | Arrival::Loopback => Path::Elsewhere,
        Arrival::Unknown => Path::Lost,
    }
}

fn path_out(key: &EdgeKey, intent: &Intent, local: bool) -> Path {
    let proxys = |port: u16| intent.is_capture_port(port) || intent.own_ports.contains(&port);
    // A hook rewrote the destination at connect(2): the socket itself asks for the proxy.
    let hooked = key.remote == SocketAddr::new(key.remote.ip(), intent.outbound_port)
        && key.remote.ip().is_loopback();
    match key.arrival {
        _ if hooked => Path::Capture,
        Arrival::Port(port) if port == intent.outbound_port => Path::Capture,
        Arrival::Decided(port) if port == intent.outbound_port => Path::Waiting,
        _ if local => Path::Own,
        Arrival::Port(port) if proxys(port) => Path::Capture,
        Arrival::Decided(port) if proxys(port) => Path::Waiting,
        Arrival::Port(_) | Arrival::Decided(_) => Path::Elsewhere,
        Arrival::Loopback => Path::Waiting,
        Arrival::Nowhere => Path::Direct,
        Arrival::Unknown => Path::Lost,
    }
}

fn path_in(key: &EdgeKey, intent: &Intent, local: bool) -> Path {
    // A proxy that dials the app from the peer's address is still a socket of this namespace.
    let inside = key.arrival == Arrival::Loopback;
    if local || inside || intent.inbound_bind.contains(&key.remote.ip()) {
        Path::Own
    } else {
        Path::Direct
    }
}
