//! A proxy that its CPU limit keeps from running while connections wait for it.
//!
//! A full accept queue, a queue nobody accepts from and bytes nobody reads are what it looks like from
//! outside; the limit is the root. So this finding takes them in, with their facts.

use crate::{
    engine::{
        Code,
        directory::PodId,
        findings::{Case, Findings, Render},
        throttle::{Cpu, Spell},
    },
    model::Time,
};

/// What it looks like from outside.
pub(in crate::engine) const SYMPTOMS: [Code; 3] = [
    Code::StuckNotAccepting,
    Code::StuckAcceptQueue,
    Code::StuckUnread,
];

/// Queued connections that are there for so long, throttled all the time, are harm without any
/// other sign.
const WAITS_US: u64 = 5_000_000;

impl Cpu {
    /// Under which code a proxy that does not keep up is filed. A symptom is not told before its root is known
    /// not to be one.
    pub(super) fn code(self, symptom: Code) -> Code {
        match self {
            Self::Asked | Self::Free => symptom,
            Self::Throttled(_) => Code::SidecarThrottled,
        }
    }

    /// Whether whoever waits has waited under throttling alone for long.
    pub(super) fn lasts(self) -> bool {
        matches!(self, Self::Throttled(spell) if spell.last.micros_since(spell.first) >= WAITS_US)
    }
}

/// After the symptoms of one look were filed, or the limit was read: the root takes in what it explains, or is over.
pub(in crate::engine) fn settle(
    at: Time,
    pod: PodId,
    cpu: Cpu,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let root = Code::SidecarThrottled;
    let current = |code: &Code| findings.get(pod, *code).is_some_and(Case::is_current);
    if !current(&root) && !SYMPTOMS.iter().any(current) {
        return;
    }
    let Cpu::Throttled(spell) = cpu else {
        if cpu == Cpu::Free {
            findings.resolve(at, Some(pod), root, render);
        }
        return;
    };
    findings.note(at, Some(pod), root);
    for symptom in SYMPTOMS {
        findings.absorb(at, pod, root, symptom, render);
    }
    let case = findings.note(at, Some(pod), root);
    case.first = case.first.min(spell.first);
    case.witnesses.insert("cpu.stat of its control group");
    let Spell { limit, .. } = spell;
    case.state(
        at,
        "throttled",
        format!(
            "in {} of {} periods, kept from running for {} ms in {} s",
            limit.throttled,
            limit.periods,
            limit.throttled_us / 1_000,
            spell.last.micros_since(spell.first) / 1_000_000
        ),
    );
    case.state(
        at,
        "limit",
        format!(
            "{}m CPU of the {} ({} of {} µs)",
            limit.quota_us * 1_000 / limit.period_us.max(1),
            limit.level.as_str(),
            limit.quota_us,
            limit.period_us
        ),
    );
}

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str) -> String {
    format!(
        "the proxy of {pod} may not run while connections wait for it: throttled {}",
        case.fact("throttled").unwrap_or_default()
    )
}

/// What to change.
pub(super) fn remedy(case: &Case, proxy: &str) -> String {
    let limit = case.fact("limit").unwrap_or_default();
    format!(
        "Raise limits.cpu of {proxy} or take it away (the limit is {limit}), and give it no more worker threads than the limit has whole CPUs: with more of them it is used up sooner in each period."
    )
}
