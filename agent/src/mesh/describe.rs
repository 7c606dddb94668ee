//! An intent in words: what is captured, what is not, and what says so.
//!
//! For `sidestep pods` and for evidence. Every line names the text of the pod it comes from,
//! because that text is what a person would change.

use super::{
    capture::Rules,
    intent::{DnsCapture, FamilyRules, IntentSource},
    profile::{Mode, Protocol, Resolvers},
    read::{Reader, Sourced, parse_names},
    setting::Setting,
};
use crate::model::{Container, Family};

pub(super) fn rules(rules: &Rules, out: u16, inn: u16, init: Option<&Container>) -> Vec<String> {
    let by = match init {
        Some(init) => format!("rules installed by init container {}", init.name),
        None => "rules installed from outside the pod (no init container installs them)".to_owned(),
    };
    if rules.mode.value == Mode::Off {
        return vec![format!("nothing is captured ({})", rules.mode.source)];
    }
    let mut lines = vec![outbound_line(rules, out), inbound_line(rules, inn), by];
    lines.extend(
        rules
            .users
            .iter()
            .filter(|u| !u.value.is_empty())
            .map(|users| format!("some users are left alone ({})", users.source)),
    );
    lines.extend(rules.dns.as_ref().map(dns_line));
    lines
}

fn dns_line(dns: &DnsCapture) -> String {
    let names = dns.protocols.iter().map(|protocol| match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    });
    let over = names.collect::<Vec<_>>().join(" and ");
    let of = match dns.resolvers {
        Resolvers::All => "all resolvers",
        Resolvers::ResolvConf => "the resolvers of resolv.conf",
        Resolvers::Localhost => "the pod's own loopback",
    };
    format!(
        "DNS: port 53 of {of} over {over} → {} ({})",
        dns.port, dns.source
    )
}

fn outbound_line(rules: &Rules, port: u16) -> String {
    if !rules.capture_outbound.value {
        return format!("outbound: not captured ({})", rules.capture_outbound.source);
    }
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
    if !rules.capture_inbound.value {
        return format!("inbound: not captured ({})", rules.capture_inbound.source);
    }
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

pub(super) fn rest(
    reader: &mut Reader,
    families: &[FamilyRules],
    source: IntentSource,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(names) = reader.get(Setting::ExcludeInterfaces, parse_names)
        && !names.value.is_empty()
    {
        lines.push(format!(
            "interfaces {} are left alone ({})",
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
    for rules in families {
        let (name, what) = match (rules.family, rules.installed) {
            (Family::Ipv4, true) => ("IPv4", "rules are"),
            (Family::Ipv4, false) => ("IPv4", "no rules are"),
            (Family::Ipv6, true) => ("IPv6", "rules are"),
            (Family::Ipv6, false) => ("IPv6", "no rules are"),
        };
        lines.push(format!("{name}: {what} installed ({})", rules.source));
    }
    if source == IntentSource::Listeners {
        lines.push("known only by the proxy's listening sockets: exclusions in the pod's manifest are not known".to_owned());
    }
    lines
}
