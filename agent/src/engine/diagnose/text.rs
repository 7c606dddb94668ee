//! A case as people read it: one sentence, the facts, and what to change.
//!
//! Everything shown was counted or seen; nothing is computed here that could be wrong in
//! another way than the case itself. Words that differ between meshes come from the intent.

use super::{
    Scene,
    remedy::remedy,
    words::{captured, listeners, plural},
};
use crate::{
    engine::{
        Code, Evidence, Finding, FindingState,
        directory::PodEntry,
        findings::{Case, State},
    },
    model::{Direction, Family, NO_ID},
};

/// Values of one kind shown; the rest is summed up.
const SHOWN: usize = 5;

/// Draws the finding of a case. `entry` is its pod; `scene` is missing if that has no intent.
pub(in crate::engine) fn render(
    case: &Case,
    entry: Option<&PodEntry>,
    scene: Option<&Scene<'_>>,
) -> Finding {
    if let State::Resolved(_, finding) = &case.state {
        return (**finding).clone();
    }
    Finding {
        code: case.code,
        severity: super::ports::severity(case),
        confidence: case.confidence(),
        pod: entry.map(|e| e.pod.key.clone()),
        workload: entry.and_then(|e| e.pod.workload.clone()),
        container: container(case, entry),
        direction: case.direction(),
        summary: summary(case, entry),
        evidence: evidence(case, entry, scene),
        remedy: remedy(case, entry, scene),
        connections: case.connections,
        first_seen: case.first,
        last_seen: case.last,
        state: FindingState::Open,
    }
}

fn container(case: &Case, entry: Option<&PodEntry>) -> Option<String> {
    let (most, _) = case.containers.most(1).into_iter().next()?;
    let container = entry?.container(Some(most))?;
    Some(container.name.clone())
}

// lint: long because it is one table, an arm for each code.
fn summary(case: &Case, entry: Option<&PodEntry>) -> String {
    let pod = entry.map_or_else(String::new, |e| e.pod.key.to_string());
    let n = plural(case.connections, "connection");
    let top = case.destinations.most(1);
    let to = top
        .first()
        .map_or_else(|| "its destination".to_owned(), |(d, _)| d.to_string());
    let ids = case.ids.most(1).first().map_or((0, 0), |(ids, _)| *ids);
    let who =
        container(case, entry).map_or_else(|| "a process".to_owned(), |c| format!("container {c}"));
    match case.code {
        Code::BypassNoRules => format!(
            "{n} of {pod} went around the proxy: {}",
            nothing_redirected(case)
        ),
        Code::BypassRulesPartial => partial(case, &n, &pod),
        Code::BypassRulesBackend => format!(
            "{n} of {pod} went around the proxy: two netfilter backends redirect here, and not alike"
        ),
        Code::BypassRulesRemoved => {
            format!("the rules of {pod} were removed while it ran: {n} went around the proxy since")
        }
        Code::BypassBeforeRules => {
            format!("{n} of {pod} went around the proxy because they are older than its rules")
        }
        Code::BypassProxyUid => format!(
            "{who} of {pod} runs as the proxy's user {}, so the rules let its connections past the proxy",
            ids.0
        ),
        Code::BypassProxyGid => format!(
            "{who} of {pod} runs with the proxy's group {}, so the rules let its connections past the proxy",
            ids.1
        ),
        Code::BypassIpv6 => format!("IPv6 of {pod} is not captured: {n} went around the proxy"),
        Code::BypassExcluded => format!("{n} of {pod} left by an exclusion of its spec"),
        Code::BypassInboundDirect => format!(
            "peers reach {pod} past the proxy: {n} accepted by {who} itself on port {}",
            top.first().map_or(0, |(d, _)| d.port())
        ),
        Code::BypassSharedUid
        | Code::BypassInboundEmpty
        | Code::BypassInitContainer
        | Code::BypassUnmeshed
        | Code::BypassHostNetwork
        | Code::MeshConflict => super::spec::summary(case, &pod, &n, &who),
        Code::BypassDns | Code::BypassQuic => super::datagram::summary(case, &pod, &to),
        Code::BypassSocketLb => super::rewrite::summary(case, &pod, &n, &to),
        Code::BypassAmbientLost => super::ambient::summary(case, &pod, &n),
        Code::BypassUnknown => unknown(case, &n, &pod),
        Code::StuckNoListener => format!(
            "{}: connections of {pod} are redirected to a port where nobody listens",
            ports(case)
        ),
        Code::StuckNotAccepting => {
            format!("the proxy of {pod} listens but accepts nothing: {n} waiting")
        }
        Code::StuckControlPlane => super::control::summary(case, &pod, &to),
        Code::FailEphemeralPorts => super::ports::summary(case, &pod, &to),
        Code::FailConntrackFull => super::tables::summary(case, &pod),
        Code::FailInvalidPackets => super::tables::invalid_summary(case, &pod),
        Code::FailTupleCollision => super::collide::summary(case, &pod, &n),
        Code::SidecarThrottled => super::throttle::summary(case, &pod),
        Code::StuckAcceptQueue
        | Code::StuckUnread
        | Code::StuckUpstreamSilent
        | Code::StuckNoUpstream
        | Code::StuckHalfClosed => super::hang_text::summary(case, &pod, &n, &to),
        Code::StuckStartupGap | Code::SidecarNotReady | Code::InitFailed => {
            super::status::summary(case, &pod, &n, entry.map(|e| e.since))
        }
        Code::StuckUpstreamRefused => format!("{to} refuses the proxy of {pod}"),
        Code::StuckAppRefused => format!("the proxy of {pod} is refused by its own app at {to}"),
        Code::StuckUpstreamTimeout | Code::StuckUpstreamReset | Code::FailNetfilterDrop => {
            super::lost::summary(case, &pod, &n, &to)
        }
        Code::AgentDegraded | Code::AgentOverload | Code::AgentUnattributed => {
            super::agent::summary(case)
        }
    }
}

