//! What the kubelet says of the proxy's and the mesh's own containers.
//!
//! A status alone says little: a proxy may be not ready and serve, and statuses come late. But where
//! nobody listens on a capture port, the status says why, and then it is the root: one finding. An
//! init container of the mesh that failed needs no traffic to be wrong.

use super::stuck::COMES_UP_US;
use crate::{
    engine::{
        Code,
        directory::{PodEntry, PodId},
        findings::{Case, Findings, Render},
        memory::Killed,
    },
    model::{Container, ContainerStatus, Ended, Time},
};

/// The proxy's container, if the kubelet says that it is not ready.
fn unready(entry: &PodEntry) -> Option<(&Container, &ContainerStatus)> {
    let mut proxies = entry.pod.containers.iter().filter(|c| entry.is_proxy(c));
    let unready = |c: &'_ &Container| c.status.as_ref().is_some_and(|s| !s.ready);
    let container = proxies.find(unready)?;
    Some((container, container.status.as_deref()?))
}

/// What it is called that nobody listens on a capture port of this pod.
pub(in crate::engine) fn nobody(at: Time, entry: &PodEntry) -> Code {
    if entry.intent.as_ref().is_some_and(|i| i.node_proxy) {
        return Code::BypassAmbientLost;
    }
    if entry.killed.is_some() {
        return Code::SidecarNotReady;
    }
    match unready(entry) {
        None => Code::StuckNoListener,
        Some((_, status)) => {
            let ran = status.restarts > 0 || status.ended.is_some() || status.before.is_some();
            let starts = !ran && at.micros_since(entry.since) < COMES_UP_US;
            [Code::SidecarNotReady, Code::StuckStartupGap][usize::from(starts)]
        }
    }
}

/// Files and closes what statuses speak for and against.
pub(super) fn statuses(
    at: Time,
    pod: PodId,
    entry: &PodEntry,
    findings: &mut Findings,
    render: Render<'_>,
) {
    init(at, pod, entry, findings, render);
    if unready(entry).is_none() && entry.killed.is_none() {
        // What is left, if anything, is for the sockets to say.
        for code in [Code::SidecarNotReady, Code::StuckStartupGap] {
            findings.resolve(at, Some(pod), code, render);
        }
        return;
    }
    // The status came after the refusals that it explains.
    let root = nobody(at, entry);
    for symptom in [Code::StuckNoListener, Code::StuckStartupGap] {
        let current = findings.get(pod, symptom).is_some_and(Case::is_current);
        if current && root != symptom && root != Code::BypassAmbientLost {
            let case = findings.note(at, Some(pod), root);
            if entry.killed.is_some() {
                case.witnesses.insert("memory of its control group");
            }
            findings.absorb(at, pod, root, symptom, render);
        }
    }
}

fn init(at: Time, pod: PodId, entry: &PodEntry, findings: &mut Findings, render: Render<'_>) {
    let names = entry.intent.iter().flat_map(|i| &i.mesh_init_containers);
    let names: Vec<&String> = names.collect();
    let mut all = entry
        .pod
        .containers
        .iter()
        .filter(|c| names.contains(&&c.name));
    let failed = all.find_map(|c| Some((c, c.status.as_ref()?, failure(c.status.as_ref()?)?)));
    let Some((container, status, ended)) = failed else {
        findings.resolve(at, Some(pod), Code::InitFailed, render);
        return;
    };
    let case = findings.note(at, Some(pod), Code::InitFailed);
    case.state(at, "init_container", container.name.clone());
    case.state(at, "ended", ended.to_string());
    case.state(at, "restarts", status.restarts.to_string());
    case.witnesses.insert("status of the pod");
}

/// How it failed; `None` if it runs, or did what it should in the end.
fn failure(status: &ContainerStatus) -> Option<&Ended> {
    match (&status.ended, &status.waiting) {
        (Some(ended), _) => Some(ended),
        (None, Some(_)) => status.before.as_ref(),
        (None, None) => None,
    }
    .filter(|ended| ended.exit_code != 0)
}

