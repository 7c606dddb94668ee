//! The agent about itself: what it cannot see on this node.

use crate::{
    engine::{
        Code,
        findings::{Findings, Render},
    },
    model::{Coverage, SignalCoverage, Time},
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
