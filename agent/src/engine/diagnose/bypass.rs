//! Bypass: connections that stepped around the proxy, filed under their cause.
//!
//! Several symptoms of one missing rule set become one finding: when nothing is captured in
//! either direction, inbound and IPv6 bypasses are absorbed by `bypass-no-rules`.

use super::{Judged, Scene, sample};
use crate::{
    engine::{
        Code, Reason, Verdict,
        directory::PodId,
        explain::Explained,
        findings::{Case, Findings, Render},
        verdict::{Expected, Path},
        watch::Watch,
    },
    mesh::Intent,
    model::{Arrival, Direction, Family, Time},
};

/// A connection bypassed the proxy for `reason`.
pub(super) fn bypassed(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    reason: Reason,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let code = match j.explained {
        Some(_) => code_by_rules(j.key.direction, reason),
        None => code_by_signs(j.key.direction, reason, scene),
    };
    let none = nothing(scene.intent);
    // Nothing is captured at all, and a finding says so: this is one more symptom of it.
    let root = findings.get(j.pod, none).is_some_and(Case::is_current);
    let code = match code {
        Code::BypassInboundDirect | Code::BypassIpv6 if root && captures_nothing(scene) => none,
        Code::BypassNoRules => none,
        code => code,
    };
    let case = findings.note(j.at, Some(j.pod), code);
    if code == Code::BypassUnknown {
        // How long it went on is what makes it believed, not how long it was held back.
        case.first = case.first.min(j.came.first);
        case.last = j.came.last;
    }
    case.add(&sample(j));
    witnesses(case, j, scene);
    arrival_fact(case, j);
    history_fact(case, j, scene.watch);
    rules_facts(case, j);
    if matches!(code, Code::BypassProxyUid | Code::BypassProxyGid) {
        // What the spec foretold has happened: one finding, with the traffic.
        findings.absorb(j.at, j.pod, code, Code::BypassSharedUid, render);
    }
    if code == Code::BypassRulesPartial && matches!(j.verdict, Verdict::Stuck { .. }) {
        // Nobody listens where the rules lead: one finding, about the rules.
        findings.absorb(
            j.at,
            j.pod,
            code,
            super::status::nobody(j.at, scene.entry),
            render,
        );
    }
    super::datagram::explained_by(j.at, j.pod, code, findings, render);
    if code == none {
        if captures_nothing(scene) {
            findings.absorb(j.at, j.pod, code, Code::BypassInboundDirect, render);
        }
        findings.absorb(j.at, j.pod, code, Code::BypassIpv6, render);
    }
}

/// What it is called that nothing is redirected. A pod that is marked for the node's proxy was
/// lost to it.
const fn nothing(intent: &Intent) -> Code {
    if intent.node_proxy {
        Code::BypassAmbientLost
    } else {
        Code::BypassNoRules
    }
}

/// What the rules say now about what a case is about.
pub(in crate::engine) type Again<'a> = &'a dyn Fn(&Case) -> Option<Explained>;

/// Rules changed: cases that they explain otherwise move to the better code.
pub(in crate::engine) fn refile(
    at: Time,
    (pod, intent): (PodId, &Intent),
    again: Again<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    for code in [
        nothing(intent),
        Code::BypassIpv6,
        Code::BypassRulesPartial,
        Code::BypassRulesBackend,
        Code::BypassInboundDirect,
    ] {
        // Rules say nothing about a listener that is missing.
        let by_rules = |case: &&Case| case.code != Code::BypassAmbientLost || case.ports.is_empty();
        let case = findings.get(pod, code).filter(|case| case.is_current());
        let Some(case) = case.filter(by_rules) else {
            continue;
        };
        let (Some(explained), Some(direction)) = (again(case), case.direction()) else {
            continue;
        };
        let better = match code_by_rules(direction, explained.reason) {
            Code::BypassNoRules => nothing(intent),
            better => better,
        };
        if better == code || better == Code::BypassUnknown {
            continue;
        }
        let case = findings.note(at, Some(pod), better);
        for (what, text) in explained.facts {
            case.state(at, what, text);
        }
        case.witnesses.insert("live rules of the network namespace");
        findings.absorb(at, pod, better, code, render);
    }
}

fn captures_nothing(scene: &Scene<'_>) -> bool {
    !scene.watch.captures(Direction::Outbound) && !captures_inbound(scene)
}

/// Whether incoming connections were captured, or NAT was seen to decide so.
pub(super) fn captures_inbound(scene: &Scene<'_>) -> bool {
    let port = scene.intent.inbound_port;
    scene.watch.captures(Direction::Inbound) || scene.ns.is_some_and(|ns| ns.redirects_to(port))
}

