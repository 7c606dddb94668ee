//! The immutable picture of the node that every output reads.
//!
//! Metrics and JSON are views of it, so they cannot disagree; a series exists exactly
//! while its row exists. All counters are cumulative since the agent started.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{AcceptRow, DropRow, Finding, RulesChange, RulesRead, RulesSource, Stage, SynAckRow};
use crate::{
    mesh::Intent,
    model::{
        AgentStats, Coverage, Direction, EdgeKey, Histogram, Loss, Outcome, PodKey, Time, Workload,
    },
    rules::Ruleset,
};

/// The part of the path a connection is on. The one bounded label that makes failures readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// The app's connection, redirected to its proxy.
    AppToProxy,
    /// The proxy's own connection towards the destination.
    ProxyToUpstream,
    /// A peer's connection accepted by the proxy.
    PeerToProxy,
    /// The proxy's connection to its app.
    ProxyToApp,
    /// A connection that left the pod without the proxy.
    DirectOut,
    /// A peer's connection accepted by the app without the proxy.
    DirectIn,
    /// Inside the pod.
    Local,
    /// The proxy's own business: admin, health, control plane.
    ProxyOwn,
}

impl Leg {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppToProxy => "app_to_proxy",
            Self::ProxyToUpstream => "proxy_to_upstream",
            Self::PeerToProxy => "peer_to_proxy",
            Self::ProxyToApp => "proxy_to_app",
            Self::DirectOut => "direct_out",
            Self::DirectIn => "direct_in",
            Self::Local => "local",
            Self::ProxyOwn => "proxy_own",
        }
    }
}

/// Why a connection is bypassed or excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing to explain.
    None,
    /// Nothing of this family and direction is redirected in the pod.
    NoRules,
    /// The socket's uid is the proxy's.
    ProxyUid,
    /// The socket's gid is the proxy's.
    ProxyGid,
    /// IPv6 is not captured.
    Ipv6,
    /// Rules are there and do not lead this connection to the proxy: a jump or a redirect is
    /// missing, to a wrong port, or a rule lets it go that the spec does not ask for.
    RulesPartial,
    /// Two netfilter backends redirect, and not alike.
    RulesBackend,
    /// The rules that captured such connections were removed.
    RulesRemoved,
    /// The connection is older than the rules.
    BeforeRules,
    /// An exclusion of the spec: port, range, interface, or not in an include list.
    Excluded,
    /// A port the mesh itself leaves alone (health, metrics, tunnel).
    MeshPort,
    /// An init container, before or beside the proxy.
    InitContainer,
    /// Redirected before netfilter (a cgroup hook rewrote the destination).
    CgroupHook,
    /// The namespace answered with a reset: nobody listens on the capture port.
    NoListener,
    /// Not known.
    Unknown,
}

impl Reason {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoRules => "no_rules",
            Self::ProxyUid => "proxy_uid",
            Self::ProxyGid => "proxy_gid",
            Self::Ipv6 => "ipv6",
            Self::RulesPartial => "rules_partial",
            Self::RulesBackend => "rules_backend",
            Self::RulesRemoved => "rules_removed",
            Self::BeforeRules => "before_rules",
            Self::Excluded => "excluded",
            Self::MeshPort => "mesh_port",
            Self::InitContainer => "init_container",
            Self::CgroupHook => "cgroup_hook",
            Self::NoListener => "no_listener",
            Self::Unknown => "unknown",
        }
    }
}

/// intent × ruleset × observation for an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Went through the proxy.
    Intercepted,
    /// Should have gone through the proxy and did not.
    Bypassed {
        /// Why.
        reason: Reason,
    },
    /// Went direct, as the spec wants.
    Excluded {
        /// By which exemption.
        reason: Reason,
    },
    /// Ended without being established, and the mesh is not to blame as far as is known.
    Failed,
    /// Entered the path and made no progress.
    Stuck {
        /// Where.
        stage: Stage,
    },
    /// Nothing to judge: not in a mesh, inside the pod, the proxy's own leg.
    Neutral,
}

impl Verdict {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::Bypassed { .. } => "bypassed",
            Self::Excluded { .. } => "excluded",
            Self::Failed => "failed",
            Self::Stuck { .. } => "stuck",
            Self::Neutral => "neutral",
        }
    }
}

/// A pod on the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// Namespace and name.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Mesh profile, `None` if it belongs to no mesh.
    pub mesh: Option<String>,
    /// Where the intent was read: `manifest` or `listeners`.
    pub intent_source: Option<String>,
    /// What the intent says about outbound and inbound capture; for people.
    pub intent: Vec<String>,
    /// What could not be understood in the spec, each in plain words.
    pub problems: Vec<String>,
    /// Inode of its network namespace, once known.
    pub netns: Option<u32>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Connections captured as intended.
    pub intercepted: u64,
    /// Connections that should have been captured and were not.
    pub bypassed: u64,
    /// Connections exempt by the spec.
    pub excluded: u64,
    /// Connections that failed or hang.
    pub failed: u64,
    /// Codes of its open findings.
    pub findings: Vec<super::Code>,
    /// What its spec wants, to be asked about one connection. Shared, and on no page.
    #[serde(skip)]
    pub wants: Option<Arc<Intent>>,
}

