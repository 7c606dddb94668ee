//! Does this pod belong to this mesh, and what does the mesh mean to capture there?
//!
//! The manifest decides; a proxy's container makes a member, unless a sign says that this
//! one is run without rules on purpose. Without a manifest the proxy's own listening
//! sockets give it away. What cannot be understood must never make a pod no member: it
//! would go unwatched.

use super::{
    capture::Rules,
    describe, families,
    intent::{DnsCapture, Intent, IntentSource, SharedId},
    ports::{self, PortSet},
    profile::{Mode, Place, Profile},
    read::{Reader, Sourced, parse_bool, parse_id, parse_names},
    setting::Setting,
    users,
};
use crate::model::{Container, ContainerKind, Listener, Pod};

/// Whether the pod's manifest was seen: a pod known only from the node has no named containers.
pub(super) fn has_manifest(pod: &Pod) -> bool {
    pod.containers.iter().any(|c| !c.name.is_empty())
}

/// The intent, if the manifest says that the pod is a member.
pub(super) fn by_manifest(profile: &Profile, pod: &Pod) -> Option<Intent> {
    let proxy = named(pod, &profile.members.proxy_containers);
    if !has_marks(profile, pod) || is_skipped(profile, pod) {
        return None;
    }
    // An init container that never ends is a sidecar: it installs nothing.
    let init =
        named(pod, &profile.members.init_containers).filter(|c| c.kind == ContainerKind::Init);
    Some(intent(profile, pod, proxy, init, IntentSource::Manifest))
}

/// The intent, if the proxy's own capture ports are open in the pod's namespace.
pub(super) fn by_listeners(
    profile: &Profile,
    pod: &Pod,
    listeners: &[(Listener, u32)],
) -> Option<Intent> {
    let capture = &profile.capture;
    let ports = [capture.outbound_port, capture.inbound_port];
    let uid = capture.proxy_uid?;
    let shown = listeners
        .iter()
        .any(|(listener, owner)| *owner == uid && ports.contains(&listener.port));
    (shown && !pod.host_network).then(|| intent(profile, pod, None, None, IntentSource::Listeners))
}

/// Whether the pod has the mesh's proxy, or a sign that stands for it.
pub(super) fn has_marks(profile: &Profile, pod: &Pod) -> bool {
    let members = &profile.members;
    named(pod, &members.proxy_containers).is_some()
        || members.signs.iter().any(|sign| sign.shows(pod, None))
}

fn mark(profile: &Profile, pod: &Pod) -> Option<String> {
    let mut signs = profile.members.signs.iter();
    let sign = signs.find(|sign| sign.shows(pod, None))?;
    Some(sign.describe(pod))
}

/// Whether the pod is no member whatever else it shows.
pub(super) fn is_skipped(profile: &Profile, pod: &Pod) -> bool {
    let proxy = named(pod, &profile.members.proxy_containers);
    profile.skip.iter().any(|sign| sign.shows(pod, proxy))
}

pub(super) fn named<'a>(pod: &'a Pod, names: &[String]) -> Option<&'a Container> {
    pod.containers.iter().find(|c| names.contains(&c.name))
}

fn intent(
    profile: &Profile,
    pod: &Pod,
    proxy: Option<&Container>,
    init: Option<&Container>,
    source: IntentSource,
) -> Intent {
    let mut reader = Reader::new(profile, pod, proxy, init);
    let capture = &profile.capture;
    let port = |reader: &mut Reader, setting, default| {
        reader
            .get(setting, ports::parse_port)
            .map_or(default, |s| s.value)
    };
    let outbound_port = port(&mut reader, Setting::OutboundPort, capture.outbound_port);
    let inbound_port = port(&mut reader, Setting::InboundPort, capture.inbound_port);
    let (uid, gid) = ids(profile, proxy, &mut reader);
    let (inbound, outbound) = exempt(profile, pod, proxy, init);
    let mut rules = rules(profile, &mut reader, init);
    (rules.exempt_inbound_ports, rules.exempt_outbound_ports) =
        (inbound.union(&own_inbound(&mut reader)), outbound);
    let families = families::of(profile, pod, &mut reader);
    let mut describe = describe::rules(&rules, outbound_port, inbound_port, init);
    describe.extend(describe::rest(&mut reader, &families, source));
    let members = &profile.members;
    Intent {
        profile: profile.name.clone(),
        source,
        outbound_port,
        inbound_port,
        own_ports: rules.own_ports.clone(),
        control_ports: capture.control_ports.clone(),
        proxy_uid: uid,
        proxy_gid: gid,
        proxy_containers: members.proxy_containers.clone(),
        mesh_init_containers: [&members.init_containers[..], &members.helper_containers].concat(),
        inbound_bind: capture.inbound_bind.clone(),
        inbound_keeps_destination: rules.mode.value == Mode::TransparentInbound,
        mesh_users: mesh_users(profile, pod),
        mark: mark(profile, pod),
        node_proxy: capture.proxy == Place::Node,
        tunnel_port: capture.tunnel_port,
        mark_table: capture.mark_table,
        inbound_keeps_source: capture.inbound_keeps_source
            || rules.mode.value == Mode::TransparentInbound,
        dns: rules.dns.clone(),
        families,
        shared_ids: shared_ids(profile, pod, (uid, gid)),
        ipv6_setting: capture.ipv6_setting.clone(),
        describe,
        problems: reader.into_problems(),
        rules,
    }
}

