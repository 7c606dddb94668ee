//! Services of the mesh that turn into pod addresses before the mesh sees them.
//!
//! A mesh routes by the address that was asked for: its retries, splits and policies belong to
//! the service. Where a BPF hook has put a pod's address in its place, the proxy forwards to
//! an address it may know nothing about. A hook that leads to the proxy itself is one more way
//! to redirect, and no bypass. Where connections go around the proxy anyway, that is the finding.

use std::net::IpAddr;

use super::{Scene, datagram::is_told_otherwise};
use crate::{
    engine::{
        Code,
        directory::{PodEntry, PodId},
        edges::Comm,
        evidence::Sample,
        facts::View,
        findings::{Case, Findings},
        verdict::{Expected, Party},
    },
    mesh::Intent,
    model::{Rewrite, Time},
};

/// Connections of a pod that got another destination than they asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Rewritten<'a> {
    told: &'a Rewrite,
    container: Option<u16>,
    /// Addresses of the pod.
    own: &'a [IpAddr],
}

impl<'a> Rewritten<'a> {
    pub(in crate::engine) const fn new(
        told: &'a Rewrite,
        container: Option<u16>,
        own: &'a [IpAddr],
    ) -> Self {
        Self {
            told,
            container,
            own,
        }
    }

    /// To the pod itself, or to a port of the proxy's wherever that runs.
    fn leads_to_proxy(&self, intent: &Intent) -> bool {
        let used = self.told.used;
        let here = used.ip().is_loopback() || used.ip().is_unspecified();
        let asked = self.told.key.remote.port();
        here || self.own.contains(&used.ip())
            || used.port() != asked && intent.has_port(used.port())
    }

    fn has_proxys_ids(&self, intent: &Intent) -> bool {
        let owner = &self.told.key.owner;
        Some(owner.uid) == intent.proxy_uid || Some(owner.gid) == intent.proxy_gid
    }
}

/// A connection of a pod in a mesh was sent elsewhere inside connect(2).
pub(in crate::engine) fn rewritten(
    at: Time,
    pod: PodId,
    rewritten: &Rewritten<'_>,
    view: &View,
    scene: &Scene<'_>,
    findings: &mut Findings,
) {
    let meant = view.party == Party::App && view.expected == Expected::Captured;
    let intent = scene.intent;
    if !meant || rewritten.leads_to_proxy(intent) || rewritten.has_proxys_ids(intent) {
        return;
    }
    if is_told_otherwise(pod, findings) {
        return;
    }
    let told = rewritten.told;
    let asked = told.key.remote;
    let case = findings.note(at, Some(pod), Code::BypassSocketLb);
    case.add(&Sample {
        process: Comm::of(&told.process),
        container: rewritten.container,
        ..Sample::made(&told.key, told.connections)
    });
    let text = format!("{asked} was asked for, {} is used", told.used);
    case.sources.add(text, told.connections);
    case.witnesses.insert("address given to connect(2)");
    case.witnesses.insert("address of the socket afterwards");
}

/// What is wrong, in one sentence.
pub(super) fn summary(case: &Case, pod: &str, n: &str, to: &str) -> String {
    let them = if case.connections == 1 { "it" } else { "them" };
    format!(
        "{n} of {pod} asked for {to} and the like, and a BPF hook gave {them} another destination inside connect(2): the proxy never sees the service"
    )
}

/// What to change.
pub(super) fn remedy(entry: Option<&PodEntry>) -> String {
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    format!(
        "Let the load balancer that works at sockets do so in the node's own namespace only (Cilium: socketLB.hostNamespaceOnly=true, then restart its agents); for {pod} kube-proxy or the CNI then translates after the mesh's rules. `bpftool cgroup tree` names the program that is attached."
    )
}
