//! Findings about connections that hang after their handshake: not read, not answered, not closed.
//!
//! One sample of the socket table decides: what hangs is filed, what no longer does is closed. Where
//! a proxy that accepts nothing explains why it reads nothing, only the former is told. A proxy that has
//! nowhere to go may end connections in place of letting them wait: of those the kernel tells.

use std::collections::BTreeMap;

use super::Scene;
use crate::{
    engine::{
        Code, Leg, Stage,
        directory::PodId,
        evidence::Sample,
        findings::{Case, Findings, Render},
        hang::{Closer, Hang, Hangs},
        resets::Run,
        streams::Page,
        throttle::Cpu,
        top::Top,
    },
    model::{Direction, Family, Time},
};

/// Connections to one destination that must wait for an answer before a destination that was never
/// seen to answer is called silent: a few that are told things and need not answer are everywhere.
const SILENT: usize = 3;
/// A single one, or such to a destination that answers others meanwhile, may be one that polls: most
/// who hold a request back answer it within a minute.
const POLL_MS: u64 = 60_000;
/// Requests that must have led nowhere.
const NOWHERE: usize = 2;
/// Half-closed connections of this age are left, not about to be closed.
const LEFT_MS: u64 = 20_000;
/// So many must be left, and there must be younger ones: they grow.
const LEFT: usize = 8;
/// The facts of connections that were ended at once, and of such as wait.
const HUNG_UP: &str = "hung_up";
const WAITING: &str = "waiting_now";

/// Files what hangs in the namespace of a pod.
pub(in crate::engine) fn hangs(
    at: Time,
    pod: PodId,
    (page, hangs, cpu): (&Page, &Hangs, Cpu),
    findings: &mut Findings,
    render: Render<'_>,
) {
    let of = |stage: Stage| hangs.all.iter().filter(move |h| h.stage == stage);
    let unread: Vec<&Hang> = of(Stage::ProxyNotReading).collect();
    let stands = findings
        .get(pod, Code::StuckNotAccepting)
        .is_some_and(Case::is_current);
    if stands {
        findings.absorb(at, pod, Code::StuckNotAccepting, Code::StuckUnread, render);
    } else if unread.is_empty() {
        file(at, pod, Code::StuckUnread, &unread, findings, render);
    } else {
        let code = cpu.code(Code::StuckUnread);
        file(at, pod, code, &unread, findings, render);
    }
    super::throttle::settle(at, pod, cpu, findings, render);
    let silent = silent(page, of(Stage::UpstreamSilent).collect());
    file(
        at,
        pod,
        Code::StuckUpstreamSilent,
        &silent,
        findings,
        render,
    );
    let nowhere: Vec<&Hang> = hangs.nowhere.iter().collect();
    let nowhere = if nowhere.len() < NOWHERE {
        Vec::new()
    } else {
        nowhere
    };
    let hung_up = findings
        .get(pod, Code::StuckNoUpstream)
        .is_some_and(is_hung_up);
    // What was ended at once is in no table.
    if !nowhere.is_empty() || !hung_up {
        file(at, pod, Code::StuckNoUpstream, &nowhere, findings, render);
    }
    half_closed(at, pod, &hangs.half_closed, findings, render);
}

/// The proxy ends its app's connections at once, without a word.
pub(in crate::engine) fn hung_up(
    at: Time,
    pod: PodId,
    run: &Run,
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), Code::StuckNoUpstream);
    case.add(sample);
    case.witnesses
        .insert("the kernel told how connections ended");
    let to = sample.destination;
    let text = format!(
        "{} connections to {to}, each at once and without a byte; the proxy dialled nobody meanwhile",
        run.resets
    );
    case.state(at, HUNG_UP, text);
}

/// Whether a case of [`Code::StuckNoUpstream`] is about connections that were ended, not about such as wait.
pub(in crate::engine) fn is_hung_up(case: &Case) -> bool {
    case.fact(HUNG_UP).is_some() && case.fact(WAITING).is_none()
}

/// When it may be told that the proxy goes nowhere with what it took: what waits has waited; what was ended must be what
/// captured connections come to, for long enough that the proxy's own would have been counted.
pub(super) fn ripe(case: &Case, scene: &Scene<'_>) -> Option<Time> {
    /// Two drains and their way here.
    const SPAN_US: u64 = 3_000_000;
    let lasts = |run: &Run| run.established > 0 && run.spans() >= SPAN_US;
    let mut runs = scene.watch.hung_up.rules();
    let told = !is_hung_up(case) || runs.any(|(_, run)| lasts(run));
    told.then_some(case.first)
}