/// Containers that run beside the proxy with one of its ids. Init containers do so on purpose.
fn shared_ids(profile: &Profile, pod: &Pod, ids: (Option<u32>, Option<u32>)) -> Vec<SharedId> {
    let members = &profile.members;
    let is_mesh = |c: &&Container| {
        let own = [
            &members.proxy_containers,
            &members.init_containers,
            &members.helper_containers,
        ];
        own.iter().any(|names| names.contains(&c.name))
    };
    let beside = pod
        .containers
        .iter()
        .filter(|c| c.kind != ContainerKind::Init && !is_mesh(c));
    let mut shared = Vec::new();
    for c in beside {
        let fields = [
            ("runAsUser", c.run_as_user, ids.0),
            ("runAsGroup", c.run_as_group, ids.1),
        ];
        let same = fields
            .into_iter()
            .find(|(_, own, rule)| own.is_some() && own == rule);
        if let Some((field, Some(id), _)) = same {
            let container = c.name.clone();
            shared.push(SharedId {
                container,
                field,
                id,
            });
        }
    }
    shared
}

/// Users of the mesh's own init containers; root is everybody's.
fn mesh_users(profile: &Profile, pod: &Pod) -> Vec<u32> {
    let members = &profile.members;
    let own = [&members.init_containers, &members.helper_containers];
    let own = |c: &&Container| own.iter().any(|names| names.contains(&c.name));
    let users = pod
        .containers
        .iter()
        .filter(own)
        .filter_map(|c| c.run_as_user);
    users.filter(|uid| *uid != 0).collect()
}

/// Ports of the proxy itself that the rules leave alone because a setting names them.
fn own_inbound(reader: &mut Reader) -> PortSet {
    let ports = reader.all(Setting::InboundOwnPort, ports::parse_port);
    PortSet::Only(ports.into_iter().map(|port| port..=port).collect())
}

/// Ids the rules leave alone: an argument or annotation, the proxy container's own where the
/// mesh follows it, the profile's.
fn ids(
    profile: &Profile,
    proxy: Option<&Container>,
    reader: &mut Reader,
) -> (Option<u32>, Option<u32>) {
    let capture = &profile.capture;
    let followed = proxy.filter(|_| capture.ids_from_container);
    let nonzero = |id: Option<u32>| id.filter(|id| *id != 0);
    let uid = reader.get(Setting::ProxyUid, parse_id).map(|s| s.value);
    let gid = reader.get(Setting::ProxyGid, parse_id).map(|s| s.value);
    (
        uid.unwrap_or_else(|| nonzero(followed.and_then(|c| c.run_as_user)).or(capture.proxy_uid)),
        gid.unwrap_or_else(|| {
            // Where the rules know no group, the container's is nobody's business.
            let known = capture.proxy_gid?;
            nonzero(followed.and_then(|c| c.run_as_group)).or(Some(known))
        }),
    )
}

/// Ports left alone whatever the settings say, inbound and outbound.
fn exempt(
    profile: &Profile,
    pod: &Pod,
    proxy: Option<&Container>,
    init: Option<&Container>,
) -> (PortSet, PortSet) {
    let exempt = &profile.exempt;
    let always = (exempt.inbound_ports.clone(), exempt.outbound_ports.clone());
    if init.is_some() {
        return always;
    }
    let (mut inbound, mut outbound) = always;
    inbound = inbound.union(&exempt.inbound_ports_without_init);
    for pods in exempt
        .pods_without_init
        .iter()
        .filter(|pods| pods.sign.shows(pod, proxy))
    {
        inbound = inbound.union(&pods.inbound_ports);
        outbound = outbound.union(&pods.outbound_ports);
    }
    (inbound, outbound)
}

