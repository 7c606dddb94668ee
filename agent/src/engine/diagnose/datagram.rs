//! Flows over UDP that leave the pod: queries the mesh should answer, and HTTP/3.
//!
//! Only a query that was meant to be captured is wrong; HTTP/3 is beyond every mesh and only
//! worth knowing. Where connections go around the proxy as well, they have the same cause:
//! one finding, and it is theirs.

use std::net::{IpAddr, SocketAddr};

use super::Scene;
use crate::{
    engine::{
        Code,
        directory::{PodEntry, PodId},
        edges::Comm,
        evidence::Sample,
        explain,
        facts::View,
        findings::{Case, Findings, Render},
        rulebook::Read,
        verdict::Expected,
    },
    mesh::Intent,
    model::{Arrival, Datagrams, Direction, Family, NO_ID, Time},
    rules::{self, Connection, Protocol, Redirector, Ruleset},
};

/// Name resolution.
const DNS: u16 = 53;
/// HTTP/3.
const QUIC: u16 = 443;

/// A flow over UDP of a pod.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Flow<'a> {
    told: &'a Datagrams,
    container: Option<u16>,
    /// Addresses of the pod.
    own: &'a [IpAddr],
}

impl<'a> Flow<'a> {
    pub(in crate::engine) const fn new(
        told: &'a Datagrams,
        container: Option<u16>,
        own: &'a [IpAddr],
    ) -> Self {
        Self {
            told,
            container,
            own,
        }
    }

    fn connection(&self) -> Connection {
        explain::connection(Protocol::Udp, &self.told.key, self.own, None)
    }

    fn sample(&self) -> Sample {
        Sample {
            process: Comm::of(&self.told.process),
            container: self.container,
            ..Sample::made(&self.told.key, self.told.flows)
        }
    }

    /// The port that should have captured it, if it was a query that one should.
    fn query_port(&self, intent: &Intent) -> Option<u16> {
        let key = &self.told.key;
        intent.query_by(key.owner.uid, key.remote, self.own)
    }
}

/// Whether the ids are the proxy's: such a process has a finding of its own.
fn has_proxys_ids(flow: &Flow<'_>, intent: &Intent) -> bool {
    let owner = &flow.told.key.owner;
    Some(owner.uid) == intent.proxy_uid || Some(owner.gid) == intent.proxy_gid
}

/// Whether it is a query that went elsewhere than the spec wants.
pub(in crate::engine) fn is_past_resolver(flow: &Flow<'_>, view: &View, scene: &Scene<'_>) -> bool {
    let Some(port) = flow.query_port(scene.intent) else {
        return false;
    };
    let astray = match flow.told.key.arrival {
        Arrival::Nowhere => true,
        Arrival::Decided(to) => to != port && !scene.intent.own_ports.contains(&to),
        // Sent to another address: whoever wrote that rule meant it.
        _ => false,
    };
    astray && view.expected != Expected::Off && !has_proxys_ids(flow, scene.intent)
}

/// Whether these rules capture a query that was seen not to be captured.
pub(in crate::engine) fn would_capture(rules: &Ruleset, flow: &Flow<'_>, intent: &Intent) -> bool {
    let port = flow.query_port(intent);
    port.is_some() && rules::evaluate(rules, &flow.connection()).redirected_to() == port
}

/// A flow of an app left the pod, or was redirected in it.
pub(in crate::engine) fn datagram(
    at: Time,
    pod: PodId,
    flow: &Flow<'_>,
    view: &View,
    scene: &Scene<'_>,
    findings: &mut Findings,
) {
    if is_told_otherwise(pod, findings) {
        return;
    }
    let key = &flow.told.key;
    if is_past_resolver(flow, view, scene) {
        let case = findings.note(at, Some(pod), Code::BypassDns);
        case.add(&flow.sample());
        if let Arrival::Decided(port) = key.arrival {
            case.state(at, "redirected_to", format!("local port {port}"));
            case.witnesses.insert("NAT decided to redirect elsewhere");
        } else {
            case.witnesses.insert("NAT took no decision to redirect");
        }
        spec_facts(at, case, scene.intent);
        rule_facts(at, case, flow, scene);
    } else if is_quic(flow, view, scene.intent) {
        let case = findings.note(at, Some(pod), Code::BypassQuic);
        case.add(&flow.sample());
        case.witnesses.insert("NAT took no decision to redirect");
    }
}

