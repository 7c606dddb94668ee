//! Connections that hang, in words: the sentence and the remedy of each kind.
//!
//! Apart from `text` and `remedy`, which say what all findings have in common.

use crate::{
    engine::{Code, findings::Case},
    model::Direction,
};

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str, n: &str, to: &str) -> String {
    let inbound = case.direction() == Some(Direction::Inbound);
    match case.code {
        Code::StuckAcceptQueue => {
            format!("the accept queue of the proxy of {pod} overflows: {n} found it full")
        }
        Code::StuckUnread => {
            format!("the proxy of {pod} accepted {n} and does not read what was sent")
        }
        Code::StuckUpstreamSilent if inbound => {
            format!("the app of {pod} at {to} does not answer: {n} of the proxy wait")
        }
        Code::StuckUpstreamSilent => format!("{to} does not answer the proxy of {pod}: {n} wait"),
        Code::StuckNoUpstream if super::hang::is_hung_up(case) => {
            format!("the proxy of {pod} ends {n} to {to} at once and goes nowhere for them")
        }
        Code::StuckNoUpstream if case.destinations.is_empty() => {
            format!("the proxy of {pod} took {n} with a request and went nowhere for them")
        }
        Code::StuckNoUpstream => {
            format!("the proxy of {pod} took {n} to {to} with a request and went nowhere for them")
        }
        _ => format!(
            "half-closed connections of {pod} pile up: {}",
            case.fact("half_closed").unwrap_or("not known where")
        ),
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, proxy: &str) -> String {
    let top = case.destinations.most(1);
    let to = top
        .first()
        .map_or_else(|| "that destination".to_owned(), |(d, _)| d.to_string());
    match case.code {
        Code::StuckAcceptQueue => format!(
            "Give {proxy} more CPU (limits.cpu) or more worker threads, and raise the backlog of its listeners together with the sysctl net.core.somaxconn of the pod; look whether it is throttled (cpu.stat of its cgroup)."
        ),
        Code::StuckUnread => format!(
            "{proxy} accepts but its reading side stands still: take its thread dump, look at its CPU throttling and at its log, then restart it."
        ),
        Code::StuckUpstreamSilent if case.direction() == Some(Direction::Inbound) => format!(
            "The proxy handed the requests over; the app at {to} has them. Look at the app: threads all busy, a lock, or a dependency of its own that hangs."
        ),
        Code::StuckUpstreamSilent if case.fact("acknowledged").is_some_and(|a| a.starts_with("no")) => format!(
            "{to} does not even acknowledge what the proxy sent: it is gone or cut off (node down, network policy, a firewall that forgot the connection), or its receive buffer is full. Check that it still runs where the mesh believes it to be."
        ),
        Code::StuckUpstreamSilent => format!(
            "The proxy did its part: {to} has the requests (acknowledged) and is silent. Look at that workload, its own proxy first; set a request timeout in the mesh for its route, so that callers do not wait for ever."
        ),
        Code::StuckNoUpstream if super::hang::is_hung_up(case) => format!(
            "Ask {proxy} why it ends what is for {to}: a destination outside the registry while only registered ones are allowed, a cluster without healthy endpoints, a listener without a route, a limit of connections, or a filter that refuses this app. Its access log says which."
        ),
        Code::StuckNoUpstream => format!(
            "Ask {proxy} where it sends {to}: a listener without a route, a cluster without healthy endpoints, or a destination outside the registry while only registered ones are allowed. Its log and its config dump name it."
        ),
        _ if case.fact("left_open_by") == Some("the app") => "The app does not close connections its peer has closed: find the client or pool that leaks them (ss -tnp state close-wait names the process).".to_owned(),
        _ => format!(
            "{proxy} does not close connections its peer has closed: look at its idle timeouts and its version's known leaks; restart it before it runs out of file descriptors."
        ),
    }
}
