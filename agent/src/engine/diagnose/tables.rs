//! Connections lost in a connection tracking table.
//!
//! A full table drops the first packet of every new connection, without a word to either end: the
//! upstream that does not answer was never asked.

use crate::{
    engine::{
        Code,
        directory::PodId,
        findings::{Case, Findings},
        severed::Proof,
        tables::{Table, Whose},
        unanswered::Hang,
    },
    model::{Direction, Family, Time},
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

/// Connections inside the pod are severed, and its namespace counts INVALID packets with it.
pub(in crate::engine) fn invalid(
    at: Time,
    pod: PodId,
    proof: &Proof,
    rule: Option<String>,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), Code::FailInvalidPackets);
    let all = proof.unheard.saturating_add(proof.alone) as u64;
    case.connections = case.connections.max(all);
    for to in &proof.to {
        case.destinations.add(*to, 1);
        let family = Family::of(to.ip());
        *case.about.get_mut(Direction::Outbound, family) = true;
    }
    let counted = format!("{} more while connections were severed", proof.invalid);
    case.state(at, "invalid_packets", counted);
    let mut severed = Vec::new();
    if proof.unheard > 0 {
        severed.push(format!(
            "{} that send again and again what the other end, in the same namespace, never gets",
            proof.unheard
        ));
    }
    if proof.alone > 0 {
        severed.push(format!(
            "{} of the proxy's whose other end, in the same namespace, is gone without a word",
            proof.alone
        ));
    }
    case.state(at, "severed", severed.join("; "));
    match rule {
        Some(rule) => {
            case.state(at, "dropped_by", rule);
            case.witnesses.insert("a live rule drops INVALID packets");
        }
        None => case.withdraw(at, "dropped_by"),
    }
    case.witnesses
        .insert("the namespace counts INVALID packets meanwhile");
    case.witnesses.insert("the kernel's socket table");
}

/// One sentence: what is wrong.
pub(super) fn invalid_summary(case: &Case, pod: &str) -> String {
    let fate = if case.fact("dropped_by").is_some() {
        "dropped by a rule"
    } else {
        "not translated, and go astray"
    };
    format!(
        "connections inside {pod} are severed: packets of theirs are INVALID to conntrack, and {fate}"
    )
}

/// What to change.
pub(super) fn invalid_remedy(case: &Case) -> String {
    let first = case.fact("dropped_by").map_or_else(
        || "Have INVALID packets dropped rather than sent astray where the mesh offers it (for example INVALID_DROP or drop-invalid-packets): then they are sent again in place of a reset.".to_owned(),
        |rule| format!("`{rule}` drops them, which is right only while they are few."),
    );
    format!(
        "{first} Then find why they are INVALID: entries that end before their connections (nf_conntrack_tcp_timeout_established, `conntrack -F` or `-D` by somebody) while nf_conntrack_tcp_loose is 0, or a TCP window that is tracked wrongly (nf_conntrack_tcp_be_liberal=1 ends that). `sysctl net.netfilter.nf_conntrack_log_invalid=6` in the pod's namespace has the kernel log each with its reason."
    )
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
