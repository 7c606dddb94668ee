//! A scenario as data: what one TOML file may say.
//!
//! A scenario is a file and not code, so that a user can send a failing case as one attachment and a reader sees at a
//! glance what world is built and what the agent must (and must not) say about it. Every table refuses unknown keys: a
//! misspelt key would otherwise test something else than its author meant. The fields are documented for users in
//! `docs/scenarios.md`; keep both in step.
//!
//! This module must never touch the machine: it is the vocabulary, the other modules build it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

/// One scenario, after the expansion of its matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without `.toml`.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) description: String,
    /// Free words to select by.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// What a kernel or machine must have for the one right answer to be decidable.
    #[serde(default)]
    pub(crate) requires: Vec<Requirement>,
    /// One run per combination; `{backend}` and `{family}` in the file are replaced.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "a known key; its values are read before the text is expanded"
    )]
    pub(crate) matrix: Matrix,
    /// Backend of rule sets that name none.
    #[serde(default)]
    pub(crate) backend: Backend,
    /// Family of pods and connections that name none.
    #[serde(default)]
    pub(crate) family: Family,
    /// Whether the agent starts before the pods or after them.
    #[serde(default)]
    pub(crate) agent: AgentStart,
    /// Seconds from the first affected connection within which every expected finding must be there.
    #[serde(default = "default_detect_within")]
    pub(crate) detect_within: f64,
    /// Seconds after the last action in which nothing unexpected may turn up.
    #[serde(default = "default_silence")]
    pub(crate) silence: f64,
    /// The pods.
    pub(crate) pod: Vec<Pod>,
    /// What happens, in order.
    #[serde(default)]
    pub(crate) action: Vec<Action>,
    /// Findings that must be there; every other finding is a failure.
    #[serde(default)]
    pub(crate) expect: Vec<Expect>,
    /// Findings that may be there, each with the reason.
    #[serde(default)]
    pub(crate) allow: Vec<Allow>,
    /// Proof that the world itself did what the scenario says.
    #[serde(default)]
    pub(crate) check: Vec<Check>,
}

fn default_detect_within() -> f64 {
    5.0
}

fn default_silence() -> f64 {
    2.0
}

/// Something not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Requirement {
    /// Probes on kernel functions: tracepoints alone cannot decide this case.
    Kprobes,
    /// The real Envoy.
    Envoy,
}

/// Values to run the scenario with, one run per combination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    /// Values of `{backend}`.
    #[serde(default)]
    pub(crate) backend: Vec<Backend>,
    /// Values of `{family}`.
    #[serde(default)]
    pub(crate) family: Vec<Family>,
}

/// Which netfilter front end installs the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    #[default]
    Nft,
}

/// Address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(addr: &IpAddr) -> Self {
        if addr.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// When the agent starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentStart {
    /// Before the pods exist.
    First,
    /// When all pods run.
    #[default]
    Last,
}

/// A pod: a network namespace, its cgroups, rules and processes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    /// Pod name.
    pub(crate) name: String,
    /// Kubernetes namespace.
    #[serde(default = "default_namespace")]
    pub(crate) namespace: String,
    /// Mesh whose template makes manifest, rules and proxy; none for a pod outside any mesh.
    pub(crate) mesh: Option<Mesh>,
    /// The pod's own manifest (YAML) in place of the template's.
    pub(crate) manifest: Option<String>,
    /// Families in the order of `status.podIPs`; the scenario's family if not given.
    pub(crate) families: Option<Vec<Family>>,
    /// Addresses in place of automatic ones, inside 10.90.0.0/16 or fd00:90::/64.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
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
    /// The other processes.
    #[serde(default)]
    pub(crate) process: Vec<Process>,
}

fn default_namespace() -> String {
    "shop".to_owned()
}

/// Meshes that have a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mesh {
    /// Istio sidecar, CNI defaults.
    Istio,
    /// Linkerd sidecar.
    Linkerd,
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
    /// `args`.
    pub(crate) args: Option<Vec<String>>,
    /// `ports[].containerPort`.
    #[serde(default)]
    pub(crate) ports: Vec<u16>,
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
    /// Named set: `istio`, `linkerd`.
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
    /// Addresses; all families of the pod if not given.
    pub(crate) listen: Option<Listen>,
    /// Accepts what arrives.
    #[serde(default)]
    pub(crate) accept: Yes,
    /// Length of the accept queue.
    pub(crate) backlog: Option<u32>,
    /// Listeners, with `SO_REUSEPORT` when more than one.
    pub(crate) workers: Option<u16>,
}

