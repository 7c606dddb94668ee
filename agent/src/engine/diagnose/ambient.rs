//! A pod that is marked for the node's proxy and was lost to it.
//!
//! The mark outlives what it stands for: rules and listeners in the pod go with a restart of the
//! node, of the CNI agent or of the proxy, and nobody takes the mark away. Which of the two is
//! missing shows in the evidence; the cause and what to do are the same, so it is one finding.

use super::{
    Scene,
    words::{captured, listeners},
};
use crate::engine::{directory::PodEntry, explain, findings::Case};

/// What is wrong, in one sentence.
pub(super) fn summary(case: &Case, pod: &str, n: &str) -> String {
    let what = if case.ports.is_empty() {
        format!("its rules are missing, and {n} went around the proxy")
    } else {
        format!("the node's proxy does not listen in it, and {n} failed")
    };
    format!("{pod} is marked as redirected to the node's proxy and is not: {what}")
}

/// What to change.
pub(super) fn remedy(case: &Case, entry: Option<&PodEntry>) -> String {
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    let who = if case.ports.is_empty() {
        "the mesh's CNI agent on this node, which installs the rules"
    } else {
        "the mesh's proxy on this node and its CNI agent, which tells it of every pod"
    };
    format!(
        "Delete {pod} so that it is enrolled again. If several pods of this node are concerned, restart {who}, and read its log: it writes the mark and does not take it back."
    )
}

/// The mark, the rules and the listeners, side by side.
pub(super) fn facts(case: &Case, scene: &Scene<'_>, push: &mut dyn FnMut(&str, String)) {
    let intent = scene.intent;
    if let Some(mark) = &intent.mark {
        push("marked", mark.clone());
    }
    if case.fact("rules_seen").is_none() {
        let now = scene.live_rules();
        let seen = now.map_or_else(|| "not known".to_owned(), |now| explain::seen(&now.rules));
        push("rules_seen", seen);
    }
    let ports = [intent.outbound_port, intent.inbound_port];
    for port in ports.into_iter().chain(intent.tunnel_port) {
        push("listeners", listeners(scene, port));
    }
    push("captured", captured(scene));
    push("mesh", intent.profile.clone());
}
