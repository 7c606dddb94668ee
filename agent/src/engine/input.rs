//! Everything that may happen to the engine, and everything it may say.
//!
//! Plain data with a stable form: a recording is a sequence of inputs, and replaying it must mean the
//! same in every later version.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Finding, RulesReading};
use crate::model::{
    AgentStats, CgroupId, Conntrack, Coverage, CpuLimit, Datagrams, EdgeDelta, ListenerQueue,
    LostPackets, MarkedEnds, MarkedWay, MemoryUse, NetnsId, PacketEnds, Passage, Pod, PodKey,
    PortUse, Rewrite, Signal, Stream,
};

/// What the engine is told at its start and cannot change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the node, in the board and in metrics' target labels.
    pub node: String,
    /// Most edges held; the rest is counted under its pod without destinations.
    pub max_edges: usize,
    /// Most connections held back because their pod is not known yet.
    pub max_unbound: usize,
    /// Seconds a finding stays open without new evidence.
    pub resolve_after_s: u32,
    /// Seconds a resolved finding, or one of a pod that is gone, stays visible.
    pub keep_resolved_s: u32,
    /// Seconds a capture listener may hold queued connections without accepting any.
    pub not_accepting_after_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: String::new(),
            max_edges: 16_384,
            max_unbound: 4_096,
            resolve_after_s: 120,
            keep_resolved_s: 600,
            not_accepting_after_s: 3,
        }
    }
}

/// One input. A recording is a sequence of these with their times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Time passed; nothing else happened.
    Tick,
    /// What the last drain of the edge map found new.
    Edges(Vec<EdgeDelta>),
    /// Flows over UDP since the last drain.
    Datagrams(Vec<Datagrams>),
    /// Connections since the last drain whose destination was rewritten inside connect(2).
    Rewrites(Vec<Rewrite>),
    /// A ring buffer record.
    Signal(Signal),
    /// Who is who changed.
    Change(Change),
    /// Accept queues of *all* listening sockets of one namespace; a listener that is not
    /// in the list is not there any more.
    Queues {
        /// The namespace.
        netns: NetnsId,
        /// Its listening sockets.
        queues: Vec<ListenerQueue>,
        /// Connections that found a queue of this namespace full, since it was made; where
        /// somebody waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overflows: Option<u64>,
    },
    /// Connections of a namespace where any of them waits, and once more when none does.
    Streams {
        /// The namespace.
        netns: NetnsId,
        /// Its TCP sockets with a peer, those that wait first.
        streams: Vec<Stream>,
        /// Sockets there are besides.
        left: u64,
    },
    /// Limits of CPU time of a control group that was asked about; none: there are none, or they
    /// cannot be read.
    Cpu {
        /// The control group.
        cgroup: CgroupId,
        /// Its limit and that of its pod, as far as there are any.
        limits: Vec<CpuLimit>,
    },
    /// Memory of the pod that a control group is of, which was asked about; none: it cannot be read.
    Memory {
        /// The control group.
        cgroup: CgroupId,
        /// Of the pod, and of each of its containers that is there.
        uses: Vec<MemoryUse>,
    },
    /// Connection tracking tables that were asked about; absent where nothing is tracked, or it
    /// cannot be read.
    Conntrack {
        /// The namespace.
        netns: NetnsId,
        /// Its table.
        own: Option<Conntrack>,
        /// The node's table.
        node: Option<Conntrack>,
    },
    /// Source ports of a namespace of which most are in use, and once more when they are not.
    Ports {
        /// The namespace.
        netns: NetnsId,
        /// By address dialled from and destination, those with the fewest left first.
        uses: Vec<PortUse>,
    },
    /// The rules of a namespace as they are now; sent when they are not what was sent before,
    /// and to whoever asked.
    Rules(Box<RulesReading>),
    /// What the kernel dropped of watched addresses since the last drain.
    LostPackets(Vec<LostPackets>),
    /// How packets of a namespace pass the node; sent to whoever asked.
    Passage(Passage),
    /// Where packets with a mark go; sent to whoever asked.
    Marked(MarkedWay),
    /// What the node lets us see; sent at start and whenever it changes.
    Coverage(Coverage),
    /// The agent's own counters.
    Stats(AgentStats),
}

/// Something about the node that is read only when a connection gives cause to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inquiry {
    /// Answered by [`Input::Cpu`].
    Cpu(CgroupId),
    /// Answered by [`Input::Memory`].
    Memory(CgroupId),
    /// Answered by [`Input::Passage`].
    Passage(PacketEnds),
    /// Answered by [`Input::Marked`].
    Marked(MarkedEnds),
    /// Answered by [`Input::Streams`].
    Streams(NetnsId),
    /// Answered by [`Input::Conntrack`].
    Conntrack(NetnsId),
}

/// A change of who is who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A pod appeared or changed.
    Pod(Box<Pod>),
    /// A pod is gone.
    PodGone(PodKey),
    /// A network namespace appeared or changed.
    Netns {
        /// Its inode.
        netns: NetnsId,
        /// Names it is known under (bind mounts such as `/run/netns/x`), possibly none.
        paths: Vec<String>,
        /// Addresses on its interfaces without loopback's, possibly none if they could not be read.
        addresses: Vec<IpAddr>,
        /// The interfaces they are on, as far as they are known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        interfaces: Vec<(IpAddr, String)>,
        /// The node's own namespace.
        host: bool,
    },
    /// A network namespace is gone.
    NetnsGone(NetnsId),
    /// A cgroup with processes appeared or changed.
    Cgroup {
        /// Its inode in the v2 hierarchy.
        cgroup: CgroupId,
        /// Path below the hierarchy's root.
        path: String,
        /// Pod uid found in the path (with `-` restored), if it looks like a kubelet's.
        pod_uid: Option<String>,
        /// Container id found in the path.
        container_id: Option<String>,
        /// Network namespace of its processes.
        netns: Option<NetnsId>,
    },
    /// A cgroup is gone.
    CgroupGone(CgroupId),
    /// A source of identity failed or recovered, in plain words; degraded, never fatal.
    Source {
        /// `pods-dir`, `proc`, `cgroups`, …
        source: String,
        /// What is wrong, where, and what to do; `None` when it works again.
        trouble: Option<String>,
    },
}

/// What the engine wants told at once; the rest is on the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// A finding was opened.
    Opened(Box<Finding>),
    /// A finding's evidence stopped.
    Resolved(Box<Finding>),
}
