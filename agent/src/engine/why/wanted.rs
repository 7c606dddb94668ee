//! What the pod's spec wants for a connection, and which of its texts say so.
//!
//! The words come from the intent itself: an annotation, an argument or a default is what a person would change. Sockets
//! with the proxy's ids are the proxy's, unless an app was seen with them.

use std::net::SocketAddr;

use super::{
    Ask, By, EdgeRow, OwnerSource, PodRow, Wanted, Way,
    observed::{self},
};
use crate::{
    mesh::{self, Exemption, Expectation, Intent, Resolvers},
    model::{Direction, Family},
    rules::Protocol,
};

/// Where names are asked for.
const DNS: u16 = 53;

pub(super) fn wanted(pod: &PodRow, ask: &Ask, by: Option<&By>, observed: &[EdgeRow]) -> Wanted {
    let Some(intent) = pod.wants.as_deref() else {
        return Wanted {
            mesh: None,
            read_from: None,
            way: Way::NoMesh,
            because: vec!["the pod belongs to no mesh that Sidestep knows".to_owned()],
        };
    };
    let (way, because) = match ask.protocol {
        Protocol::Udp => udp(intent, ask),
        Protocol::Tcp => match by.and_then(|by| proxys(intent, by, observed)) {
            Some(because) => (Way::Direct, vec![because]),
            None => tcp(intent, pod, ask, by),
        },
    };
    Wanted {
        mesh: pod.mesh.clone(),
        read_from: pod.intent_source.clone(),
        way,
        because,
    }
}

fn tcp(intent: &Intent, pod: &PodRow, ask: &Ask, by: Option<&By>) -> (Way, Vec<String>) {
    let own = &pod.ips;
    let to = SocketAddr::new(ask.remote.ip().to_canonical(), ask.remote.port());
    let expectation = match (ask.direction, by) {
        (Direction::Inbound, _) => intent.inbound(to.ip(), ask.port, own),
        (Direction::Outbound, Some(by)) => intent.outbound_by(by.uid, to, own),
        (Direction::Outbound, None) => intent.outbound(to, own),
    };
    match expectation {
        Expectation::Captured { port } => (Way::Captured { port }, captured(intent, ask)),
        Expectation::Exempt { by } => (Way::Direct, vec![exempt(by, ask.direction)]),
    }
}

/// The lines of the intent that are about this connection.
fn captured(intent: &Intent, ask: &Ask) -> Vec<String> {
    let direction = ask.direction.as_str();
    let dns = ask.direction == Direction::Outbound && ask.remote.port() == DNS;
    let about = |line: &&String| {
        line.starts_with(direction)
            || line.starts_with("rules installed")
            || (dns && line.starts_with("DNS"))
    };
    let mut lines: Vec<String> = intent.describe.iter().filter(about).cloned().collect();
    let family = Family::of(ask.remote.ip().to_canonical());
    if let Some(rules) = intent.covers(family).filter(|rules| !rules.installed) {
        lines.push(format!(
            "but no {} rules are installed ({})",
            name(family),
            rules.source
        ));
    }
    lines
}

pub(super) const fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

fn exempt(by: Exemption, direction: Direction) -> String {
    match by {
        Exemption::Local => "it stays inside the pod".to_owned(),
        Exemption::DirectionOff { source } => {
            format!("{} is not captured at all: {source}", direction.as_str())
        }
        Exemption::Listed { source } => source,
        Exemption::MeshPort => {
            "a port, peer or user that the mesh itself leaves alone (health, metrics, tunnel)"
                .to_owned()
        }
    }
}

/// The connection is the proxy's own, as far as its ids tell.
fn proxys(intent: &Intent, by: &By, observed: &[EdgeRow]) -> Option<String> {
    let apps = observed.iter().any(observed::is_apps);
    if by.from == OwnerSource::Seen || apps {
        return None;
    }
    let own = match (
        intent.proxy_uid == Some(by.uid),
        intent.proxy_gid == Some(by.gid),
    ) {
        (true, _) => format!("user {}", by.uid),
        (false, true) => format!("group {}", by.gid),
        (false, false) => return None,
    };
    Some(format!(
        "{own} is the proxy's own, whose connections must get out; an app must not run as it"
    ))
}

fn udp(intent: &Intent, ask: &Ask) -> (Way, Vec<String>) {
    let names = intent.dns.as_ref().filter(|dns| {
        let asks = ask.direction == Direction::Outbound && ask.remote.port() == DNS;
        asks && dns.protocols.contains(&mesh::Protocol::Udp)
    });
    let Some(dns) = names else {
        return (
            Way::Direct,
            vec!["this mesh captures no UDP but name resolution, if that".to_owned()],
        );
    };
    let captured = Way::Captured { port: dns.port };
    let loopback = ask.remote.ip().to_canonical().is_loopback();
    match dns.resolvers {
        Resolvers::All => (captured, vec![dns.source.clone()]),
        Resolvers::Localhost if loopback => (captured, vec![dns.source.clone()]),
        Resolvers::Localhost => (
            Way::Direct,
            vec![format!(
                "only the pod's own loopback is captured: {}",
                dns.source
            )],
        ),
        Resolvers::ResolvConf => (
            Way::Unclear,
            vec![format!(
                "captured if the pod's resolv.conf names this resolver, which is not known here: {}",
                dns.source
            )],
        ),
    }
}
