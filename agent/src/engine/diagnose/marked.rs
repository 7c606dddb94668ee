//! The app's answers to a proxy that speaks in the peer's name, and leave the pod in place of coming to it.

use std::net::SocketAddr;

use crate::{
    engine::{
        Code,
        directory::PodId,
        evidence::Sample,
        findings::{Case, Findings},
    },
    model::{EdgeKey, MarkedWay, Time},
};

/// The fact that tells such a case from an upstream that does not answer.
pub(in crate::engine) const ROUTE: &str = "route";
const MARK: &str = "mark";
const TABLE: &str = "table";

/// The proxy is not answered by its own app, whose packets with the mark leave the pod.
pub(in crate::engine) fn astray(
    at: Time,
    pod: PodId,
    (way, key): (&MarkedWay, &EdgeKey),
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), Code::StuckUpstreamTimeout);
    case.add(sample);
    let leave = match way.leaves.as_deref() {
        Some("") | None => "have no way".to_owned(),
        Some(name) => format!("leave by {name}"),
    };
    let rule = way.table.map_or_else(
        || "no routing rule asks for the mark".to_owned(),
        |table| format!("a routing rule leads to table {table}, which has no local route"),
    );
    let (from, to, mark) = (key.remote.ip(), key.local, way.mark);
    case.state(
        at,
        ROUTE,
        format!("packets from {from} to {to} with mark {mark:#x} {leave}: {rule}"),
    );
    case.state(at, MARK, format!("{mark:#x}"));
    match way.table {
        Some(table) => case.state(at, TABLE, table.to_string()),
        None => case.withdraw(at, TABLE),
    }
    case.witnesses.insert("SYNs are sent again");
    case.witnesses
        .insert("where the kernel would send packets with the mark");
}

/// One sentence: what is wrong.
pub(super) fn summary(pod: &str, to: &str) -> String {
    format!(
        "the proxy of {pod} does not hear its own app at {to}: the answers leave the pod for the peer in whose name it asks"
    )
}

/// What to change.
pub(super) fn remedy(case: &Case, to: Option<SocketAddr>, table: Option<u32>) -> String {
    let (ip, all) = match to {
        Some(SocketAddr::V6(_)) => ("ip -6", "::/0"),
        _ => ("ip", "0.0.0.0/0"),
    };
    let mark = case.fact(MARK).unwrap_or("MARK");
    let route = |table: &str| format!("{ip} route add local {all} dev lo table {table}");
    let what = match case.fact(TABLE) {
        Some(table) => format!("`{}`", route(table)),
        None => {
            let table = table.map_or_else(|| "TABLE".to_owned(), |table| table.to_string());
            let route = route(&table);
            format!("`{ip} rule add fwmark {mark} lookup {table}` and `{route}`")
        }
    };
    format!(
        "Give the pod's network namespace what whoever writes its rules left out, or lost since: {what}. Making the pod again does it too; if it comes back, read the log of the mesh's CNI plugin or init container."
    )
}