/// The status that explains a case, for its evidence.
pub(super) fn facts(case: &Case, entry: &PodEntry, push: &mut dyn FnMut(&str, String)) {
    if case.code == Code::InitFailed {
        return;
    }
    if let Some(killed) = &entry.killed {
        killed_facts(killed, push);
    }
    for container in entry.pod.containers.iter().filter(|c| entry.is_proxy(c)) {
        if let Some((count, last)) = entry.renewed.get(&container.name) {
            let ago = case.last.micros_since(*last) / 1_000_000;
            let text = format!("{count} since this was looked at, the last {ago} s before");
            push("new_container", text);
        }
        let Some(status) = container.status.as_deref() else {
            continue;
        };
        let ready = if status.ready { "ready" } else { "not ready" };
        let waiting = status.waiting.as_ref().map(|w| format!(", waiting: {w}"));
        let waiting = waiting.unwrap_or_default();
        let text = format!(
            "{}: {ready}, restarts {}{waiting}",
            container.name, status.restarts
        );
        push("status", text);
        if let Some(ended) = status.ended.as_ref().or(status.before.as_ref()) {
            push("last_state", ended.to_string());
        }
    }
}

fn killed_facts(killed: &Killed, push: &mut dyn FnMut(&str, String)) {
    let whose = ["", " of a container that is gone"][usize::from(killed.gone)];
    let kills = match killed.count {
        1 => "1 process".to_owned(),
        n => format!("{n} processes"),
    };
    push(
        "oom_kills",
        format!("{kills}{whose} killed by the kernel for want of memory"),
    );
    let limit = killed
        .limit
        .map_or_else(|| "none of its own".to_owned(), bytes);
    let peak = killed
        .peak
        .map(|peak| format!(", at most {} used", bytes(peak)));
    push("memory_limit", limit + &peak.unwrap_or_default());
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    let mib = count / (1 << 20);
    let tenths = count % (1 << 20) * 10 / (1 << 20);
    format!("{mib}.{tenths} MiB").replace(".0 MiB", " MiB")
}

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str, n: &str, since: Option<Time>) -> String {
    match case.code {
        Code::InitFailed => format!(
            "the mesh's init container {} of {pod} failed: {}",
            case.fact("init_container").unwrap_or_default(),
            case.fact("ended").unwrap_or_default()
        ),
        Code::StuckStartupGap => {
            let gap = since.map_or(0, |since| case.last.micros_since(since) / 1_000_000);
            format!(
                "{pod} is redirected to a proxy that is not ready yet, {gap} s after its start: {n} lost"
            )
        }
        _ => format!("the proxy of {pod} is down and its traffic is redirected to it: {n} lost"),
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, entry: Option<&PodEntry>, proxy: &str) -> String {
    if case.code == Code::InitFailed {
        return format!(
            "Read the log of {}. Its usual reasons: no NET_ADMIN or NET_RAW (pod security), a netfilter backend or module the node does not have, and, where it only checks, a CNI plugin of the mesh that did not run for this pod.",
            case.fact("init_container").unwrap_or("the init container")
        );
    }
    if case.code == Code::StuckStartupGap {
        return format!(
            "Run {proxy} as a native sidecar, or hold the app until the proxy is ready; until then let the app try again."
        );
    }
    if let Some(killed) = entry.and_then(|entry| entry.killed.as_ref()) {
        let limit = killed.limit.map_or_else(
            || "which has none, so the node itself is short of memory".to_owned(),
            |limit| format!("now {}", bytes(limit)),
        );
        return format!(
            "{proxy} was killed for want of memory: raise its memory limit ({limit}), or give it less to know (scope of its configuration)."
        );
    }
    let status = entry.and_then(unready).map(|(_, status)| status);
    let ended = status.and_then(|s| s.ended.as_ref().or(s.before.as_ref()));
    match ended {
        Some(ended) if ended.reason == "OOMKilled" => format!(
            "{proxy} was killed for want of memory: raise its memory limit, or give it less to know (scope of its configuration)."
        ),
        Some(ended) => format!("Read the log of {proxy} from before its last end ({ended})."),
        None => format!("Read the log of {proxy} and the pod's events: it does not become ready."),
    }
}
