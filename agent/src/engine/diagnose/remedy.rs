//! What to change, naming the exact setting, container, port or rule.
//!
//! Apart from the summary, because a remedy looks at the pod and its mesh's words while the summary only
//! looks at the case. It must never tell anybody to change what the evidence does not show.

use super::{Scene, ambient, datagram};
use crate::{
    engine::{Code, directory::PodEntry, explain::NOBODY_TAKES, findings::Case},
    model::Direction,
};

/// The remedy of a case.
// lint: long because it is one table, an arm for each code.
pub(super) fn remedy(case: &Case, entry: Option<&PodEntry>, scene: Option<&Scene<'_>>) -> String {
    let container = case
        .containers
        .most(1)
        .first()
        .and_then(|(ix, _)| entry?.container(Some(*ix)))
        .map_or_else(
            || "that process".to_owned(),
            |c| format!("container {}", c.name),
        );
    let top = case.destinations.most(1);
    let port = top.first().map_or(0, |(d, _)| d.port());
    match case.code {
        Code::BypassNoRules => no_rules(entry, scene),
        Code::BypassRulesPartial => format!(
            "{} Until then, whatever writes rules in pods beside the mesh (other CNI plugins, node agents, scripts) is the first to ask.",
            no_rules(entry, scene)
        ),
        Code::BypassRulesBackend => "Let everything that writes rules in this pod use one netfilter backend: the images of the mesh's init container or CNI plugin and of every other tool that runs iptables here (look at `iptables --version` in each: legacy or nf_tables). Then make the pod again.".to_owned(),
        Code::BypassRulesRemoved => removed(case, entry),
        Code::BypassBeforeRules => before_rules(scene),
        Code::BypassProxyUid => {
            let uid = scene.and_then(|s| s.intent.proxy_uid).unwrap_or_default();
            format!(
                "Run {container} as another user: set securityContext.runAsUser to something other than {uid}, or change USER in its image if that is where it comes from."
            )
        }
        Code::BypassProxyGid => {
            let gid = scene.and_then(|s| s.intent.proxy_gid).unwrap_or_default();
            format!(
                "Run {container} with another group: set securityContext.runAsGroup (or the pod's fsGroup and supplementalGroups) to something other than {gid}; check the group in its image."
            )
        }
        Code::BypassIpv6 => ipv6(scene),
        Code::BypassExcluded => excluded(case),
        Code::BypassInboundDirect if case.fact(NOBODY_TAKES).is_some() => no_listener(case, scene),
        Code::BypassInboundDirect => inbound_direct(port, scene),
        Code::BypassSharedUid
        | Code::BypassInboundEmpty
        | Code::BypassInitContainer
        | Code::BypassUnmeshed
        | Code::BypassHostNetwork
        | Code::MeshConflict => super::spec::remedy(case, entry, &container),
        Code::BypassDns | Code::BypassQuic => datagram::remedy(case, entry, &container),
        Code::BypassSocketLb => super::rewrite::remedy(entry),
        Code::BypassAmbientLost => ambient::remedy(case, entry),
        Code::BypassUnknown => unknown(case).to_owned(),
        Code::StuckNoListener => no_listener(case, scene),
        Code::StuckNotAccepting => format!(
            "Restart {}; it is alive but its event loop does not run. Before, take its thread dump and look at its CPU throttling and at its process state.",
            proxy(scene)
        ),
        Code::StuckControlPlane => super::control::remedy(case, &proxy(scene)),
        Code::FailEphemeralPorts => super::ports::remedy(top.first().map(|(to, _)| *to)),
        Code::FailConntrackFull => super::tables::remedy(case),
        Code::FailTupleCollision => super::collide::remedy(&proxy(scene)),
        Code::FailInvalidPackets => super::tables::invalid_remedy(case),
        Code::SidecarThrottled => super::throttle::remedy(case, &proxy(scene)),
        Code::StuckAcceptQueue
        | Code::StuckUnread
        | Code::StuckUpstreamSilent
        | Code::StuckNoUpstream
        | Code::StuckHalfClosed => super::hang_text::remedy(case, &proxy(scene)),
        Code::StuckStartupGap | Code::SidecarNotReady | Code::InitFailed => {
            super::status::remedy(case, entry, &proxy(scene))
        }
        Code::StuckUpstreamRefused => format!(
            "Nobody listens at {}: check that the target app runs and listens on port {port}, and that the Service's targetPort is that port.",
            top.first().map_or_else(String::new, |(d, _)| d.to_string())
        ),
        Code::StuckAppRefused => app_refused(case, port),
        Code::StuckUpstreamTimeout
        | Code::StuckUpstreamReset
        | Code::FailNetfilterDrop => {
            super::lost::remedy(case, top.first().map(|(to, _)| *to), scene)
        }
        Code::AgentDegraded => "Nothing is wrong with the pods. To see more, run the agent on a kernel (or with the capabilities CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE) that allows the probes named above; GET /v1/coverage lists them.".to_owned(),
        Code::AgentOverload => "Nothing is wrong with the pods, but answers about some of their connections are missing. A pod with very many destinations (a crawler, a port scan, a client that opens thousands of connections a second) is the usual reason: GET /v1/edges shows who. If it stays, this node is larger than the agent's bounds: please report it with the numbers above.".to_owned(),
        Code::AgentUnattributed => "Find whose they are: `sidestep pods` lists the pods the agent knows. Containers that run outside of Kubernetes need manifests (--pods DIR), or may be left alone; for pods that are missing, look at /v1/coverage and at the agent's log for a source that fails.".to_owned(),
    }
}

