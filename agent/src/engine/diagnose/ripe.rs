//! The rules of doubt: when a suspicion may be told.
//!
//! A pod that just started may dial before its rules are in place, and a proxy may be a
//! second late; neither is worth waking somebody. A pod that has run for a while gets no
//! such excuse. All waits together stay below the five seconds a finding may take.

use super::Scene;
use crate::{
    engine::{
        Code,
        findings::Case,
        sockets::{Listens, Namespace},
    },
    model::{Direction, Family, Time},
};

/// A pod known for less is still starting.
const YOUNG_US: u64 = 3_000_000;
/// An app may take this long until it listens.
const APP_START_US: u64 = 30_000_000;

/// When a pending case may be opened; `None` if it needs more evidence first.
/// `scene` is `None` for cases about the agent, and for pods without an intent.
// lint: long because it is one table, an arm for each code.
pub(in crate::engine) fn ripe(case: &Case, scene: Option<&Scene<'_>>) -> Option<Time> {
    let Some(scene) = scene else {
        return match case.code {
            // These happen to pods in no mesh as well.
            Code::FailEphemeralPorts | Code::FailConntrackFull => Some(case.first),
            Code::FailNetfilterDrop => Some(super::lost::ripe_stop(case)),
            _ => about_agent(case),
        };
    };
    let since = scene.entry.since;
    let spans = case.last.micros_since(case.first);
    if captured_since(case, scene) {
        return None;
    }
    match case.code {
        // These waited before they were filed.
        Code::StuckNotAccepting
        | Code::StuckAcceptQueue
        | Code::SidecarThrottled
        | Code::StuckUnread
        | Code::StuckUpstreamSilent
        | Code::FailInvalidPackets
        | Code::FailTupleCollision
        | Code::StuckHalfClosed => Some(case.first),
        Code::StuckNoUpstream => super::hang::ripe(case, scene),
        // A rule of the node may have refused it.
        Code::StuckUpstreamRefused => {
            let open = scene.watch.turned_away.open_until();
            Some(open.map_or(case.first, |until| until.max(case.first)))
        }
        Code::BypassExcluded | Code::FailEphemeralPorts | Code::FailConntrackFull => {
            Some(case.first)
        }
        Code::FailNetfilterDrop => Some(super::lost::ripe_stop(case)),
        Code::StuckControlPlane => super::control::ripe(case, scene),
        Code::StuckUpstreamReset => super::lost::ripe_reset(case, scene),
        Code::StuckUpstreamTimeout => super::lost::ripe(case, scene),
        Code::AgentDegraded | Code::AgentOverload | Code::AgentUnattributed => about_agent(case),
        // Of these the spec is enough: see there.
        Code::BypassSharedUid
        | Code::BypassInboundEmpty
        | Code::BypassInitContainer
        | Code::BypassUnmeshed
        | Code::BypassHostNetwork
        | Code::InitFailed
        | Code::MeshConflict => None,
        Code::BypassProxyUid | Code::BypassProxyGid => {
            let sure = !case.containers.is_empty() || case.connections >= 3;
            sure.then_some(case.first)
        }
        Code::BypassNoRules
        | Code::BypassRulesPartial
        | Code::BypassRulesRemoved
        | Code::BypassRulesBackend => Some(after_start(case, since)),
        Code::BypassAmbientLost if case.ports.is_empty() => Some(after_start(case, since)),
        Code::BypassAmbientLost => no_listener(case, scene),
        Code::BypassBeforeRules => Some(case.first),
        // Connections may still show that queries are not all that is lost.
        Code::BypassDns => Some(after_start(case, since).max(case.first.plus_micros(1_500_000))),
        Code::BypassQuic | Code::BypassSocketLb => {
            Some(after_start(case, since).max(case.first.plus_micros(1_500_000)))
        }
        Code::BypassIpv6 => {
            let compared = has_captured_ipv4(scene) || scene.knows_rules(Family::Ipv6);
            let wait = if compared { 0 } else { 1_500_000 };
            Some(after_start(case, since).max(case.first.plus_micros(wait)))
        }
        Code::BypassInboundDirect => {
            // Outbound traffic may still show that nothing at all is captured.
            let known = scene.watch.captures(Direction::Outbound)
                || scene.watch.leaks(Direction::Outbound)
                || super::bypass::captures_inbound(scene)
                || knows_rules(case, scene);
            if !known && scene.outbound_waits() {
                // It is about to; asked again as soon as it is judged.
                return None;
            }
            let wait = if known { 0 } else { 2_800_000 };
            Some(after_start(case, since).max(case.first.plus_micros(wait)))
        }
        Code::BypassUnknown => (case.connections >= 3 && spans >= 2_000_000).then_some(case.last),
        Code::StuckNoListener | Code::SidecarNotReady | Code::StuckStartupGap => {
            no_listener(case, scene)
        }
        Code::StuckAppRefused => app_refused(case, since, spans),
    }
}

