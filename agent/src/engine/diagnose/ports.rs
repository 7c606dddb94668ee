//! Source ports: used up, or about to be.
//!
//! Nearly is a warning, told from a share on at which a burst could use up the rest; used up is told
//! by connect(2) itself. Both are one finding: what to do is the same.

use std::net::SocketAddr;

use super::stuck::signal_sample;
use crate::{
    engine::{
        Code, Severity,
        directory::PodId,
        evidence::Sample,
        findings::{Case, Findings, Render},
    },
    model::{Direction, EdgeKey, PortUse, Time},
};

/// Told from this share on; over when the share is below what the node still tells of.
const NEARLY_PERCENT: u64 = 80;
/// What connect(2) says.
const NONE_LEFT: &str = "connect(2) found no free source port";

/// connect(2) found no free source port.
pub(in crate::engine) fn no_port(
    at: Time,
    pod: PodId,
    key: &EdgeKey,
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), Code::FailEphemeralPorts);
    case.add(sample);
    case.witnesses.insert(NONE_LEFT);
    case.state(at, "from", key.local.to_string());
}

/// Source ports of which most are in use.
pub(in crate::engine) fn ports(
    at: Time,
    pod: PodId,
    uses: &[PortUse],
    findings: &mut Findings,
    render: Render<'_>,
) {
    let scarce = uses.iter().filter(|u| u.percent() >= NEARLY_PERCENT);
    for (rank, one) in scarce.enumerate() {
        let case = findings.note(at, Some(pod), Code::FailEphemeralPorts);
        case.add(&signal_sample(Direction::Outbound, one.to, None, 0));
        case.witnesses.insert("the kernel's socket table");
        if rank == 0 {
            case.state(at, "from", one.from.to_string());
            let nearly = format!(
                "{} % of {} ports: {} open, {} closed and not free yet",
                one.percent(),
                one.range,
                one.open,
                one.waiting
            );
            case.state(at, "nearly", nearly);
        }
    }
    let told = findings.get(pod, Code::FailEphemeralPorts);
    if uses.is_empty() && told.is_some_and(is_nearly) {
        findings.resolve(at, Some(pod), Code::FailEphemeralPorts, render);
    }
}

fn is_nearly(case: &Case) -> bool {
    !case.witnesses.contains(NONE_LEFT)
}

/// How much a case matters: what only may happen is a warning.
pub(super) fn severity(case: &Case) -> Severity {
    if case.code == Code::FailEphemeralPorts && is_nearly(case) {
        return Severity::Warning;
    }
    case.code.severity()
}

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str, to: &str) -> String {
    match case.fact("nearly") {
        Some(nearly) if is_nearly(case) => {
            format!("{pod} is about to run out of source ports for {to}: {nearly}")
        }
        _ => format!("{pod} has no free source port left for {to}: connect(2) fails at once"),
    }
}

/// What to change.
pub(super) fn remedy(to: Option<SocketAddr>) -> String {
    let to = to.map_or_else(String::new, |to| to.to_string());
    format!(
        "Let connections to {to} be reused (keep-alive, pooling), or close fewer of them: whoever closes first keeps the port in TIME_WAIT for a minute. Widen net.ipv4.ip_local_port_range in the pod (a sysctl of its securityContext) for time. If the address dialed from is the proxy's own for inbound connections, capture inbound by TPROXY: then the peer's address is kept."
    )
}
