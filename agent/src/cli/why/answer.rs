//! The answer of `sidestep why` as a page for people: a pure function, so that its exact text is tested.
//!
//! The sentence first, then what is wanted, the way through the rules, what was seen, and open findings with their remedy.

use std::net::IpAddr;

use comfy_table::Color;

use super::super::text::{self, Style, count};
use crate::{
    engine::{
        Agreement, By, EdgeRow, Finding, Known, Live, OwnerSource, RulesChange, Verdict, Wanted,
        Way, Why,
    },
    model::{Counts, Direction, Time},
    output::api::pod::WhyPage,
    rules::{Outcome, Path, Protocol, Step},
};

/// The answer in words.
pub(in crate::cli) fn report(page: &WhyPage, style: Style) -> String {
    let (why, now) = (&page.why, page.head.at);
    let mut out = style.paragraph(0, &title(why));
    let colour = match why.conclusion.agreement {
        Agreement::Agree => Color::Green,
        Agreement::Disagree => Color::Red,
        Agreement::Unclear => Color::Yellow,
    };
    out.push_str(&style.coloured(0, &why.conclusion.sentence, colour));
    out.push('\n');
    let mut facts = vec![("spec wants".to_owned(), wanted(&why.wanted))];
    facts.extend(live(&why.live, now));
    facts.push(("seen".to_owned(), observed(why, now)));
    out.push_str(&style.facts(0, &facts));
    for finding in &why.conclusion.findings {
        out.push('\n');
        out.push_str(&block(finding, style));
    }
    out.push_str(&style.paragraph(0, &rest(why)));
    out
}

fn title(why: &Why) -> String {
    let (ask, pod) = (&why.ask, &why.pod);
    let protocol = ask.protocol.as_str().to_uppercase();
    match ask.direction {
        Direction::Outbound => {
            let by = why.by.as_ref().map_or_else(String::new, by);
            format!("{pod} → {} ({protocol}{by})", ask.remote)
        }
        Direction::Inbound => {
            let from = match ask.remote.port() {
                0 => ask.remote.ip().to_string(),
                _ => ask.remote.to_string(),
            };
            format!("{from} → {pod} port {} ({protocol})", ask.port)
        }
    }
}

fn by(by: &By) -> String {
    let from = match by.from {
        OwnerSource::Given => "",
        OwnerSource::Seen => ", as was seen",
        OwnerSource::Assumed => ", assumed: --uid and --gid say otherwise",
    };
    format!(", by user {} and group {}{from}", by.uid, by.gid)
}

fn wanted(wanted: &Wanted) -> String {
    let way = match wanted.way {
        Way::Captured { port } => format!("captured by the proxy, port {port}"),
        Way::Direct => "left alone".to_owned(),
        Way::NoMesh => "nothing".to_owned(),
        Way::Unclear => "not clear".to_owned(),
    };
    let mut lines = vec![match (&wanted.mesh, &wanted.read_from) {
        (Some(mesh), Some(from)) => format!("{way} ({mesh}, by the {from})"),
        _ => way,
    }];
    lines.extend(wanted.because.iter().map(|line| format!("· {line}")));
    lines.join("\n")
}

fn live(live: &Live, now: Time) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut lines = Vec::new();
    match &live.path {
        Some(path) => lines.extend(steps(path)),
        None => lines.push("not known".to_owned()),
    }
    lines.extend(live.unread.iter().map(|line| format!("! {line}")));
    facts.push(("live rules".to_owned(), lines.join("\n")));
    if !live.missing.is_empty() {
        facts.push(("what is missing".to_owned(), live.missing.join("\n")));
    }
    if let Some(before) = &live.before {
        let step = before.path.decided_by.as_ref();
        let rule = step.map_or_else(String::new, |step| format!(" by {step}"));
        facts.push((
            "earlier rules".to_owned(),
            format!(
                "{}{rule}; gone since {} UTC, {} ago",
                before.path.outcome,
                text::instant(before.until),
                text::duration(now.micros_since(before.until))
            ),
        ));
    }
    facts.push((
        "rules read".to_owned(),
        reading(&Reading {
            read: live.read,
            since: live.since,
            changed: live.changed.as_ref(),
            differed: live.differed,
            now,
        }),
    ));
    if live.known == Known::NotRead && live.changed.is_none() {
        facts.pop();
    }
    facts
}

/// When the rules were read and changed.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Reading<'a> {
    pub(in crate::cli) read: Option<Time>,
    pub(in crate::cli) since: Option<Time>,
    pub(in crate::cli) changed: Option<&'a RulesChange>,
    pub(in crate::cli) differed: bool,
    pub(in crate::cli) now: Time,
}

/// The same in words.
pub(in crate::cli) fn reading(r: &Reading<'_>) -> String {
    let ago = |at: Time| text::duration(r.now.micros_since(at));
    let text = match (r.read, r.since) {
        (Some(read), Some(since)) => format!("{} ago, the same for {}", ago(read), ago(since)),
        _ => "not yet".to_owned(),
    };
    let change = match (r.changed, r.differed) {
        (Some(change), _) => format!(
            "last changed {} ago ({} UTC) by process {}[{}], user {}, in {}",
            ago(change.at),
            text::instant(change.at),
            change.process.comm,
            change.process.pid,
            change.uid,
            change.backend.as_str()
        ),
        (None, true) => {
            "they were different before; this kernel does not tell who changed them".to_owned()
        }
        (None, false) => "no change was seen since the agent watches".to_owned(),
    };
    format!("{text}; {change}")
}