/// Connections of a pod by leg and result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Leg.
    pub leg: Leg,
    /// Result.
    pub result: Outcome,
    /// How many.
    pub connections: u64,
}

/// Verdicts of a pod by direction and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptionRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Direction.
    pub direction: Direction,
    /// Verdict, its reason or stage inside.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How many.
    pub connections: u64,
}

/// Handshake times of a pod by leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Leg.
    pub leg: Leg,
    /// The times.
    pub histogram: Histogram,
}

/// A capture listener's accept queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Address bound; several sockets on one port (`SO_REUSEPORT`) are added up.
    pub addr: IpAddr,
    /// Capture port.
    pub port: u16,
    /// Connections waiting now.
    pub length: u32,
    /// Maximum.
    pub max: u32,
    /// Samples in which the queue was over its maximum, since the start.
    pub overflows: u64,
}

/// Connections of a pod that hang now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckRow {
    /// Pod.
    pub pod: PodKey,
    /// Workload.
    pub workload: Option<Workload>,
    /// Where they hang.
    pub stage: Stage,
    /// How many; 0 once it is over.
    pub connections: u64,
}

/// What is known of the rules in a pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesRow {
    /// Pod.
    pub pod: PodKey,
    /// When they were read, or read again and found different; `None` before the first reading.
    pub read: Option<Time>,
    /// How each kind of rules was read then.
    pub sources: Vec<(RulesSource, RulesRead)>,
    /// The last change the kernel told.
    pub changed: Option<RulesChange>,
    /// Changes it told.
    pub changes: u64,
    /// The rules as they are. Shared, and on no page but those that are about one pod's rules.
    #[serde(skip)]
    pub live: Option<LiveRules>,
    /// The rules as they were, latest first.
    #[serde(skip)]
    pub earlier: Vec<LiveRules>,
}

/// The rules of a namespace over some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRules {
    /// First time they were read.
    pub since: Time,
    /// The change that led to them, where the kernel told.
    pub by: Option<RulesChange>,
    /// The rules.
    pub rules: Arc<Ruleset>,
}

/// An edge with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// Pod, `None` while unknown.
    pub pod: Option<PodKey>,
    /// Container, once known.
    pub container: Option<String>,
    /// Key as the kernel counted it.
    pub key: EdgeKey,
    /// Last process seen on it.
    pub process: Option<String>,
    /// Leg.
    pub leg: Leg,
    /// Verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Destination or peer, for people.
    pub remote: SocketAddr,
    /// Connections by outcome.
    pub counts: crate::model::Counts,
    /// First and last time it was counted.
    pub first_seen: Time,
    /// Last time it was counted.
    pub last_seen: Time,
}

/// The picture of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    /// Node name.
    pub node: String,
    /// When it was drawn.
    pub at: Time,
    /// When the engine started.
    pub started: Time,
    /// Pods, sorted by key.
    pub pods: Vec<PodRow>,
    /// Connection counters, sorted.
    pub connections: Vec<ConnectionRow>,
    /// Verdict counters, sorted.
    pub interception: Vec<InterceptionRow>,
    /// Handshake times, sorted.
    pub handshakes: Vec<HandshakeRow>,
    /// Times waited to be accepted.
    #[serde(default)]
    pub accepts: Vec<AcceptRow>,
    /// Packets of watched pods that the kernel dropped.
    #[serde(default)]
    pub drops: Vec<DropRow>,
    /// Answers of pods' listeners sent again.
    #[serde(default)]
    pub syn_acks: Vec<SynAckRow>,
    /// Capture listeners' queues, sorted.
    pub queues: Vec<QueueRow>,
    /// Connections that hang, sorted.
    #[serde(default)]
    pub stuck: Vec<StuckRow>,
    /// Rules of the pods' namespaces, sorted.
    #[serde(default)]
    pub rules: Vec<RulesRow>,
    /// Findings, open ones first, worst first.
    pub findings: Vec<Finding>,
    /// Edges, most recent first.
    pub edges: Vec<EdgeRow>,
    /// Connections of the node itself and of nothing else, outside every pod.
    #[serde(default)]
    pub host_connections: u64,
    /// Connections whose pod is unknown and stayed so, by reason.
    pub unattributed: Vec<Loss>,
    /// What the node lets us see.
    pub coverage: Coverage,
    /// Kernel-side counters as last told.
    pub kernel: AgentStats,
    /// The engine's own losses at bounds.
    pub losses: Vec<Loss>,
    /// Sources of identity in trouble: source and what is wrong.
    pub sources: Vec<(String, String)>,
}