fn is_quic(flow: &Flow<'_>, view: &View, intent: &Intent) -> bool {
    let key = &flow.told.key;
    key.remote.port() == QUIC
        && key.arrival == Arrival::Nowhere
        && view.expected == Expected::Captured
        && !has_proxys_ids(flow, intent)
}

/// Codes of which lost queries are one more symptom.
const ROOTS: [Code; 6] = [
    Code::BypassNoRules,
    Code::BypassRulesPartial,
    Code::BypassRulesRemoved,
    Code::BypassRulesBackend,
    Code::BypassBeforeRules,
    Code::BypassAmbientLost,
];

pub(super) fn is_told_otherwise(pod: PodId, findings: &Findings) -> bool {
    ROOTS.iter().any(|code| {
        let case = findings.get(pod, *code);
        case.is_some_and(|case| case.is_current() && case.is_about(Direction::Outbound))
    })
}

/// A connection went around the proxy by this cause: it is the cause of lost queries, too.
pub(super) fn explained_by(
    at: Time,
    pod: PodId,
    code: Code,
    findings: &mut Findings,
    render: Render<'_>,
) {
    if ROOTS.contains(&code) && is_told_otherwise(pod, findings) {
        findings.resolve(at, Some(pod), Code::BypassDns, render);
        findings.resolve(at, Some(pod), Code::BypassQuic, render);
        findings.resolve(at, Some(pod), Code::BypassSocketLb, render);
    }
}

fn spec_facts(at: Time, case: &mut Case, intent: &Intent) {
    if let Some(dns) = &intent.dns {
        let text = format!("queries go to port {} by {}", dns.port, dns.source);
        case.state(at, "intended", text);
    }
}

fn rule_facts(at: Time, case: &mut Case, flow: &Flow<'_>, scene: &Scene<'_>) {
    let family = Family::of(flow.told.key.remote.ip());
    let now = scene.live_rules();
    let Some(now) = now.filter(|now| now.is_known(family)) else {
        return;
    };
    let path = rules::evaluate(&now.rules, &flow.connection());
    if let Some(step) = &path.decided_by {
        case.state(at, "rule", step.to_string());
    }
    let port = flow.query_port(scene.intent).unwrap_or_default();
    let all = rules::redirectors(&now.rules, Direction::Outbound, family, Protocol::Udp);
    case.state(at, "rules_for_queries", about_port(&all, port));
    if path.outcome == rules::Outcome::Direct || path.redirected_to().is_some() {
        case.witnesses.insert("live rules of the network namespace");
    }
}

/// What the rules that lead to the port of the mesh's resolver look like.
fn about_port(all: &[Redirector], port: u16) -> String {
    let ours: Vec<&Redirector> = all.iter().filter(|r| r.sends_to(port)).collect();
    match ours.iter().find(|r| r.reached).or_else(|| ours.first()) {
        None => format!("none leads to port {port}"),
        Some(rule) if rule.reached => rule.step.to_string(),
        Some(rule) => format!("{}, and nothing leads to this rule", rule.step),
    }
}

