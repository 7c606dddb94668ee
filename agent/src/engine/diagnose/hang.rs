//! Findings about connections that hang after their handshake: not read, not answered, not closed.
//!
//! One sample of the socket table decides: what hangs is filed, what no longer does is closed. Where
//! a proxy that accepts nothing explains why it reads nothing, only the former is told.

use std::collections::BTreeMap;

use crate::{
    engine::{
        Code, Leg, Stage,
        directory::PodId,
        findings::{Case, Findings, Render},
        hang::{Closer, Hang, Hangs},
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
    file(at, pod, Code::StuckNoUpstream, &nowhere, findings, render);
    half_closed(at, pod, &hangs.half_closed, findings, render);
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
    case.state(at, "waiting_now", hanging.len().to_string());
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