/// The way through the rules, the rule that decides marked.
fn steps(path: &Path) -> Vec<String> {
    let decides = |step: &Step| path.decided_by.as_ref() == Some(step);
    let outcome = match (path.outcome, &path.decided_by) {
        (Outcome::Direct, None) => "direct: no rule has anything to say about it".to_owned(),
        (Outcome::Direct, Some(_)) => "direct, because of the rule marked ▶".to_owned(),
        (Outcome::Unknown, _) => format!("not certain: {}", path.because.join("; ")),
        (outcome, _) => outcome.to_string(),
    };
    let mut lines = vec![outcome];
    let mut table = String::new();
    let trail = path.trail.iter();
    let beyond = path
        .decided_by
        .iter()
        .filter(|step| !path.trail.contains(step));
    for step in trail.chain(beyond) {
        let here = place(step);
        if here != table {
            lines.push(format!("{here}:"));
            table = here;
        }
        let mark = if decides(step) { "▶" } else { "·" };
        lines.push(format!("{mark} {}", rule(step)));
    }
    lines
}

/// `iptables-nft ipv4 nat`.
fn place(step: &Step) -> String {
    format!(
        "{} {} {}",
        step.backend.as_str(),
        step.family.as_str(),
        step.table
    )
}

/// `OUTPUT rule 1: -p tcp -j REDIRECT`; the chain need not be said twice.
fn rule(step: &Step) -> String {
    let append = format!("-A {} ", step.chain);
    let text = step.text.strip_prefix(&append).unwrap_or(&step.text);
    match step.number {
        Some(number) => format!("{} rule {number}: {text}", step.chain),
        None => format!("{}: {}", step.chain, step.text),
    }
}

fn observed(why: &Why, now: Time) -> String {
    if why.ask.protocol == Protocol::Udp {
        return "nothing: Sidestep watches TCP".to_owned();
    }
    if why.observed.is_empty() {
        return "no such connection among those seen last".to_owned();
    }
    let lines = why.observed.iter().map(|edge| edge_line(edge, now));
    lines.collect::<Vec<_>>().join("\n")
}

/// `bypassed (no_rules): 12 established, last 4s ago, process curl, container app, user 0`.
fn edge_line(edge: &EdgeRow, now: Time) -> String {
    let verdict = match edge.verdict {
        Verdict::Bypassed { reason } | Verdict::Excluded { reason }
            if reason.as_str() != edge.verdict.as_str() =>
        {
            format!("{} ({})", edge.verdict.as_str(), reason.as_str())
        }
        Verdict::Stuck { stage } => format!("stuck ({})", stage.as_str()),
        Verdict::Neutral => edge.leg.as_str().to_owned(),
        Verdict::Failed => format!("{} failed", edge.leg.as_str()),
        _ => edge.verdict.as_str().to_owned(),
    };
    let mut line = format!(
        "{verdict}: {}, last {} ago",
        counts(&edge.counts),
        text::duration(now.micros_since(edge.last_seen))
    );
    if let Some(process) = edge.process.as_ref().filter(|name| !name.is_empty()) {
        line.push_str(&format!(", process {process}"));
    }
    if let Some(container) = &edge.container {
        line.push_str(&format!(", container {container}"));
    }
    match edge.key.direction {
        Direction::Outbound => line.push_str(&ids(edge)),
        Direction::Inbound => line.push_str(&at(edge.key.local, edge.key.local_port)),
    }
    line
}

fn ids(edge: &EdgeRow) -> String {
    let owner = edge.key.owner;
    if owner.uid == crate::model::NO_ID {
        return String::new();
    }
    format!(", user {} group {}", owner.uid, owner.gid)
}

fn at(local: IpAddr, port: u16) -> String {
    format!(", accepted at {}", std::net::SocketAddr::new(local, port))
}

fn counts(counts: &Counts) -> String {
    let all = [
        (counts.established, "established"),
        (counts.refused, "refused"),
        (counts.timed_out, "timed out"),
        (counts.unreachable, "unreachable"),
        (counts.failed, "failed"),
        (counts.aborted, "aborted"),
        (counts.no_address, "without a free source port"),
        (counts.denied, "denied"),
    ];
    let some = all.iter().filter(|(n, _)| *n > 0);
    let some: Vec<String> = some.map(|(n, word)| format!("{n} {word}")).collect();
    some.join(", ")
}

fn block(finding: &Finding, style: Style) -> String {
    let title = format!(
        "{}: {}: {}",
        finding.severity.as_str(),
        finding.code.as_str(),
        finding.summary
    );
    let mut out = style.paragraph(0, &title);
    out.push_str(&style.facts(2, &[("what to do".to_owned(), finding.remedy.clone())]));
    out
}

/// Where to go from here.
fn rest(why: &Why) -> String {
    let pod = &why.pod;
    let mut text = format!("\n`sidestep rules {pod}` shows all live rules");
    if let Some(finding) = why.conclusion.findings.first() {
        text.push_str(&format!(
            "; `sidestep explain {}` tells more",
            finding.code.as_str()
        ));
    }
    text.push('.');
    let others = &why.conclusion.other_findings;
    if !others.is_empty() {
        let codes: Vec<&str> = others.iter().map(|code| code.as_str()).collect();
        text.push_str(&format!(
            " {} of the pod about other connections: {}.",
            count(others.len() as u64, "open finding"),
            codes.join(", ")
        ));
    }
    text
}