/// The rules of a pod are known: queries over UDP cannot always be seen, but rules that
/// capture connections and no query at all are wrong where the spec wants queries captured.
pub(in crate::engine) fn dns_rules(
    at: Time,
    pod: PodId,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    match query_rules(scene) {
        QueryRules::None(text) if !is_told_otherwise(pod, findings) => {
            let case = findings.note(at, Some(pod), Code::BypassDns);
            *case.about.get_mut(Direction::Outbound, Family::Ipv4) = true;
            case.stands = true;
            case.state(at, "rules_for_queries", text);
            case.witnesses.insert("live rules of the network namespace");
            spec_facts(at, case, scene.intent);
        }
        QueryRules::Some(since) => {
            // What was seen before is of other rules; what was told by traffic ends with it.
            let over = |case: &Case| case.stands || !case.is_open() && case.last <= since;
            if findings.get(pod, Code::BypassDns).is_some_and(over) {
                findings.resolve(at, Some(pod), Code::BypassDns, render);
            }
        }
        QueryRules::None(_) | QueryRules::Unknown => {}
    }
}

/// What the rules that capture a pod's connections do to its queries.
enum QueryRules {
    /// Not known, not meant, or nothing at all is captured: that is another matter.
    Unknown,
    /// Some are captured, since then.
    Some(Time),
    /// None is: what there is instead.
    None(String),
}

fn query_rules(scene: &Scene<'_>) -> QueryRules {
    let intent = scene.intent;
    // Any resolver outside will do: no list of ranges counts for queries.
    let any = SocketAddr::new(IpAddr::from([203, 0, 113, 53]), DNS);
    let known = |read: &&Read| read.is_known(Family::Ipv4) && read.is_known(Family::Ipv6);
    let now = scene.live_rules();
    let (Some(now), Some(port)) = (now.filter(known), intent.query_by(NO_ID, any, &[])) else {
        return QueryRules::Unknown;
    };
    let of =
        |family, protocol| rules::redirectors(&now.rules, Direction::Outbound, family, protocol);
    let four = of(Family::Ipv4, Protocol::Udp);
    let six = of(Family::Ipv6, Protocol::Udp);
    let reached = |r: &&Redirector| r.reached;
    // A rule that leaves the port as it is may send queries to a resolver elsewhere.
    let queries = |r: &Redirector| r.sends_to(port) || r.sends_to(DNS) || r.ports.is_none();
    if four.iter().chain(&six).filter(reached).any(queries) {
        return QueryRules::Some(now.first);
    }
    let connections = of(Family::Ipv4, Protocol::Tcp);
    let captures = |r: &Redirector| r.sends_to(intent.outbound_port);
    match connections.iter().filter(reached).any(captures) {
        true => QueryRules::None(about_port(&four, port)),
        false => QueryRules::Unknown,
    }
}

/// What is wrong, in one sentence.
pub(super) fn summary(case: &Case, pod: &str, to: &str) -> String {
    let n = case.connections;
    match case.code {
        Code::BypassQuic => {
            format!("{pod} talks to {to} over UDP (HTTP/3), which no sidecar sees: {n} flows")
        }
        _ if n == 0 => format!(
            "the rules of {pod} capture its connections and none of its name queries over UDP"
        ),
        _ => format!("{n} name queries of {pod} went around the mesh's resolver, to {to}"),
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, entry: Option<&PodEntry>, container: &str) -> String {
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    let top = case.destinations.most(1);
    let to = top
        .first()
        .map_or_else(|| "others".to_owned(), |(d, _)| d.to_string());
    if case.code == Code::BypassQuic {
        return format!(
            "If this is meant, nothing. If policy or telemetry of the mesh shall hold for it, turn HTTP/3 off in {container}, or forbid UDP to port {QUIC} by a network policy: clients fall back to TCP, which is captured."
        );
    }
    let rules = format!(
        "Delete {pod} so that it is made again with rules for port {DNS}, and check that what installs them (init container or CNI plugin) was given the setting."
    );
    let none = case
        .fact("rules_for_queries")
        .is_some_and(|text| text.starts_with("none ") || text.ends_with("this rule"));
    if none || case.connections == 0 {
        return rules;
    }
    format!(
        "The rules capture queries to some resolvers only, mostly those of the pod's /etc/resolv.conf: let {container} use them in place of {to}, or capture port {DNS} to any address (in most meshes by the CNI plugin in place of the init container). {rules}"
    )
}
