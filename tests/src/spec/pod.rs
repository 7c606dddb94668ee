//! A pod as a scenario describes it: manifest, rules, sidecar, processes.
//!
//! Everything a pod may differ in is a field here, so that a failing case is one file; what a
//! scenario leaves out is what a healthy pod of its mesh has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::{Backend, Family};

/// A pod: a network namespace, its cgroups, rules and processes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    /// Pod name.
    pub(crate) name: String,
    /// What is special about it, for people.
    pub(crate) note: Option<String>,
    /// Kubernetes namespace.
    #[serde(default = "default_namespace")]
    pub(crate) namespace: String,
    /// Mesh whose template makes manifest, rules and proxy; none for a pod outside any mesh.
    pub(crate) mesh: Option<Mesh>,
    /// The pod's own manifest (YAML) in place of the template's.
    pub(crate) manifest: Option<String>,
    /// Families in the order of `status.podIPs`; the scenario's family if not given.
    pub(crate) families: Option<Vec<Family>>,
    /// Addresses in place of automatic ones, inside the run's subnet.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    /// Interfaces beside `eth0`, as other network plugins add them: not in `status.podIPs`.
    #[serde(default)]
    pub(crate) network: Vec<Network>,
    /// Added to the manifest.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Added to the manifest.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Containers added to the template's, or changed by name.
    #[serde(default)]
    pub(crate) container: Vec<Container>,
    /// Rules to install; the mesh's own, complete, in all families of the pod if not given.
    pub(crate) rules: Option<Vec<Rules>>,
    /// The sidecar; a toy proxy on the mesh's ports if not given.
    #[serde(default)]
    pub(crate) proxy: Proxy,
    /// BPF hooks inside connect(2), attached to the pod's cgroup.
    #[serde(default)]
    pub(crate) hook: Vec<Hook>,
    /// The other processes.
    #[serde(default)]
    pub(crate) process: Vec<Process>,
}

impl Pod {
    /// Whether the pod asks its mesh to capture inbound by TPROXY.
    pub(crate) fn is_transparent(&self) -> bool {
        let mode = self.annotations.get("sidecar.istio.io/interceptionMode");
        self.mesh == Some(Mesh::Istio) && mode.is_some_and(|mode| mode == "TPROXY")
    }
}

fn default_namespace() -> String {
    "shop".to_owned()
}

/// An interface beside `eth0`, on another bridge of the node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// Name of the interface.
    pub(crate) name: String,
    /// Addresses with their prefix, of networks that the run does not use otherwise.
    pub(crate) addresses: Vec<String>,
}

/// Meshes that have a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mesh {
    /// Istio sidecar, CNI defaults.
    Istio,
    /// Linkerd sidecar.
    Linkerd,
    /// Consul, transparent proxy.
    Consul,
    /// Kuma.
    Kuma,
    /// Istio's ambient mode.
    Ambient,
}

/// A container of the manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Container {
    /// Name.
    pub(crate) name: String,
    /// Where it stands in the manifest.
    #[serde(default)]
    pub(crate) kind: ContainerKind,
    /// `securityContext.runAsUser`.
    pub(crate) uid: Option<u32>,
    /// `securityContext.runAsGroup`.
    pub(crate) gid: Option<u32>,
    /// `resources.limits.cpu`, in thousandths: the container's processes are limited so once they run.
    pub(crate) cpu: Option<u32>,
    /// `resources.limits.memory`, in MiB, likewise.
    pub(crate) memory: Option<u32>,
    /// `args`.
    pub(crate) args: Option<Vec<String>>,
    /// Variables added to `env`.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// `ports[].containerPort`.
    #[serde(default)]
    pub(crate) ports: Vec<u16>,
    /// `ready` of its status.
    pub(crate) ready: Option<bool>,
    /// `restartCount` of its status.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// How it ended: `lastState`; of an init container, `state`.
    pub(crate) ended: Option<Ended>,
}

/// How a container ended.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ended {
    /// `exitCode`.
    pub(crate) code: i32,
    /// `reason`.
    pub(crate) reason: String,
}

/// Where a container stands in the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ContainerKind {
    /// `spec.containers`.
    #[default]
    Main,
    /// `spec.initContainers`.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always`.
    Sidecar,
}

/// Rules to install in a pod: a named set or a text, with lines left out or added.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    /// Named set: `istio`, `istio-tproxy`, `linkerd`, …
    pub(crate) set: Option<String>,
    /// Text for `iptables-restore --noflush` in place of a set.
    pub(crate) text: Option<String>,
    /// Front end; the scenario's if not given.
    pub(crate) backend: Option<Backend>,
    /// Families to install it for; all families of the pod if not given.
    pub(crate) families: Option<Vec<Family>>,
    /// Lines of the set to leave out; each must be there.
    #[serde(default)]
    pub(crate) without: Vec<String>,
    /// Lines to add.
    #[serde(default)]
    pub(crate) plus: Vec<Plus>,
}