/// The rules themselves name the cause.
const fn code_by_rules(direction: Direction, reason: Reason) -> Code {
    match (direction, reason) {
        (_, Reason::Ipv6) => Code::BypassIpv6,
        (_, Reason::NoRules) => Code::BypassNoRules,
        (_, Reason::RulesRemoved) => Code::BypassRulesRemoved,
        (_, Reason::RulesBackend) => Code::BypassRulesBackend,
        (_, Reason::BeforeRules) => Code::BypassBeforeRules,
        (_, Reason::Unknown) => Code::BypassUnknown,
        (Direction::Inbound, _) => Code::BypassInboundDirect,
        (Direction::Outbound, Reason::ProxyUid) => Code::BypassProxyUid,
        (Direction::Outbound, Reason::ProxyGid) => Code::BypassProxyGid,
        (Direction::Outbound, _) => Code::BypassRulesPartial,
    }
}

fn rules_facts(case: &mut Case, j: &Judged<'_>) {
    let Some(explained) = j.explained else {
        return;
    };
    for (what, text) in &explained.facts {
        case.state(j.at, what, text.clone());
    }
    if case.code != Code::BypassUnknown {
        case.witnesses.insert("live rules of the network namespace");
    }
}

/// Rules are not known: what else was seen of the pod's traffic must do.
fn code_by_signs(direction: Direction, reason: Reason, scene: &Scene<'_>) -> Code {
    match (direction, reason) {
        (_, Reason::Ipv6) => Code::BypassIpv6,
        (Direction::Inbound, _)
            if captures_nothing(scene) && scene.watch.leaks(Direction::Outbound) =>
        {
            Code::BypassNoRules
        }
        (Direction::Inbound, _) => Code::BypassInboundDirect,
        (Direction::Outbound, Reason::NoRules) => Code::BypassNoRules,
        (Direction::Outbound, Reason::ProxyUid) => Code::BypassProxyUid,
        (Direction::Outbound, Reason::ProxyGid) => Code::BypassProxyGid,
        (Direction::Outbound, _) => Code::BypassUnknown,
    }
}

fn witnesses(case: &mut Case, j: &Judged<'_>, scene: &Scene<'_>) {
    match case.code {
        // Nobody can be certain of a cause that was not found.
        Code::BypassUnknown => {
            case.witnesses.insert("no socket of the proxy answered");
        }
        Code::BypassProxyUid | Code::BypassProxyGid => {
            case.witnesses.insert("credentials of the socket");
            if j.container.is_some() {
                case.witnesses.insert("container of the socket");
            }
        }
        _ if j.key.direction == Direction::Inbound => {
            case.witnesses
                .insert("accepted by another socket than the proxy's");
            if j.container.is_some() {
                case.witnesses.insert("container of the accepting socket");
            }
        }
        _ => {
            case.witnesses.insert("no socket of the proxy answered");
            if scene.sees_nat {
                case.witnesses.insert("NAT took no decision to redirect");
            }
        }
    }
}

fn arrival_fact(case: &mut Case, j: &Judged<'_>) {
    if let (Path::Elsewhere, Arrival::Port(port) | Arrival::Decided(port)) =
        (j.view.path, j.key.arrival)
    {
        let text = format!("local port {port}, which is not the proxy's");
        case.state(j.at, "redirected_to", text);
    }
}

fn history_fact(case: &mut Case, j: &Judged<'_>, watch: &Watch) {
    let last = |f: Family| *watch.captured.get(j.key.direction, f);
    if let Some(Time(us)) = last(j.view.family) {
        let text = format!(
            "{} s before the latest of these",
            j.at.micros_since(Time(us)) / 1_000_000
        );
        case.state(j.at, "last_intercepted", text);
    }
}

/// A connection went direct because the spec says so.
pub(super) fn excluded(j: &Judged<'_>, findings: &mut Findings) {
    let chosen = matches!(
        j.verdict,
        Verdict::Excluded {
            reason: Reason::Excluded
        }
    );
    if !chosen || j.view.expected != Expected::Listed {
        return;
    }
    let case = findings.note(j.at, Some(j.pod), Code::BypassExcluded);
    case.add(&sample(j));
    case.sources.add(j.view.source.clone(), j.n);
    case.witnesses.insert("spec of the pod");
    case.witnesses.insert("path of the connection");
}

/// What a captured connection speaks against.
pub(in crate::engine) const ENDED_BY_CAPTURE: [Code; 6] = [
    Code::BypassNoRules,
    Code::BypassAmbientLost,
    Code::BypassIpv6,
    Code::BypassRulesPartial,
    Code::BypassRulesRemoved,
    Code::BypassRulesBackend,
];

/// A connection was captured: rules are there now, at least for its family and direction.
pub(super) fn intercepted(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let seen = scene.watch.captured.get(j.key.direction, j.view.family);
    if *seen != Some(j.at) || j.key.direction == Direction::Inbound {
        return;
    }
    let about = |code: Code| {
        let by = |c: &Case| *c.about.get(j.key.direction, j.view.family);
        findings.get(j.pod, code).is_some_and(by)
    };
    if j.outdates_rules {
        return;
    }
    let fixed: Vec<Code> = ENDED_BY_CAPTURE
        .iter()
        .copied()
        .filter(|code| about(*code))
        .collect();
    for code in fixed {
        findings.resolve(j.at, Some(j.pod), code, render);
    }
}
