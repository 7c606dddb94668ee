//! A pod as the agent needs it: the few fields of the manifest that decide what should
//! be captured and who is who. Trimmed on purpose, so that 250 pods cost kilobytes.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Namespace and name; for a pod known only from the node, namespace is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Owner of a pod as the ecosystem names it (a ReplicaSet's Deployment, a Job's CronJob).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, `Pod`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How a container runs in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerKind {
    /// `spec.containers`.
    Main,
    /// `spec.initContainers`, runs to completion.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always` (native sidecar).
    Sidecar,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// How a container fares, as the kubelet last said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// It passes its readiness and startup probes.
    pub ready: bool,
    /// Times it was started again.
    pub restarts: u32,
    /// Why it is not started, while it waits: `CrashLoopBackOff`, `ImagePullBackOff`, …
    pub waiting: Option<String>,
    /// How it ended, if it is over now.
    pub ended: Option<Ended>,
    /// How it ended the time before.
    pub before: Option<Ended>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code; 128 and the signal's number if a signal ended it.
    pub exit_code: i32,
    /// `OOMKilled`, `Error`, `Completed`, …; empty if nobody says.
    pub reason: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.exit_code)?;
        if self.reason.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.reason)
        }
    }
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// How it runs.
    pub kind: ContainerKind,
    /// Runtime's id without the `containerd://` prefix, once known.
    pub id: Option<String>,
    /// `command` followed by `args`.
    pub args: Vec<String>,
    /// Effective `runAsUser` (container, else pod).
    pub run_as_user: Option<u32>,
    /// Effective `runAsGroup` (container, else pod).
    pub run_as_group: Option<u32>,
    /// Container ports declared, TCP.
    pub ports: Vec<u16>,
    /// Environment variables that a mesh profile asks for, with literal values only. All others
    /// may be anybody's secrets and are never kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How it fares; `None` if the source does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<ContainerStatus>>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`; empty if the source has none.
    pub uid: String,
    /// Owner, by the ecosystem's naming.
    pub workload: Option<Workload>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pod's Kubernetes namespace, where known.
    pub namespace_labels: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// All containers.
    pub containers: Vec<Container>,
    /// Path of its network namespace file where the source names it
    /// (annotation `sidestep.dev/netns`), for hosts without a kubelet.
    pub netns_path: Option<String>,
}
