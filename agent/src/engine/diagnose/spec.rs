//! What the pod's spec alone says is wrong, and traffic that only the spec explains.
//!
//! Ids shared with the proxy, two meshes at once, a mesh asked for in vain: nothing the kernel
//! did is needed to know, and nobody else holds all manifests against what a mesh installs.
//! Such a finding stays until the spec changes. It must never be told beside the traffic
//! finding that it foretold: one cause, one finding.

use super::{Judged, Scene, ripe::after_start, sample};
use crate::{
    engine::{
        Code, Reason, Verdict,
        directory::{PodEntry, PodId},
        findings::{Case, Findings, Render},
        verdict::{Expected, Party, Path},
    },
    mesh::Intent,
    model::{ContainerKind, Direction, NO_ID, Outcome, Time},
};

/// Traffic of an app with the proxy's ids is a finding of its own; so long it has to show.
const SHARED_ID_WAIT_US: u64 = 20_000_000;

/// Files what a pod's spec speaks for, and closes what it speaks against.
pub(in crate::engine) fn spec(
    at: Time,
    pod: PodId,
    entry: &PodEntry,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let standing = &entry.standing;
    let intent = entry.intent.as_deref();
    let told = |code| findings.get(pod, code).is_some_and(Case::is_current);
    let seen = told(Code::BypassProxyUid) || told(Code::BypassProxyGid);
    let shared = intent.and_then(shared_ids).filter(|_| !seen);
    let listed = intent.and_then(Intent::empty_inbound_list);
    let known = told(Code::BypassInboundEmpty) || serves(entry);
    let facts = [
        (Code::BypassSharedUid, "shared", shared),
        (
            Code::BypassInboundEmpty,
            "list",
            listed.filter(|_| known).map(str::to_owned),
        ),
        (Code::BypassHostNetwork, "signs", joined(&standing.on_host)),
        (Code::MeshConflict, "marks", joined(&standing.marks)),
    ];
    for (code, what, text) in facts {
        match text {
            Some(text) => {
                let case = findings.note(at, Some(pod), code);
                case.state(at, what, text);
                case.witnesses.insert("spec of the pod");
            }
            None => findings.resolve(at, Some(pod), code, render),
        }
    }
    if standing.asked.is_empty() {
        findings.resolve(at, Some(pod), Code::BypassUnmeshed, render);
    }
    super::status::statuses(at, pod, entry, findings, render);
}

