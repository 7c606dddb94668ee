//! Whether what is wanted, what the rules do and what was seen agree, in one sentence.
//!
//! The sentence names all three, in this order, each as a clause of its own: whoever reads it at night should not have to
//! put them together. Doubt anywhere makes the answer unclear, never a disagreement.

use std::net::SocketAddr;

use super::{
    Agreement, Ask, Board, Conclusion, EdgeRow, Known, Live, PodRow, Wanted, Way, observed,
};
use crate::{
    engine::{Code, Finding, FindingState, Verdict, ledger},
    model::Direction,
    rules::{Outcome, Path, Protocol},
};

/// Everything that a conclusion is drawn from.
pub(super) struct Case<'a> {
    pub(super) board: &'a Board,
    pub(super) pod: &'a PodRow,
    pub(super) ask: &'a Ask,
    pub(super) wanted: &'a Wanted,
    pub(super) live: &'a Live,
    /// What was seen under the rules as they are.
    pub(super) current: Vec<&'a EdgeRow>,
    /// The proxy's own connections that make up the rest of the way, and got nowhere.
    pub(super) stranded: Vec<&'a EdgeRow>,
}

/// A way, from one of the three sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Proxy,
    Direct,
    /// Neither, or not as far as it should.
    Other,
    /// This side says nothing.
    Silent,
    /// It is not known what this side says.
    Doubt,
}

pub(super) fn conclude(case: &Case<'_>) -> Conclusion {
    let sides = (wanted(case.wanted), rules(case), seen(case));
    let agreement = agreement(sides);
    let sentence = sentence(case, agreement, sides);
    let (findings, others) = findings(case, agreement);
    Conclusion {
        agreement,
        sentence,
        findings,
        other_findings: others,
    }
}

const fn wanted(wanted: &Wanted) -> Side {
    match wanted.way {
        Way::Captured { .. } => Side::Proxy,
        Way::Direct => Side::Direct,
        Way::NoMesh => Side::Silent,
        Way::Unclear => Side::Doubt,
    }
}

fn rules(case: &Case<'_>) -> Side {
    let Some(path) = &case.live.path else {
        return Side::Doubt;
    };
    if case.live.known != Known::Fully {
        return Side::Doubt;
    }
    match (path.outcome, case.wanted.way) {
        (Outcome::Unknown, _) => Side::Doubt,
        (Outcome::Direct, _) => Side::Direct,
        (Outcome::Redirected { port, .. }, Way::Captured { port: meant }) if port != meant => {
            Side::Other
        }
        (Outcome::Redirected { .. }, _) => Side::Proxy,
        (Outcome::Dropped | Outcome::Rejected, _) => Side::Other,
    }
}

fn seen(case: &Case<'_>) -> Side {
    let side = |edge: &&EdgeRow| match edge.verdict {
        Verdict::Intercepted => Side::Proxy,
        Verdict::Bypassed { .. } => Side::Direct,
        // Excused for another reason than this connection would be (an init container): no contradiction.
        Verdict::Excluded { .. } if matches!(case.wanted.way, Way::Captured { .. }) => Side::Silent,
        Verdict::Excluded { .. } => Side::Direct,
        Verdict::Stuck { .. } => Side::Other,
        Verdict::Failed | Verdict::Neutral => Side::Silent,
    };
    let mut sides: Vec<Side> = case.current.iter().map(side).collect();
    sides.retain(|side| *side != Side::Silent);
    let first = sides.first().copied().unwrap_or(Side::Silent);
    if sides.iter().all(|side| *side == first) {
        first
    } else {
        Side::Other
    }
}

fn agreement((wanted, rules, seen): (Side, Side, Side)) -> Agreement {
    let contradicts = |one: Side, other: Side| {
        !matches!(one, Side::Silent | Side::Doubt)
            && !matches!(other, Side::Silent | Side::Doubt)
            && one != other
    };
    // In no mesh, nothing should be redirected.
    let wanted_or_none = if wanted == Side::Silent {
        Side::Direct
    } else {
        wanted
    };
    if contradicts(wanted_or_none, rules) || contradicts(wanted, seen) || contradicts(rules, seen) {
        Agreement::Disagree
    } else if wanted == Side::Doubt || rules == Side::Doubt {
        Agreement::Unclear
    } else {
        Agreement::Agree
    }
}

fn sentence(
    case: &Case<'_>,
    agreement: Agreement,
    (wanted, rules, seen): (Side, Side, Side),
) -> String {
    let head = match (agreement, seen) {
        (Agreement::Agree, Side::Silent) => "Spec and rules agree",
        (Agreement::Agree, _) => "All three agree",
        (Agreement::Disagree, Side::Other) if wanted == rules => {
            "The rules are right, and it does not work"
        }
        (Agreement::Disagree, _) => "They disagree",
        (Agreement::Unclear, _) => "Not clear",
    };
    let mut text = format!(
        "{head}: {}, {}, and {}.",
        says_spec(case.wanted),
        says_rules(case),
        says_kernel(case)
    );
    let lost: u64 = case
        .stranded
        .iter()
        .map(|edge| ledger::total(&edge.counts))
        .sum();
    if lost > 0 {
        text.push_str(&format!(
            " But on the rest of the way, {} of the proxy's own got no further.",
            connections(lost)
        ));
    }
    text
}

fn connections(n: u64) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} connection{s}")
}