/// What is missing or was dropped is so. Connections without a pod may be what a pod left behind
/// that just ended: they have to keep coming.
fn about_agent(case: &Case) -> Option<Time> {
    match case.code {
        Code::AgentDegraded | Code::AgentOverload => Some(case.first),
        Code::AgentUnattributed => (case.last > case.first).then_some(case.last),
        _ => None,
    }
}

/// Whether such connections were captured after those that went direct: what says that nothing
/// is captured is over, and waits for the rules to say whether there were none or they were late.
fn captured_since(case: &Case, scene: &Scene<'_>) -> bool {
    let families: &[Family] = match case.code {
        Code::BypassNoRules => &[Family::Ipv4, Family::Ipv6],
        Code::BypassIpv6 => &[Family::Ipv6],
        _ => return false,
    };
    let captured = |f: &Family| *scene.watch.captured.get(Direction::Outbound, *f);
    let about = |f: &&Family| *case.about.get(Direction::Outbound, **f);
    let mut times = families.iter().filter(about).map(captured);
    times.any(|at| at.is_some_and(|at| at >= case.last))
}

/// Whether the rules for everything the case is about are known.
fn knows_rules(case: &Case, scene: &Scene<'_>) -> bool {
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .all(|f| !*case.about.get(Direction::Inbound, f) || scene.knows_rules(f))
}

/// At once in a pod that has run for a while, else when it has.
pub(super) fn after_start(case: &Case, since: Time) -> Time {
    if case.first.micros_since(since) >= YOUNG_US {
        case.first
    } else {
        since
            .plus_micros(YOUNG_US)
            .max(case.first.plus_micros(1_000_000))
    }
}

fn has_captured_ipv4(scene: &Scene<'_>) -> bool {
    let captured = |d| scene.watch.captured.get(d, Family::Ipv4).is_some();
    captured(Direction::Outbound) || captured(Direction::Inbound)
}

fn no_listener(case: &Case, scene: &Scene<'_>) -> Option<Time> {
    if is_answered_now(case, scene.ns) {
        return None;
    }
    let wait = if case.connections > 1 {
        300_000
    } else {
        1_000_000
    };
    let young = case.first.micros_since(scene.entry.since) < YOUNG_US;
    let wait = if young { 2_000_000 } else { wait };
    Some(case.first.plus_micros(wait))
}

/// Whether somebody listens by now wherever the case says nobody does.
fn is_answered_now(case: &Case, ns: Option<&Namespace>) -> bool {
    let here = |port, family| ns.is_some_and(|ns| ns.listens(port, family) == Listens::Yes);
    let about = |f: &Family| {
        *case.about.get(Direction::Outbound, *f) || *case.about.get(Direction::Inbound, *f)
    };
    let families: Vec<Family> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(about)
        .collect();
    let mut asked = case
        .ports
        .iter()
        .flat_map(|p| families.iter().map(move |f| (*p, *f)));
    !case.ports.is_empty() && asked.all(|(port, family)| here(port, family))
}

fn app_refused(case: &Case, since: Time, spans: u64) -> Option<Time> {
    if case.fact("listens_elsewhere").is_some() {
        let wait = if case.connections > 1 {
            300_000
        } else {
            1_000_000
        };
        return Some(case.first.plus_micros(wait));
    }
    let lasting = case.connections >= 3 && spans >= 2_000_000;
    lasting.then(|| since.plus_micros(APP_START_US).max(case.last))
}
