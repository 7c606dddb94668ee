//! The agent about itself: what it cannot see on this node, what it dropped, whom it does not know.
//!
//! It must never count what is only a detail of its own work as a loss of the user's.

use crate::{
    engine::{
        Code,
        findings::{Case, Findings, Render},
    },
    model::{Coverage, Loss, SignalCoverage, Time},
};

/// Coverage came in: one finding names everything that is not seen, or none.
pub(in crate::engine) fn coverage(
    at: Time,
    coverage: &Coverage,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let missing = |s: &&SignalCoverage| s.is_missing();
    if !coverage.signals.iter().any(|s| missing(&s)) {
        findings.resolve(at, None, Code::AgentDegraded, render);
        return;
    }
    let case = findings.note(at, None, Code::AgentDegraded);
    case.witnesses.insert("attempted at start");
    case.witnesses.insert("refused by the kernel");
    for signal in coverage.signals.iter().filter(missing) {
        let why = if signal.reason.is_empty() {
            "not available"
        } else {
            signal.reason.as_str()
        };
        let text = format!(
            "{} ({}): {why}; without it {}",
            signal.signal, signal.target, signal.without_it
        );
        case.sources.add(text, 1);
    }
}

/// Bounds at which an answer is lost, and what of it.
const BOUNDS: &[(&str, &str)] = &[
    (
        "edge_map_full",
        "connections counted under their pod, but without their addresses, and not judged: the kernel's table of edges was full",
    ),
    (
        "edge_lost",
        "connections not counted at all: that table and the one for what does not fit it were full",
    ),
    (
        "ring_buffer",
        "signals not told, because they came faster than they were read: a process's name is missing, a finding late. Connections are counted all the same",
    ),
    (
        "arrival_unknown",
        "connections counted, but not judged: no room to wait for where they came out",
    ),
    ("datagram_lost", "flows over UDP not seen"),
    (
        "datagrams",
        "flows over UDP not judged: too many waited for their pod",
    ),
    (
        "rewrites",
        "destinations rewritten before netfilter not remembered",
    ),
    ("streams", "open connections not followed"),
    ("listeners", "listening sockets not remembered"),
    ("rules", "network namespaces whose rules are not kept"),
    (
        "outputs",
        "findings not logged: they are shown all the same",
    ),
    ("pods", "pods not known: there are too many"),
    ("netns", "network namespaces not known: there are too many"),
    ("cgroups", "cgroups not known: there are too many"),
];

/// What was dropped since the last time: one finding names everything.
pub(in crate::engine) fn overload(at: Time, grew: &[Loss], findings: &mut Findings) {
    for loss in grew {
        let Some((bound, lost)) = BOUNDS.iter().find(|(bound, _)| *bound == loss.at) else {
            continue;
        };
        let case = findings.note(at, None, Code::AgentOverload);
        case.witnesses.insert("counted where it was dropped");
        let before = case
            .fact(bound)
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let sum = before.unwrap_or(0).saturating_add(loss.count);
        case.withdraw(at, bound);
        case.state(at, bound, format!("{sum} {lost}"));
    }
}

/// Of so many connections these have no pod: one finding, by reason.
pub(in crate::engine) fn unattributed(at: Time, grew: &[Loss], all: u64, findings: &mut Findings) {
    let case = findings.note(at, None, Code::AgentUnattributed);
    case.witnesses.insert("counted");
    let mut sum = 0_u64;
    for loss in grew {
        sum = sum.saturating_add(loss.count);
        let why = match loss.at.as_str() {
            "netns_unknown" => (
                "netns_unknown",
                "in a network namespace that the agent does not find on this node",
            ),
            "no_pod" => ("no_pod", "in a network namespace that no known pod has"),
            "not_its_address" => ("not_its_address", "from an address that is not their pod's"),
            "late_binding_full" => ("late_binding_full", "with no room to wait for their pod"),
            _ => ("other", "for another reason"),
        };
        case.state(at, why.0, format!("{} lately, {}", loss.count, why.1));
    }
    case.connections = case.connections.saturating_add(sum);
    case.state(at, "share", format!("{sum} of the last {all} connections"));
}

/// Nearly every connection has its pod.
pub(in crate::engine) fn attributed(at: Time, findings: &mut Findings, render: Render<'_>) {
    findings.resolve(at, None, Code::AgentUnattributed, render);
}

/// One sentence about the agent.
pub(super) fn summary(case: &Case) -> String {
    match case.code {
        Code::AgentOverload => {
            let bounds: Vec<&str> = case.facts().map(|(bound, _)| bound).collect();
            format!("the agent had to drop something: {}", bounds.join(", "))
        }
        Code::AgentUnattributed => format!(
            "{} belong to no pod that is known",
            case.fact("share").unwrap_or("some connections")
        ),
        _ => {
            let missing = u64::try_from(case.sources.size().0).unwrap_or(0);
            let signals = super::words::plural(missing, "signal");
            format!("{signals} of this node's kernel cannot be had")
        }
    }
}