/// Those whose destination owes an answer.
fn silent<'a>(page: &Page, all: Vec<&'a Hang>) -> Vec<&'a Hang> {
    let mut waiting: BTreeMap<_, usize> = BTreeMap::new();
    for hang in &all {
        *waiting.entry(hang.to).or_default() += 1;
    }
    let owes = |hang: &&Hang| {
        hang.to.is_some_and(|to| {
            let many = waiting.get(&hang.to).is_some_and(|n| *n >= SILENT);
            let polls = !many || page.answered_within(to, hang.waited_ms);
            let sure = !polls || hang.waited_ms >= POLL_MS;
            !page.is_told(to) && (many || page.answers(to)) && sure
        })
    };
    all.into_iter().filter(owes).collect()
}

fn file(
    at: Time,
    pod: PodId,
    code: Code,
    hanging: &[&Hang],
    findings: &mut Findings,
    render: Render<'_>,
) {
    let Some(longest) = hanging.iter().map(|h| h.waited_ms).max() else {
        findings.resolve(at, Some(pod), code, render);
        return;
    };
    let case = findings.note(at, Some(pod), code);
    case.connections = case.connections.max(hanging.len() as u64);
    let since = Time(at.0.saturating_sub(longest * 1_000));
    case.first = case.first.min(since);
    case.destinations = Top::default();
    let mut bytes = 0_u64;
    for hang in hanging {
        let family = hang.to.map_or(Family::Ipv4, |to| Family::of(to.ip()));
        *case.about.get_mut(hang.direction, family) = true;
        if let Some(to) = hang.to {
            case.destinations.add(to, 1);
        }
        bytes += u64::from(hang.bytes);
    }
    case.state(at, WAITING, hanging.len().to_string());
    case.state(at, "longest", format!("{} s", longest / 1_000));
    case.witnesses.insert("the kernel's socket table");
    details(at, case, hanging, bytes);
}

fn details(at: Time, case: &mut Case, hanging: &[&Hang], bytes: u64) {
    match case.code {
        Code::StuckUnread => case.state(at, "unread_bytes", bytes.to_string()),
        Code::StuckUpstreamSilent => {
            let text = if bytes == 0 {
                "yes: all that was sent"
            } else {
                "no: bytes sent are not acknowledged"
            };
            case.state(at, "acknowledged", text.to_owned());
            let asked = hanging.iter().filter(|h| h.asked.is_some()).count();
            if asked > 0 {
                case.witnesses
                    .insert("the app's connections wait beside it");
                case.state(at, "joined", joined(hanging, asked));
            }
        }
        Code::StuckNoUpstream => {
            let text = "nothing dialled or sent on since the request came";
            case.state(at, "proxy", text.to_owned());
        }
        _ => {}
    }
}

/// Which destinations of the app these are, and how sure that is.
fn joined(hanging: &[&Hang], asked: usize) -> String {
    let exact = hanging
        .iter()
        .all(|h| h.asked.is_none_or(|a| h.to == Some(a)));
    let sure = if exact {
        "by destination and time: certain"
    } else {
        "by time: probable"
    };
    let mut to: Vec<String> = hanging
        .iter()
        .filter_map(|h| h.asked)
        .map(|a| a.to_string())
        .collect();
    to.sort();
    to.dedup();
    to.truncate(3);
    format!(
        "{asked} of the app's connections, to {} ({sure})",
        to.join(", ")
    )
}

fn half_closed(
    at: Time,
    pod: PodId,
    all: &[(Leg, Closer, u64)],
    findings: &mut Findings,
    render: Render<'_>,
) {
    let mut by: BTreeMap<(Leg, Closer), (usize, usize)> = BTreeMap::new();
    for (leg, closer, ms) in all {
        let (old, young) = by.entry((*leg, *closer)).or_default();
        *(if *ms >= LEFT_MS { old } else { young }) += 1;
    }
    let open = findings
        .get(pod, Code::StuckHalfClosed)
        .is_some_and(Case::is_open);
    // Once told it lasts as long as they do.
    let grows = |old: usize, young: usize| old >= LEFT && (young > 0 || open);
    by.retain(|_, (old, young)| grows(*old, *young));
    if by.is_empty() {
        findings.resolve(at, Some(pod), Code::StuckHalfClosed, render);
        return;
    }
    let case = findings.note(at, Some(pod), Code::StuckHalfClosed);
    let total: usize = by.values().map(|(old, young)| old + young).sum();
    case.connections = case.connections.max(total as u64);
    let mut legs = Vec::new();
    for ((leg, closer), (old, young)) in &by {
        let who = match closer {
            Closer::App => "the app",
            Closer::Proxy => "the proxy",
        };
        legs.push(format!(
            "{} on {}, not closed by {who}",
            old + young,
            leg.as_str()
        ));
        let direction = match leg {
            Leg::PeerToProxy | Leg::ProxyToApp => Direction::Inbound,
            _ => Direction::Outbound,
        };
        *case.about.get_mut(direction, Family::Ipv4) = true;
        case.state(at, "left_open_by", who.to_owned());
    }
    case.state(at, "half_closed", legs.join("; "));
    case.witnesses.insert("the kernel's socket table");
}