/// A line to add to a rule set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plus {
    /// The line.
    pub(crate) line: String,
    /// The line of the set it comes before, which must be there; else it goes to the end of table nat.
    pub(crate) before: Option<String>,
}

/// A BPF hook inside connect(2). Without addresses it only allows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hook {
    /// Destination that is rewritten.
    pub(crate) from: Option<std::net::SocketAddr>,
    /// What it becomes: `POD:PORT`, `localhost:PORT`, `ADDRESS:PORT`.
    pub(crate) to: Option<String>,
}

/// The pod's sidecar.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proxy {
    /// Which program.
    #[serde(default)]
    pub(crate) kind: ProxyKind,
    /// Addresses it listens on; all families of the pod if not given.
    pub(crate) listen: Option<Listen>,
    /// Listens on the outbound capture port.
    #[serde(default)]
    pub(crate) outbound: Yes,
    /// Listens on the inbound capture port.
    #[serde(default)]
    pub(crate) inbound: Yes,
    /// Accepts what arrives.
    #[serde(default)]
    pub(crate) accept: Yes,
    /// Reads what it accepted.
    #[serde(default)]
    pub(crate) read: Yes,
    /// Dials for what it read.
    #[serde(default)]
    pub(crate) dial: Yes,
    /// Closes what its peer has closed.
    #[serde(default)]
    pub(crate) close: Yes,
    /// Seconds it takes to accept one connection.
    #[serde(default)]
    pub(crate) accept_takes: f64,
    /// MiB of memory that it keeps of each connection, for good.
    #[serde(default)]
    pub(crate) keeps: u32,
    /// Has a resolver, where the mesh has one.
    #[serde(default)]
    pub(crate) dns: bool,
    /// Length of the accept queues.
    pub(crate) backlog: Option<u32>,
    /// Listeners per port, with `SO_REUSEPORT` when more than one.
    pub(crate) workers: Option<u16>,
    /// Dials the app at this address and not at the one the peer asked for.
    pub(crate) app_address: Option<IpAddr>,
    /// Started with the pod.
    #[serde(default)]
    pub(crate) start: Yes,
}

/// A switch that is on unless a file says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Yes(pub(crate) bool);

impl Default for Yes {
    fn default() -> Self {
        Self(true)
    }
}

/// Which program is the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyKind {
    /// The harness's own: original destination in, the same destination out.
    #[default]
    Toy,
    /// The real Envoy.
    Envoy,
    /// No process at all.
    None,
}

/// Addresses a process listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Listen {
    /// 0.0.0.0.
    Ipv4,
    /// `::` with `IPV6_V6ONLY`.
    Ipv6,
    /// 0.0.0.0 and `::` as two sockets.
    Both,
    /// One socket on `::` that takes IPv4 too.
    Dual,
    /// 127.0.0.1 or `::1`, by the family of the scenario.
    Loopback,
    /// The pod's first address.
    Pod,
}

/// A process of a pod: exactly one of `serve`, `connect`, `run`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    /// Name, unique in the pod.
    pub(crate) name: String,
    /// Container whose cgroup it lives in.
    #[serde(default = "default_container")]
    pub(crate) container: String,
    /// In place of the container's `runAsUser`.
    pub(crate) uid: Option<u32>,
    /// In place of the container's `runAsGroup`.
    pub(crate) gid: Option<u32>,
    /// Started with the pod.
    #[serde(default)]
    pub(crate) start: Yes,
    /// A small HTTP server.
    pub(crate) serve: Option<Serve>,
    /// A program with its arguments.
    pub(crate) run: Option<Vec<String>>,
}

fn default_container() -> String {
    "app".to_owned()
}

/// A server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serve {
    /// Port.
    pub(crate) port: u16,
    /// Resets every connection in place of an answer.
    #[serde(default)]
    pub(crate) reset: bool,
    /// Closes every connection in place of an answer.
    #[serde(default)]
    pub(crate) wordless: bool,
    /// Addresses; all families of the pod if not given.
    pub(crate) listen: Option<Listen>,
    /// Accepts what arrives.
    #[serde(default)]
    pub(crate) accept: Yes,
    /// Seconds until it answers.
    #[serde(default)]
    pub(crate) delay: f64,
    /// Length of the accept queue.
    pub(crate) backlog: Option<u32>,
    /// Listeners, with `SO_REUSEPORT` when more than one.
    pub(crate) workers: Option<u16>,
    /// Answers datagrams over UDP and no connections.
    #[serde(default)]
    pub(crate) udp: bool,
}