fn partial(case: &Case, n: &str, pod: &str) -> String {
    let why = if let Some(to) = case.fact("redirected_to") {
        format!("the rules redirect them to {to}")
    } else if case.fact("chain_not_reached").is_some() {
        "the rules that redirect are there, and nothing leads to them".to_owned()
    } else if case.fact("rule").is_some() {
        "a rule lets them go that the spec does not ask for".to_owned()
    } else {
        "the rules are there, and none of them redirects these".to_owned()
    };
    format!("{n} of {pod} went around the proxy: {why}")
}

fn unknown(case: &Case, n: &str, pod: &str) -> String {
    if let Some(to) = case.fact("redirected_to") {
        return format!("{n} of {pod} were redirected to {to}");
    }
    let why = match (case.fact("rules_not_clear"), case.fact("evaluation")) {
        (Some(_), _) => "a rule has a condition that is not understood",
        (None, Some(_)) => "its rules do not explain it",
        (None, None) => "the reason was not found",
    };
    format!("{n} of {pod} went around the proxy although others were captured before; {why}")
}

fn nothing_redirected(case: &Case) -> String {
    let families = families(case);
    let way = match case.direction() {
        Some(d) => d.as_str(),
        None => "inbound or outbound",
    };
    format!("nothing {way} over {families} is redirected in this pod")
}

fn families(case: &Case) -> &'static str {
    let has = |f| *case.about.get(Direction::Outbound, f) || *case.about.get(Direction::Inbound, f);
    match (has(Family::Ipv4), has(Family::Ipv6)) {
        (true, true) => "IPv4 or IPv6",
        (_, true) => "IPv6",
        _ => "IPv4",
    }
}

/// The ports a case is about.
fn ports(case: &Case) -> String {
    let ports: Vec<String> = case.ports.iter().map(u16::to_string).collect();
    let plural = if ports.len() == 1 { "" } else { "s" };
    format!("port{plural} {}", ports.join(" and "))
}

