//! A Kubernetes Pod, trimmed to the few fields that decide what should be captured.
//!
//! Every source of pods goes through here, so that a pod means the same wherever it came
//! from. It copies and defaults as the API does, and judges nothing: what a field means to
//! a mesh is the profile's business. Values taken from Secrets are never looked at.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{
    Container as KubeContainer, ContainerPort, ContainerState, ContainerStatus as KubeStatus,
    EnvVar, EphemeralContainer, Pod as KubePod, PodSecurityContext, PodSpec, PodStatus,
    SecurityContext,
};

use super::workload;
use crate::model::{Container, ContainerKind, ContainerStatus, Ended, Pod, PodKey};

/// Names a network namespace file where no kubelet makes cgroups for the pod.
const NETNS_ANNOTATION: &str = "sidestep.dev/netns";

/// kubectl's copy of the whole manifest, environment and all: large, and not ours to keep.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The pod, without its namespace's labels; `None` if it has no name.
pub(super) fn pod(pod: KubePod) -> Option<Pod> {
    let workload = workload::workload(&pod.metadata, pod.metadata.name.as_deref()?);
    let meta = pod.metadata;
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    Some(Pod {
        key: PodKey {
            namespace: meta.namespace.unwrap_or_else(|| "default".to_owned()),
            name: meta.name?,
        },
        uid: meta.uid.unwrap_or_default(),
        workload: Some(workload),
        labels: meta.labels.unwrap_or_default(),
        netns_path: annotations
            .get(NETNS_ANNOTATION)
            .map(|path| netns_path(path)),
        annotations,
        namespace_labels: BTreeMap::new(),
        host_network: spec.host_network.unwrap_or(false),
        ips: addresses(&status),
        containers: containers(spec, &status),
    })
}

/// The name under which the node knows it: `/var/run` is a link to `/run`.
fn netns_path(path: &str) -> String {
    match path.trim().strip_prefix("/var/run/") {
        Some(rest) => format!("/run/{rest}"),
        None => path.trim().to_owned(),
    }
}

/// Whether all containers ended for good: such a pod has no namespace any more, and its
/// address may already be somebody else's.
pub(super) fn is_over(pod: &KubePod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let mut ips: Vec<IpAddr> = all.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    // Old API servers fill only the single field.
    if let Some(Ok(ip)) = status.pod_ip.as_deref().map(str::parse)
        && !ips.contains(&ip)
    {
        ips.push(ip);
    }
    ips
}

fn containers(spec: PodSpec, status: &PodStatus) -> Vec<Container> {
    let whole = spec.security_context.as_ref();
    let mut all = Vec::new();
    for container in spec.init_containers.unwrap_or_default() {
        let kind = match container.restart_policy.as_deref() {
            Some("Always") => ContainerKind::Sidecar,
            _ => ContainerKind::Init,
        };
        all.push(one(
            kind,
            container,
            whole,
            status.init_container_statuses.as_ref(),
        ));
    }
    for container in spec.containers {
        let statuses = status.container_statuses.as_ref();
        all.push(one(ContainerKind::Main, container, whole, statuses));
    }
    for container in spec.ephemeral_containers.unwrap_or_default() {
        let statuses = status.ephemeral_container_statuses.as_ref();
        all.push(one(
            ContainerKind::Ephemeral,
            plain(container),
            whole,
            statuses,
        ));
    }
    all
}

/// An ephemeral container has the same fields, in a type of its own.
fn plain(container: EphemeralContainer) -> KubeContainer {
    KubeContainer {
        name: container.name,
        command: container.command,
        args: container.args,
        ports: container.ports,
        env: container.env,
        security_context: container.security_context,
        ..KubeContainer::default()
    }
}

fn one(
    kind: ContainerKind,
    container: KubeContainer,
    whole: Option<&PodSecurityContext>,
    statuses: Option<&Vec<KubeStatus>>,
) -> Container {
    let own = container.security_context.as_ref();
    let id = |own: Option<i64>, whole: Option<i64>| own.or(whole).and_then(|id| id.try_into().ok());
    let user = |s: &SecurityContext| s.run_as_user;
    let group = |s: &SecurityContext| s.run_as_group;
    let mut args = container.command.unwrap_or_default();
    args.extend(container.args.unwrap_or_default());
    Container {
        id: runtime_id(&container.name, statuses),
        status: fares(&container.name, statuses).map(Box::new),
        kind,
        args,
        run_as_user: id(own.and_then(user), whole.and_then(|s| s.run_as_user)),
        run_as_group: id(own.and_then(group), whole.and_then(|s| s.run_as_group)),
        ports: ports(container.ports.unwrap_or_default()),
        env: literals(container.env.unwrap_or_default()),
        name: container.name,
    }
}

/// How it fares, as far as that matters.
fn fares(name: &str, statuses: Option<&Vec<KubeStatus>>) -> Option<ContainerStatus> {
    let status = statuses?.iter().find(|status| status.name == name)?;
    let ended = |state: Option<&ContainerState>| {
        let ended = state?.terminated.as_ref()?;
        Some(Ended {
            exit_code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
        })
    };
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    Some(ContainerStatus {
        ready: status.ready,
        restarts: u32::try_from(status.restart_count).unwrap_or(0),
        waiting: waiting.map(|w| w.reason.clone().unwrap_or_default()),
        ended: ended(status.state.as_ref()),
        before: ended(status.last_state.as_ref()),
    })
}

/// The runtime's id, without the `containerd://` in front.
fn runtime_id(name: &str, statuses: Option<&Vec<KubeStatus>>) -> Option<String> {
    let status = statuses?.iter().find(|status| status.name == name)?;
    let id = status.container_id.as_deref()?;
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    (!id.is_empty()).then(|| id.to_owned())
}

/// Values written out in the manifest; whoever passes the pod on drops what no profile asks for.
fn literals(env: Vec<EnvVar>) -> BTreeMap<String, String> {
    let literal = env.into_iter().filter_map(|v| Some((v.name, v.value?)));
    literal.collect()
}

fn ports(ports: Vec<ContainerPort>) -> Vec<u16> {
    let tcp = |port: &ContainerPort| matches!(port.protocol.as_deref(), None | Some("TCP"));
    let tcp = ports.into_iter().filter(tcp);
    tcp.filter_map(|port| port.container_port.try_into().ok())
        .collect()
}