fn excluded(case: &Case) -> String {
    let top = case.sources.most(1);
    let source = top.first().map_or("the exclusion", |(s, _)| s.as_str());
    format!("If this is meant, nothing. If not, change {source}.")
}

fn proxy(scene: Option<&Scene<'_>>) -> String {
    scene
        .and_then(|s| s.intent.proxy_containers.first())
        .map_or_else(|| "the proxy".to_owned(), |c| format!("container {c}"))
}

fn unknown(case: &Case) -> &'static str {
    if case.fact("rules_not_clear").is_some() {
        return "Find out who wrote the rule that is named, and whether it is meant for this traffic: the mesh writes none with such a condition. Without it the pod's rules can be followed to their end.";
    }
    if case.fact("evaluation").is_some() {
        return "Look for what decides before the rules are asked: connection tracking that knows these addresses and ports from before the rules (conntrack -L -p tcp in the pod's network namespace; conntrack -D -p tcp --state SYN_SENT forgets attempts that were never answered), or a program at the interface (tc filter show). If there is neither, record this (sidestep agent --record FILE) and report it.";
    }
    "Compare the rules in the pod's network namespace (iptables-save, nft list ruleset) with what the mesh installs; if they look complete, record this (sidestep agent --record FILE) and report it."
}

fn no_rules(entry: Option<&PodEntry>, scene: Option<&Scene<'_>>) -> String {
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    // Which of the two ways this pod takes shows in the pod itself.
    let init = scene.and_then(|s| {
        let here = |name: &&String| s.entry.pod.containers.iter().any(|c| c.name == **name);
        s.intent.mesh_init_containers.iter().find(here)
    });
    init.map_or_else(
        || format!(
            "Delete {pod} so that it is made again with its rules. If that does not help, the mesh's CNI plugin did not run for it: check that the plugin is the last in the node's CNI configuration, that it was ready before the pod started, and turn on its repair or taint controller."
        ),
        |init| format!(
            "Delete {pod} so that it is made again with its rules. If that does not help, read the log of init container {init}, which installs them: wrong iptables backend or missing NET_ADMIN are the usual reasons."
        ),
    )
}

fn removed(case: &Case, entry: Option<&PodEntry>) -> String {
    let pod = entry.map_or_else(|| "the pod".to_owned(), |e| e.pod.key.to_string());
    let who = case
        .fact("changed_by")
        .filter(|who| who.starts_with("process "));
    let who = who.map_or_else(
        || "Find what flushes rules on this node (a firewall service, a CNI agent, kube-proxy's clean-up, a script) and stop it".to_owned(),
        |who| format!("Stop what removed them ({who})"),
    );
    format!("{who}; then delete {pod} so that it is made again with its rules.")
}

fn before_rules(scene: Option<&Scene<'_>>) -> String {
    format!(
        "Connections that are open when the rules come stay as they are: restart the app's container to end them. So that it does not happen again, let {} start before the app (native sidecar, or hold the app until the proxy is ready), and let the rules be installed before any container runs.",
        proxy(scene)
    )
}

fn ipv6(scene: Option<&Scene<'_>>) -> String {
    let setting = scene.map_or("", |s| s.intent.ipv6_setting.as_str());
    if setting.is_empty() {
        "Turn on IPv6 capture in the mesh's settings and make the pod again, or disable IPv6 in the pod (sysctl net.ipv6.conf.all.disable_ipv6=1).".to_owned()
    } else {
        format!(
            "Turn on IPv6 capture ({setting}) and make the pod again, or disable IPv6 in the pod (sysctl net.ipv6.conf.all.disable_ipv6=1)."
        )
    }
}

fn inbound_direct(port: u16, scene: Option<&Scene<'_>>) -> String {
    let to = scene.map_or(0, |s| s.intent.inbound_port);
    format!(
        "Nothing redirects incoming port {port} to the proxy's port {to}: check the PREROUTING jump in the pod's network namespace and the mesh's list of included inbound ports, then make the pod again."
    )
}

fn no_listener(case: &Case, scene: Option<&Scene<'_>>) -> String {
    let only_v6 = {
        use crate::model::Family::{Ipv4, Ipv6};
        let about =
            |f| *case.about.get(Direction::Outbound, f) || *case.about.get(Direction::Inbound, f);
        about(Ipv6) && !about(Ipv4)
    };
    let proxy = proxy(scene);
    if only_v6 {
        let setting = scene.map_or("", |s| s.intent.ipv6_setting.as_str());
        return format!(
            "IPv6 is redirected but {proxy} listens on IPv4 only: make it listen on IPv6 too, or turn off IPv6 capture ({setting})."
        );
    }
    format!(
        "{proxy} is down, still starting, or listens elsewhere: look at its status, last termination reason (OOMKilled?) and log. If this happens at pod start only, run it as a native sidecar or hold the app until the proxy is ready."
    )
}

fn app_refused(case: &Case, port: u16) -> String {
    let dialled = case
        .destinations
        .most(1)
        .first()
        .map_or_else(String::new, |(d, _)| d.ip().to_string());
    case.fact("listens_elsewhere").map_or_else(
        || format!("Nobody listens on port {port} in this pod: check that the app runs, and that the port of the Service and of the container is the one it listens on."),
        |others| format!("The app listens on {others} but the proxy dials {dialled}: let the app listen on all addresses (0.0.0.0 or ::), or on {dialled}."),
    )
}
