//! Does this pod belong to this mesh, and what does the mesh mean to capture there?
//!
//! The manifest decides; a proxy's container makes a member, unless a sign says that this
//! one is run without rules on purpose. Without a manifest the proxy's own listening
//! sockets give it away. What cannot be understood must never make a pod no member: it
//! would go unwatched.

use super::{
    capture::Rules,
    intent::{Intent, IntentSource},
    ports::{self, PortSet},
    profile::{Mode, Profile, Setting, Sign},
    read::{Reader, Sourced, parse_bool, parse_id, parse_names},
};
use crate::model::{Container, ContainerKind, Listener, Pod};

/// Whether the pod's manifest was seen: a pod known only from the node has no named containers.
pub(super) fn has_manifest(pod: &Pod) -> bool {
    pod.containers.iter().any(|c| !c.name.is_empty())
}

/// The intent, if the manifest says that the pod is a member.
pub(super) fn by_manifest(profile: &Profile, pod: &Pod) -> Option<Intent> {
    let proxy = named(pod, &profile.members.proxy_containers)?;
    if profile
        .skip
        .iter()
        .any(|sign| shows(sign, pod, Some(proxy)))
    {
        return None;
    }
    // An init container that never ends is a sidecar: it installs nothing.
    let init =
        named(pod, &profile.members.init_containers).filter(|c| c.kind == ContainerKind::Init);
    Some(intent(
        profile,
        pod,
        Some(proxy),
        init,
        IntentSource::Manifest,
    ))
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

fn named<'a>(pod: &'a Pod, names: &[String]) -> Option<&'a Container> {
    pod.containers.iter().find(|c| names.contains(&c.name))
}

fn shows(sign: &Sign, pod: &Pod, proxy: Option<&Container>) -> bool {
    let one_of = |value: Option<&String>, values: &[String]| {
        value.is_some_and(|value| values.is_empty() || values.contains(value))
    };
    match sign {
        Sign::HostNetwork => pod.host_network,
        Sign::Label { key, values } => one_of(pod.labels.get(key), values),
        Sign::Annotation { key, values } => one_of(pod.annotations.get(key), values),
        Sign::ProxyArgument { value } => proxy.is_some_and(|proxy| proxy.args.contains(value)),
    }
}

fn intent(
    profile: &Profile,
    pod: &Pod,
    proxy: Option<&Container>,
    init: Option<&Container>,
    source: IntentSource,
) -> Intent {
    let mut reader = Reader::new(profile, pod, init);
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
    let mut rules = rules(profile, &mut reader);
    (rules.exempt_inbound_ports, rules.exempt_outbound_ports) = (inbound, outbound);
    let mut describe = describe(&rules, outbound_port, inbound_port, init);
    describe.extend(describe_rest(&mut reader, source));
    let members = &profile.members;
    Intent {
        profile: profile.name.clone(),
        source,
        outbound_port,
        inbound_port,
        own_ports: rules.own_ports.clone(),
        proxy_uid: uid,
        proxy_gid: gid,
        proxy_containers: members.proxy_containers.clone(),
        mesh_init_containers: [&members.init_containers[..], &members.helper_containers].concat(),
        inbound_bind: capture.inbound_bind.clone(),
        inbound_keeps_destination: rules.mode.value == Mode::TransparentInbound,
        ipv6_setting: capture.ipv6_setting.clone(),
        describe,
        problems: reader.into_problems(),
        rules,
    }
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
        gid.unwrap_or_else(|| nonzero(followed.and_then(|c| c.run_as_group)).or(capture.proxy_gid)),
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
        .filter(|pods| shows(&pods.sign, pod, proxy))
    {
        inbound = inbound.union(&pods.inbound_ports);
        outbound = outbound.union(&pods.outbound_ports);
    }
    (inbound, outbound)
}

fn rules(profile: &Profile, reader: &mut Reader) -> Rules {
    let mut own_ports = profile.capture.own_ports.clone();
    for port in reader.all(Setting::OwnPort, ports::parse_port) {
        if !own_ports.contains(&port) {
            own_ports.push(port);
        }
    }
    let mode = reader.get(Setting::Mode, |text| profile.mode(text));
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
        exempt_inbound_ports: PortSet::default(),
        exempt_outbound_ports: PortSet::default(),
        inbound_exclusions_need_wildcard: profile.capture.inbound_exclusions_need_wildcard,
        own_ports,
        inbound_bind: profile.capture.inbound_bind.clone(),
    }
}

fn describe(rules: &Rules, out: u16, inn: u16, init: Option<&Container>) -> Vec<String> {
    let by = match init {
        Some(init) => format!("rules installed by init container {}", init.name),
        None => "rules installed from outside the pod (no init container installs them)".to_owned(),
    };
    if rules.mode.value == Mode::Off {
        return vec![format!("nothing is captured ({})", rules.mode.source)];
    }
    vec![outbound_line(rules, out), inbound_line(rules, inn), by]
}

fn outbound_line(rules: &Rules, port: u16) -> String {
    if rules.outbound_is_off() {
        return format!(
            "outbound: not captured ({})",
            rules.include_outbound_ranges.source
        );
    }
    let mut line = format!(
        "outbound: to {} → {port}",
        rules.include_outbound_ranges.value
    );
    note(&mut line, "and ports", &rules.include_outbound_ports, |p| {
        p.is_empty()
    });
    note(
        &mut line,
        "except ports",
        &rules.exclude_outbound_ports,
        |p| p.is_empty(),
    );
    note(
        &mut line,
        "except ranges",
        &rules.exclude_outbound_ranges,
        |n| n.is_empty(),
    );
    line
}

fn inbound_line(rules: &Rules, port: u16) -> String {
    let include = &rules.include_inbound_ports;
    if include.value.is_empty() {
        return format!("inbound: not captured ({})", include.source);
    }
    let mut line = format!("inbound: ports {} → {port}", include.value);
    if rules.inbound_exclusions_count() {
        note(
            &mut line,
            "except ports",
            &rules.exclude_inbound_ports,
            |p| p.is_empty(),
        );
    }
    note(
        &mut line,
        "except peers",
        &rules.exclude_inbound_ranges,
        |n| n.is_empty(),
    );
    line
}

fn note<T: std::fmt::Display>(
    line: &mut String,
    what: &str,
    list: &Sourced<T>,
    is_empty: impl Fn(&T) -> bool,
) {
    if !is_empty(&list.value) {
        line.push_str(&format!(", {what} {} ({})", list.value, list.source));
    }
}

fn describe_rest(reader: &mut Reader, source: IntentSource) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(names) = reader.get(Setting::ExcludeInterfaces, parse_names)
        && !names.value.is_empty()
    {
        lines.push(format!(
            "interfaces {} are left alone ({}); which interface a connection takes is not known here",
            names.value.join(", "),
            names.source
        ));
    }
    if let Some(names) = reader.get(Setting::RerouteInterfaces, parse_names)
        && !names.value.is_empty()
    {
        lines.push(format!(
            "inbound of interfaces {} is captured as outbound ({})",
            names.value.join(", "),
            names.source
        ));
    }
    if let Some(six) = reader.get(Setting::Ipv6, parse_bool) {
        let rules = if six.value {
            "rules are"
        } else {
            "no rules are"
        };
        lines.push(format!("IPv6: {rules} installed ({})", six.source));
    }
    if source == IntentSource::Listeners {
        lines.push("known only by the proxy's listening sockets: exclusions in the pod's manifest are not known".to_owned());
    }
    lines
}
