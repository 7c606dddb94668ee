//! Connections lost in a connection tracking table.
//!
//! A full table drops the first packet of every new connection, without a word to either end: the
//! upstream that does not answer was never asked.

use crate::{
    engine::{
        Code,
        directory::PodId,
        findings::{Case, Findings},
        tables::{Table, Whose},
        unanswered::Hang,
    },
    model::Time,
};

impl Whose {
    const fn name(self) -> &'static str {
        match self {
            Self::Pod => "of the pod's network namespace",
            Self::Node => "of the node",
        }
    }
}

/// A handshake is not answered, and the table it has to go through is full.
pub(in crate::engine) fn full(
    at: Time,
    pod: PodId,
    table: &Table,
    hang: &Hang,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), Code::FailConntrackFull);
    case.first = case.first.min(hang.first);
    case.add(&super::lost::hang_sample(hang));
    let now = table.now;
    let entries = format!(
        "{} of {} entries, {}",
        now.count,
        now.max,
        table.whose.name()
    );
    case.state(at, "table", entries);
    if table.lost > 0 || table.evicted > 0 {
        let text = format!(
            "{} packets dropped and {} entries given up early since it was first looked at",
            table.lost, table.evicted
        );
        case.state(at, "lost", text);
        case.witnesses.insert("the table's own counters grow");
    }
    case.witnesses.insert("the table is full");
    case.witnesses.insert("SYNs are not answered");
}

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str) -> String {
    format!(
        "new connections of {pod} are lost: the connection tracking table is full ({})",
        case.fact("table").unwrap_or_default()
    )
}

/// What to change.
pub(super) fn remedy(case: &Case) -> String {
    let where_ = match case.fact("table") {
        Some(table) if table.ends_with(Whose::Node.name()) => {
            "conntrack -S and conntrack -L on the node show who fills it"
        }
        _ => {
            "conntrack -L in the pod's network namespace shows who fills it: each of the app's connections has one entry for its way to the proxy and one for the proxy's own"
        }
    };
    format!(
        "Raise net.netfilter.nf_conntrack_max on the node (one limit for each namespace of the machine, and memory of about 300 bytes for each entry), or have fewer connections at a time: keep-alive, pools, and shorter nf_conntrack_tcp_timeout_established and _time_wait. {where_}."
    )
}