fn rules(profile: &Profile, reader: &mut Reader, init: Option<&Container>) -> Rules {
    let mut own_ports = profile.capture.own_ports.clone();
    let named = reader.all(Setting::OwnPort, ports::parse_port);
    let inbound = reader.all(Setting::InboundOwnPort, ports::parse_port);
    for port in named.into_iter().chain(inbound) {
        if !own_ports.contains(&port) {
            own_ports.push(port);
        }
    }
    let mode = reader.get(Setting::Mode, |text| profile.mode(text));
    let capture_inbound = inbound_switch(reader);
    let capture_outbound = reader.get(Setting::CaptureOutbound, parse_bool);
    let users = [
        reader.get(Setting::ExcludeUids, users::parse_ids),
        reader.get(Setting::ExcludePortsForUids, users::parse_rules),
    ];
    let dns = dns(profile, reader, init);
    let mut ports = |setting| reader.get(setting, str::parse).unwrap_or_default();
    let include_inbound_ports = ports(Setting::IncludeInboundPorts);
    let exclude_inbound_ports = ports(Setting::ExcludeInboundPorts);
    let include_outbound_ports = ports(Setting::IncludeOutboundPorts);
    let exclude_outbound_ports = ports(Setting::ExcludeOutboundPorts);
    let mut ranges = |setting| reader.get(setting, str::parse).unwrap_or_default();
    Rules {
        mode: mode.unwrap_or(Sourced {
            value: Mode::Redirect,
            source: format!("default of profile {}", profile.name),
        }),
        include_inbound_ports,
        exclude_inbound_ports,
        exclude_inbound_ranges: ranges(Setting::ExcludeInboundRanges),
        include_outbound_ports,
        exclude_outbound_ports,
        include_outbound_ranges: ranges(Setting::IncludeOutboundRanges),
        exclude_outbound_ranges: ranges(Setting::ExcludeOutboundRanges),
        capture_inbound: capture_inbound.unwrap_or_else(on),
        capture_outbound: capture_outbound.unwrap_or_else(on),
        users: users.into_iter().flatten().collect(),
        exempt_inbound_ranges: profile.exempt.inbound_ranges.clone(),
        exempt_outbound_ranges: profile.exempt.outbound_ranges.clone(),
        exempt_inbound_ports: PortSet::default(),
        exempt_outbound_ports: PortSet::default(),
        inbound_exclusions_need_wildcard: profile.capture.inbound_exclusions_need_wildcard,
        own_ports,
        inbound_bind: profile.capture.inbound_bind.clone(),
        local: profile.capture.local,
        exclude_interfaces: reader
            .get(Setting::ExcludeInterfaces, parse_names)
            .unwrap_or_default(),
        reroute_interfaces: reader
            .get(Setting::RerouteInterfaces, parse_names)
            .unwrap_or_default(),
        dns,
    }
}

fn on() -> Sourced<bool> {
    Sourced {
        value: true,
        source: String::new(),
    }
}

/// Two spellings of one switch: one turns capture on, the other one off.
fn inbound_switch(reader: &mut Reader) -> Option<Sourced<bool>> {
    let left = reader.get(Setting::LeaveInbound, parse_bool);
    let left = left.filter(|left| left.value).map(|left| Sourced {
        value: false,
        source: left.source,
    });
    left.or_else(|| reader.get(Setting::CaptureInbound, parse_bool))
}

fn dns(profile: &Profile, reader: &mut Reader, init: Option<&Container>) -> Option<DnsCapture> {
    let dns = profile.capture.dns.as_ref()?;
    let said = reader.get(Setting::DnsCapture, parse_bool);
    let port = reader.get(Setting::DnsPort, ports::parse_port);
    let said = said.unwrap_or_else(|| Sourced {
        value: dns.by_default,
        source: format!("default of profile {}", profile.name),
    });
    let from_outside = dns.resolvers_without_init.filter(|_| init.is_none());
    said.value.then(|| DnsCapture {
        port: port.map_or(dns.port, |port| port.value),
        protocols: dns.protocols.clone(),
        resolvers: from_outside.unwrap_or(dns.resolvers),
        source: said.source,
    })
}