fn says_spec(wanted: &Wanted) -> String {
    match wanted.way {
        Way::Captured { port } => {
            format!("the pod's spec wants it captured by its proxy (port {port})")
        }
        Way::Direct => "the pod's spec leaves it alone".to_owned(),
        Way::NoMesh => "the pod is in no mesh, so nothing should be captured".to_owned(),
        Way::Unclear => "the pod's spec does not tell what to do with it".to_owned(),
    }
}

fn says_rules(case: &Case<'_>) -> String {
    let doubt = match case.live.known {
        Known::Fully => "",
        Known::Partly => " as far as they could be read",
        Known::NotRead => return "the live rules are not known".to_owned(),
    };
    let Some(path) = &case.live.path else {
        return "the live rules are not known".to_owned();
    };
    let what = match (path.outcome, case.wanted.way) {
        (Outcome::Unknown, _) => {
            return format!(
                "what the live rules do is not certain ({})",
                path.because.join("; ")
            );
        }
        (Outcome::Redirected { port, .. }, Way::Captured { port: meant }) if port == meant => {
            "send it there".to_owned()
        }
        (Outcome::Redirected { port, .. }, Way::Captured { port: meant }) => {
            format!("send it to port {port}, which is not the proxy's {meant}")
        }
        (Outcome::Redirected { port, .. }, _) => format!("send it to port {port}"),
        (Outcome::Direct, Way::Captured { .. }) => format!("let it go past the proxy{}", at(path)),
        (Outcome::Direct, _) => "let it go".to_owned(),
        (Outcome::Dropped, _) => "drop it".to_owned(),
        (Outcome::Rejected, _) => "reject it".to_owned(),
    };
    format!("the live rules{doubt} {what}")
}

/// The rule that decides, by its place.
fn at(path: &Path) -> String {
    let Some(step) = &path.decided_by else {
        return String::new();
    };
    match step.number {
        Some(number) => format!(" ({} {} rule {number})", step.table, step.chain),
        None => format!(" ({} {})", step.table, step.chain),
    }
}

fn says_kernel(case: &Case<'_>) -> String {
    if case.ask.protocol == Protocol::Udp {
        return "UDP is not watched".to_owned();
    }
    let mut parts = Vec::new();
    for word in [
        "bypassed",
        "stuck",
        "intercepted",
        "excluded",
        "failed",
        "neutral",
    ] {
        let like = case
            .current
            .iter()
            .filter(|edge| edge.verdict.as_str() == word);
        let n: u64 = like.map(|edge| ledger::total(&edge.counts)).sum();
        if n > 0 {
            parts.push((n, word));
        }
    }
    if parts.is_empty() {
        let since = match case.live.differed {
            true => " since they are so",
            false => "",
        };
        return format!("no such connection was seen{since}");
    }
    if let [(n, word)] = parts[..] {
        return match n {
            1 => format!("the one connection seen {}", passive(word)),
            n => format!("all {n} connections seen {}", passive(word)),
        };
    }
    let all = parts.iter().map(|(n, _)| n).sum();
    let shown: Vec<String> = parts
        .iter()
        .map(|(n, word)| format!("{n} {}", passive(word)))
        .collect();
    format!("of {} seen {}", connections(all), shown.join(", "))
}

fn passive(verdict: &str) -> &str {
    match verdict {
        "bypassed" => "went past the proxy",
        "stuck" => "got stuck",
        "intercepted" => "went through the proxy",
        "excluded" => "went direct",
        "failed" => "failed",
        _ => "needed no judgement",
    }
}

/// Open findings of the pod about such connections, and the codes of its others.
fn findings(case: &Case<'_>, agreement: Agreement) -> (Vec<Finding>, Vec<Code>) {
    let reasons = observed::reasons(&case.current);
    let ends: Vec<String> = reasons
        .iter()
        .map(|reason| reason.replace('_', "-"))
        .collect();
    let ends_at = ends_at(case);
    let about = |finding: &Finding| {
        let code = finding.code.as_str();
        let same_way = finding
            .direction
            .is_none_or(|way| way == case.ask.direction);
        let mut facts = finding.evidence.iter();
        let named = facts.any(|fact| ends_at.iter().any(|end| names(&fact.value, end)));
        let reason = ends.iter().any(|end| code.ends_with(end.as_str()));
        let bypass = agreement == Agreement::Disagree && code.starts_with("bypass-");
        let told = !case.current.is_empty() && (reason || bypass);
        let onward = !case.stranded.is_empty() && code.starts_with("stuck-");
        (same_way && told) || (named && (onward || agreement == Agreement::Disagree))
    };
    let open = case.board.findings.iter().filter(|finding| {
        finding.pod.as_ref() == Some(&case.pod.pod) && matches!(finding.state, FindingState::Open)
    });
    let (about, others): (Vec<&Finding>, Vec<&Finding>) = open.partition(|finding| about(finding));
    (
        about.into_iter().cloned().collect(),
        others.into_iter().map(|finding| finding.code).collect(),
    )
}

/// Where the connection ends, as evidence writes it.
fn ends_at(case: &Case<'_>) -> Vec<String> {
    match case.ask.direction {
        Direction::Outbound => vec![case.ask.remote.to_string()],
        Direction::Inbound => {
            let own = case.pod.ips.iter();
            own.map(|ip| SocketAddr::new(*ip, case.ask.port).to_string())
                .collect()
        }
    }
}

/// Whether the address stands in the text, and not only as a part of a longer one.
fn names(text: &str, address: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    text.match_indices(address).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + address.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(|c| c.is_ascii_digit())
    })
}