fn joined(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn shared_ids(intent: &Intent) -> Option<String> {
    let shared = intent.shared_ids.iter();
    let shared: Vec<String> = shared
        .map(|s| {
            format!(
                "container {} has the proxy's {} {}",
                s.container, s.field, s.id
            )
        })
        .collect();
    joined(&shared)
}

/// Whether an app of the pod says that it serves anything.
fn serves(entry: &PodEntry) -> bool {
    let mut apps = entry
        .pod
        .containers
        .iter()
        .filter(|c| c.kind != ContainerKind::Init && !entry.is_proxy(c));
    apps.any(|c| !c.ports.is_empty())
}

/// A connection went direct because the spec says so, in a way that deserves a word.
pub(super) fn excluded(j: &Judged<'_>, scene: &Scene<'_>, findings: &mut Findings) {
    let Verdict::Excluded { reason } = j.verdict else {
        return;
    };
    if reason == Reason::InitContainer && !is_on_purpose(j, scene.intent) {
        let case = findings.note(j.at, Some(j.pod), Code::BypassInitContainer);
        case.add(&sample(j));
        case.witnesses.insert("container of the socket");
        case.witnesses.insert("path of the connection");
    }
    let inbound = j.key.direction == Direction::Inbound && j.view.expected == Expected::Off;
    if let (true, Some(list)) = (inbound, scene.intent.empty_inbound_list()) {
        let case = findings.note(j.at, Some(j.pod), Code::BypassInboundEmpty);
        case.add(&sample(j));
        case.state(j.at, "list", list.to_owned());
        case.witnesses.insert("spec of the pod");
        case.witnesses
            .insert("accepted by another socket than the proxy's");
    }
}

/// An init container with the proxy's ids has them to get out: the documented way.
fn is_on_purpose(j: &Judged<'_>, intent: &Intent) -> bool {
    let owner = &j.key.owner;
    let unknown = owner.uid == NO_ID && owner.gid == NO_ID;
    unknown || Some(owner.uid) == intent.proxy_uid || Some(owner.gid) == intent.proxy_gid
}

/// A connection of a pod that is in no mesh.
pub(in crate::engine) fn unmeshed(j: &Judged<'_>, entry: &PodEntry, findings: &mut Findings) {
    let talks = j.outcome == Outcome::Established && j.view.path == Path::Direct;
    let init = entry
        .container(j.container)
        .is_some_and(|c| c.kind == ContainerKind::Init);
    if !talks || init || j.view.party != Party::App || entry.standing.asked.is_empty() {
        return;
    }
    let asked = entry.standing.asked.iter();
    let asked: Vec<String> = asked
        .map(|a| format!("{} ({})", a.sign, a.profile))
        .collect();
    let case = findings.note(j.at, Some(j.pod), Code::BypassUnmeshed);
    case.add(&sample(j));
    case.state(j.at, "asked", asked.join("; "));
    case.witnesses.insert("spec of the pod");
    case.witnesses.insert("path of the connection");
}

/// When a case of the spec may be told; `None` for all others.
pub(in crate::engine) fn ripe_by_spec(case: &Case, entry: &PodEntry) -> Option<Time> {
    match case.code {
        Code::BypassSharedUid => Some(case.first.plus_micros(SHARED_ID_WAIT_US)),
        // The mark of a pod that is a member may come a moment after the pod.
        Code::BypassUnmeshed => Some(after_start(case, entry.since)),
        Code::BypassInboundEmpty
        | Code::BypassInitContainer
        | Code::BypassHostNetwork
        | Code::InitFailed
        | Code::MeshConflict => Some(case.first),
        _ => None,
    }
}

/// What is wrong, in one sentence.
pub(super) fn summary(case: &Case, pod: &str, n: &str, who: &str) -> String {
    let fact = |what| case.fact(what).unwrap_or_default();
    match case.code {
        Code::BypassSharedUid => format!(
            "the spec of {pod} lets its app past the proxy: {}",
            fact("shared")
        ),
        Code::BypassInboundEmpty if case.connections == 0 => {
            format!("nothing inbound of {pod} is captured: the list of its ports is empty")
        }
        Code::BypassInboundEmpty => format!(
            "nothing inbound of {pod} is captured, the list of its ports is empty: {n} reached its app directly"
        ),
        Code::BypassInitContainer => {
            format!("init {who} of {pod} talks outside the mesh: {n}")
        }
        Code::BypassUnmeshed => {
            format!("{pod} is meant to be in a mesh and has no part of one: {n} went unprotected")
        }
        Code::BypassHostNetwork => format!(
            "{pod} is marked for a mesh and uses the node's network, where no mesh captures"
        ),
        _ => format!("{pod} belongs to two meshes at once"),
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, entry: Option<&PodEntry>, container: &str) -> String {
    let fact = |what| case.fact(what).unwrap_or("the setting");
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    match case.code {
        Code::BypassSharedUid => format!(
            "Give the app an id of its own in securityContext ({}). Where the platform gives all containers of a pod one id, let it give the proxy another.",
            fact("shared")
        ),
        Code::BypassInboundEmpty => format!(
            "Set {} to \"*\" or to the ports the app serves, or remove it, and make the pod again; or confirm that nothing inbound shall be captured.",
            fact("list")
        ),
        Code::BypassInitContainer => format!(
            "Nothing, if {container} may talk outside the mesh. If not, run the proxy as a native sidecar declared before it, so that proxy and rules are there when it starts."
        ),
        Code::BypassUnmeshed => format!(
            "Delete {pod} so that it is made again: a mesh adds its part when a pod is made. If the new one has none either, look at the mesh's injection webhook (its selectors, its log) or its CNI agent. If the pod shall be outside, say so in its own labels and not by {}.",
            fact("asked")
        ),
        Code::BypassHostNetwork => format!(
            "Nothing, if the pod needs the node's network. If not, remove hostNetwork: true; if so, remove what marks it for the mesh ({}), which has no effect.",
            fact("signs")
        ),
        _ => format!(
            "Remove one of them and make the pod again: {}.",
            fact("marks")
        ),
    }
}