fn evidence(case: &Case, entry: Option<&PodEntry>, scene: Option<&Scene<'_>>) -> Vec<Evidence> {
    let mut list = Vec::new();
    let mut push = |what: &str, value: String| {
        list.push(Evidence {
            what: what.to_owned(),
            value,
        });
    };
    if case.connections > 0 {
        let datagrams = matches!(case.code, Code::BypassDns | Code::BypassQuic);
        let what = ["connections", "flows"][usize::from(datagrams)];
        push(what, counts(case));
    }
    let what = if case.direction() == Some(Direction::Inbound) {
        "peer"
    } else {
        "destination"
    };
    for (destination, n) in case.destinations.most(SHOWN) {
        push(what, format!("{destination} ({n})"));
    }
    let (held, others) = case.destinations.size();
    if held > SHOWN || others > 0 {
        push(what, format!("and {} more", held.saturating_sub(SHOWN)));
    }
    for (process, n) in case.processes.most(SHOWN) {
        push("process", format!("{} ({n})", process.show()));
    }
    for (ids, n) in case.ids.most(3) {
        push("credentials", format!("{} ({n})", show_ids(ids)));
    }
    for (ix, n) in case.containers.most(3) {
        if let Some(c) = entry.and_then(|e| e.container(Some(ix))) {
            push("container", format!("{} ({n})", c.name));
        }
    }
    for (source, _) in case.sources.most(8) {
        push(source_name(case.code), source);
    }
    for (what, value) in case.facts() {
        push(what, value.to_owned());
    }
    if let Some(scene) = scene {
        scene_facts(case, scene, &mut push);
    }
    for witness in &case.witnesses {
        push("seen_by", (*witness).to_owned());
    }
    list
}

const fn source_name(code: Code) -> &'static str {
    match code {
        Code::AgentDegraded => "missing",
        Code::BypassSocketLb => "rewritten",
        _ => "spec",
    }
}

fn counts(case: &Case) -> String {
    let mut parts = Vec::new();
    for direction in [Direction::Outbound, Direction::Inbound] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let n = *case.by.get(direction, family);
            if n > 0 {
                parts.push(format!("{n} {} {}", direction.as_str(), family.as_str()));
            }
        }
    }
    if parts.is_empty() {
        case.connections.to_string()
    } else {
        parts.join(", ")
    }
}

fn show_ids((uid, gid): (u32, u32)) -> String {
    let show = |id: u32| {
        if id == NO_ID {
            "unknown".to_owned()
        } else {
            id.to_string()
        }
    };
    format!("uid {}, gid {}", show(uid), show(gid))
}

/// Facts of the pod that belong beside the case: who listens on the capture port, which
/// family is captured, what the intent is.
// lint: long because it is one table, an arm for each code.
fn scene_facts(case: &Case, scene: &Scene<'_>, push: &mut dyn FnMut(&str, String)) {
    let intent = scene.intent;
    match case.code {
        Code::BypassAmbientLost => super::ambient::facts(case, scene, push),
        Code::BypassNoRules
        | Code::BypassRulesPartial
        | Code::BypassRulesRemoved
        | Code::BypassRulesBackend
        | Code::BypassBeforeRules
        | Code::BypassIpv6
        | Code::BypassUnknown
        | Code::BypassInboundDirect => {
            push("captured", captured(scene));
            push("mesh", intent.profile.clone());
        }
        Code::BypassProxyUid
        | Code::BypassProxyGid
        | Code::BypassSharedUid
        | Code::BypassInboundEmpty
        | Code::BypassDns
        | Code::BypassQuic
        | Code::BypassSocketLb
        | Code::BypassInitContainer => push("mesh", intent.profile.clone()),
        Code::StuckNoListener | Code::StuckStartupGap | Code::SidecarNotReady => {
            for port in &case.ports {
                push("listeners", listeners(scene, *port));
            }
            super::status::facts(case, scene.entry, push);
        }
        Code::StuckControlPlane => super::control::facts(scene, push),
        Code::StuckAcceptQueue => {
            for port in &case.ports {
                push("listeners", listeners(scene, *port));
            }
        }
        Code::StuckNotAccepting | Code::SidecarThrottled => {
            for port in [intent.outbound_port, intent.inbound_port] {
                if scene.ns.is_some_and(|ns| !ns.on_port(port).is_empty()) {
                    push("listeners", listeners(scene, port));
                }
            }
        }
        Code::BypassExcluded
        | Code::BypassUnmeshed
        | Code::BypassHostNetwork
        | Code::MeshConflict
        | Code::StuckUpstreamRefused
        | Code::StuckUpstreamTimeout
        | Code::StuckUpstreamReset
        | Code::FailEphemeralPorts
        | Code::FailConntrackFull
        | Code::FailInvalidPackets
        | Code::FailTupleCollision
        | Code::StuckAppRefused
        | Code::FailNetfilterDrop
        | Code::StuckUnread
        | Code::StuckUpstreamSilent
        | Code::StuckNoUpstream
        | Code::StuckHalfClosed
        | Code::InitFailed
        | Code::AgentDegraded
        | Code::AgentOverload
        | Code::AgentUnattributed => {}
    }
}