/// One thing that happens; the key says what.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Action {
    /// Connections are made.
    Connect(Connect),
    /// A process of `[[pod.process]]` (or `POD/proxy`) starts.
    Start(String),
    /// A process is killed and waited for.
    Stop(String),
    /// A process gets a signal.
    Signal(SignalAction),
    /// Nothing happens for some seconds.
    Wait(f64),
    /// All rules of a pod vanish, in both back ends and families.
    Flush(String),
    /// Rules are installed in a running pod.
    Rules(LateRules),
    /// The clock of `detect_within` starts here and not at the first connection.
    Affected(bool),
}

/// A signal for a process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalAction {
    /// `POD/PROCESS`.
    pub(crate) process: String,
    /// `STOP`, `CONT`, `TERM`, `KILL`, `HUP`.
    pub(crate) signal: String,
}

/// Rules installed late.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LateRules {
    /// Pod.
    pub(crate) pod: String,
    /// The rules.
    pub(crate) rules: Rules,
}

/// Connections made by one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    /// `POD`, `POD/CONTAINER` or `node` (the kubelet's place).
    pub(crate) from: String,
    /// `POD:PORT`, `localhost:PORT`, `ADDRESS:PORT`.
    pub(crate) to: String,
    /// Family, where a pod has both; the scenario's if not given.
    pub(crate) family: Option<Family>,
    /// How many.
    #[serde(default = "default_count")]
    pub(crate) count: u32,
    /// Connections per second.
    #[serde(default = "default_rate")]
    pub(crate) rate: f64,
    /// How many threads share them.
    #[serde(default = "default_threads")]
    pub(crate) threads: u32,
    /// No new connections after so many seconds, however many are left.
    pub(crate) seconds: Option<f64>,
    /// Seconds to wait for the handshake, and for the answer.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: f64,
    /// Seconds each connection stays open and idle between handshake and request.
    #[serde(default)]
    pub(crate) hold: f64,
    /// How connect(2) is called.
    #[serde(default)]
    pub(crate) mode: ConnectMode,
    /// Uses an IPv6 socket for an IPv4 address (`::ffff:a.b.c.d`).
    #[serde(default)]
    pub(crate) v4_mapped: bool,
    /// In place of the container's `runAsUser`.
    pub(crate) uid: Option<u32>,
    /// In place of the container's `runAsGroup`.
    pub(crate) gid: Option<u32>,
    /// The sockets are opened with this uid, which the process then gives up.
    pub(crate) socket_uid: Option<u32>,
    /// The sockets are opened with this gid, which the process then gives up.
    pub(crate) socket_gid: Option<u32>,
    /// The socket is opened by a parent process and inherited.
    #[serde(default)]
    pub(crate) inherited: bool,
    /// What the connections must come to.
    #[serde(default)]
    pub(crate) outcome: Outcome,
    /// The next action does not wait for it; its outcome is judged at the end.
    #[serde(default)]
    pub(crate) background: bool,
}

fn default_count() -> u32 {
    10
}

fn default_rate() -> f64 {
    10.0
}

fn default_threads() -> u32 {
    1
}

fn default_timeout() -> f64 {
    1.0
}

/// How connect(2) is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConnectMode {
    /// And sleeps until it is decided.
    #[default]
    Blocking,
    /// On a non-blocking socket, then poll(2).
    Nonblocking,
    /// On a non-blocking socket, closed at once.
    Abort,
}

/// What connections come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Handshake, request, answer.
    #[default]
    Ok,
    /// ECONNREFUSED.
    Refused,
    /// The handshake was never answered.
    TimedOut,
    /// Established, then closed or reset without an answer.
    Closed,
    /// Established, but no answer in time.
    Silent,
    /// Whatever.
    Any,
}

/// A finding that must be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// Pod.
    pub(crate) pod: String,
    /// Code.
    pub(crate) code: String,
    /// Words that the finding (summary, evidence or remedy) must contain.
    #[serde(default)]
    pub(crate) says: Vec<String>,
}

/// A finding that may be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allow {
    /// Pod; any if not given.
    pub(crate) pod: Option<String>,
    /// Code.
    pub(crate) code: String,
    /// Why it is no false alarm.
    pub(crate) reason: String,
}

/// A fact about the world, counted by the harness's own processes and not by the agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    /// `POD/PROCESS`.
    pub(crate) process: String,
    /// Which counter.
    pub(crate) counter: Counter,
    /// At least.
    pub(crate) min: Option<u64>,
    /// At most.
    pub(crate) max: Option<u64>,
}

/// Counters of the harness's proxy and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counter {
    /// Connections accepted on the outbound capture port (proxy), or at all (server).
    Outbound,
    /// Connections accepted on the inbound capture port.
    Inbound,
    /// Connections accepted by a server.
    Served,
    /// Connections the proxy opened.
    Dialed,
    /// Connections the proxy could not open.
    DialFailed,
}
