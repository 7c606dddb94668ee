//! What the kernel told: edges (counted) and signals (told at once).
//!
//! An edge is a sum, read once a second; a signal is one moment, told when it happens. Both
//! name the socket by the kernel's own identifiers: who that is, the directory decides later.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Direction, Family, NetnsId, Owner, Time};

/// Buckets of a [`Histogram`]: bucket `i` counts durations of `[2^i, 2^(i+1))`
/// microseconds, bucket 0 everything below 2 µs, the last everything above (2^25 µs = 33 s).
pub const HISTOGRAM_BUCKETS: usize = 26;

/// Who connected to what, and where it arrived: the key the kernel counts under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EdgeKey {
    /// Outbound: the socket that connected. Inbound: the listening socket that was reached.
    pub owner: Owner,
    /// Which way.
    pub direction: Direction,
    /// Own address of the socket: source address (outbound) or accepting address (inbound).
    pub local: IpAddr,
    /// Inbound: the port the connection was accepted on. Outbound: 0 (source ports are not kept).
    pub local_port: u16,
    /// Outbound: the address and port asked of connect(2). Inbound: the peer, port 0.
    pub remote: SocketAddr,
    /// Outbound: where in its own namespace the connection came out. Inbound: always `Nowhere`.
    pub arrival: Arrival,
}

/// Whether an outbound connection came out at a listener of its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// It did not: it left the namespace (certain once the grace time is over).
    Nowhere,
    /// A child socket appeared in the namespace on this port with the client's address as peer.
    Port(u16),
    /// NAT decided to redirect it to this port; no child socket has been seen (full queue, nobody listening).
    Decided(u16),
    /// It was answered over loopback, nobody knows at which port (full queue, no NAT signal).
    Loopback,
    /// The kernel side lost track of it (its slot was reused, or it failed before anything could be told).
    Unknown,
}

/// How many connections of an edge ended how. All values are since the last drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Handshakes completed.
    pub established: u64,
    /// Refused by a reset (ECONNREFUSED).
    pub refused: u64,
    /// Never answered (ETIMEDOUT).
    pub timed_out: u64,
    /// No route, host or network unreachable.
    pub unreachable: u64,
    /// Reset or otherwise failed with another error.
    pub failed: u64,
    /// Closed by the caller before an answer came.
    pub aborted: u64,
    /// No source port or address was free.
    #[serde(default)]
    pub no_address: u64,
    /// Forbidden by a policy on the way, which said so.
    #[serde(default)]
    pub denied: u64,
}

/// Log2 histogram of durations in microseconds. Values are since the last drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counts by bucket, see [`HISTOGRAM_BUCKETS`].
    pub buckets: [u64; HISTOGRAM_BUCKETS],
    /// Sum of all durations, microseconds.
    pub sum_us: u64,
}

/// What one drain found new on one edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeDelta {
    /// The edge.
    pub key: EdgeKey,
    /// New connections by outcome.
    pub counts: Counts,
    /// Outbound: connect(2) to established. Inbound: established to accepted (empty where the
    /// accept signal is missing).
    pub duration: Histogram,
}

/// Flows over UDP that a process began to one destination, since the last drain. A flow is
/// what connection tracking takes for one: a query of a resolver is a flow of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Who and where to; user and group are the process's. Of the arrivals there are
    /// [`Arrival::Decided`] (NAT redirects), [`Arrival::Unknown`] (NAT sends it to another
    /// address) and [`Arrival::Nowhere`] (NAT leaves it alone).
    pub key: EdgeKey,
    /// How many.
    pub flows: u64,
    /// The process that began the first of them.
    pub process: Process,
}

/// Connections whose destination somebody rewrote inside connect(2), since the last drain:
/// their sockets, and whatever sees packets, know the new destination only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Who, and where to before it was rewritten. The own address and the arrival are not known.
    pub key: EdgeKey,
    /// Where to afterwards.
    pub used: SocketAddr,
    /// How many.
    pub connections: u64,
    /// The process that made the first of them.
    pub process: Process,
}

/// How a connection attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Handshake completed.
    Established,
    /// Refused by a reset.
    Refused,
    /// Never answered.
    TimedOut,
    /// No route, host or network unreachable.
    Unreachable,
    /// Another error; the errno is beside it.
    Failed,
    /// Closed by the caller before an answer came.
    Aborted,
    /// No source port or address was free: no SYN was sent.
    NoAddress,
    /// Forbidden by a policy on the way, which said so.
    Denied,
}

impl Outcome {
    /// Name in metrics (`result` label) and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::NoAddress => "no_address",
            Self::Denied => "denied",
        }
    }
}

/// The task that called connect(2) or listen(2), or changed rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id (thread group id) in the host's pid namespace, 0 if unknown.
    pub pid: u32,
    /// Thread name, at most 15 bytes, lossily decoded.
    pub comm: String,
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Address bound; unspecified for all addresses.
    pub addr: IpAddr,
    /// Port bound.
    pub port: u16,
    /// An IPv6 socket bound to all addresses that takes IPv4 too (no `IPV6_V6ONLY`).
    pub dual_stack: bool,
}

/// The accept queue of a listening socket at one moment (`sk_ack_backlog`, `sk_max_ack_backlog`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerQueue {
    /// The socket.
    pub listener: Listener,
    /// Connections established and not yet accepted.
    pub length: u32,
    /// The queue's maximum; the kernel overflows at `length > max`.
    pub max: u32,
    /// Owner uid of the socket inode, [`super::NO_ID`] if unknown.
    pub uid: u32,
}

/// A record of the ring buffer: something unusual, told at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// An edge was counted for the first time. Its counts come with the next drain.
    FirstSeen {
        /// The edge.
        key: EdgeKey,
        /// Who made its first connection; unknown for inbound edges.
        process: Process,
    },
    /// A connect ended without being established. Also counted in the edge.
    Failed {
        /// The edge it is counted under.
        key: EdgeKey,
        /// How it ended.
        outcome: Outcome,
        /// Socket error (`sk_err`), 0 if none was set.
        errno: u16,
        /// A SYN of this very connection met no listener on this port of its own namespace.
        refused_at: Option<u16>,
        /// Who connected.
        process: Process,
        /// Microseconds from connect(2) to the end.
        after_us: u64,
        /// SYNs sent again.
        #[serde(default)]
        retransmits: u8,
    },
    /// A SYN had to be sent again: the handshake hangs. Told at the first retransmit and
    /// at powers of two after it.
    Stalled {
        /// The edge it will be counted under.
        key: EdgeKey,
        /// Retransmits so far.
        retransmits: u8,
        /// Who connected.
        process: Process,
    },
    /// An established connection was reset by its peer before a byte of an answer came.
    Reset {
        /// The connection as if this end had called connect(2), which nobody knows here.
        key: EdgeKey,
        /// Its own port.
        port: u16,
    },
    /// A client's connection was closed by its peer at once, without a byte of an answer. Not told where NAT is known
    /// to have let it pass.
    Closed {
        /// The connection; where it arrived is not known.
        key: EdgeKey,
        /// How many of its namespace this one speaks for, itself included.
        n: u64,
    },
    /// The answer to a SYN was sent again: the peer does not hear it, or is not heard.
    SynAckResent {
        /// Whose listener answers.
        owner: Owner,
        /// Its own end, as the packets say.
        local: SocketAddr,
        /// Who does not hear it.
        peer: SocketAddr,
    },
    /// Somebody's SYN met no listener in this namespace.
    NoListener {
        /// The namespace that answered with a reset.
        netns: NetnsId,
        /// Port asked, after NAT.
        port: u16,
        /// Address asked, after NAT.
        local: IpAddr,
        /// Who asked.
        peer: SocketAddr,
    },
    /// NAT decided to redirect an incoming connection of this namespace to this port.
    /// Only told for a namespace and port once (first sight).
    InboundRedirect {
        /// The namespace.
        netns: NetnsId,
        /// Port asked by the peer.
        from: u16,
        /// Port it was redirected to.
        to: u16,
    },
    /// A socket began to listen.
    Listening {
        /// Whose socket.
        owner: Owner,
        /// The socket.
        listener: Listener,
        /// Who called listen(2).
        process: Process,
    },
    /// A listening socket was closed.
    ListeningEnded {
        /// The namespace.
        netns: NetnsId,
        /// The socket.
        listener: Listener,
    },
    /// Somebody changes the netfilter rules of a namespace. Told a moment before the change
    /// is visible; a batch of nftables may turn out to be empty.
    RulesChanged {
        /// The namespace.
        netns: NetnsId,
        /// When.
        at: Time,
        /// The kernel's side of it: a front end may use either.
        backend: RulesBackend,
        /// Family of the table changed, where the kernel tells.
        family: Option<Family>,
        /// User that did it, as seen from the host.
        uid: u32,
        /// Process that did it.
        process: Process,
    },
}

/// Which part of the kernel holds rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulesBackend {
    /// x_tables: `iptables-legacy`.
    Legacy,
    /// nf_tables: `nft`, `iptables-nft`.
    Nft,
}

impl RulesBackend {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

impl Signal {
    /// Whose socket it tells of, where it tells of one of this node's pods.
    #[must_use]
    pub const fn owner(&self) -> Option<Owner> {
        match self {
            Self::FirstSeen { key, .. }
            | Self::Failed { key, .. }
            | Self::Stalled { key, .. }
            | Self::Reset { key, .. }
            | Self::Closed { key, .. } => Some(key.owner),
            Self::Listening { owner, .. } | Self::SynAckResent { owner, .. } => Some(*owner),
            Self::NoListener { .. }
            | Self::InboundRedirect { .. }
            | Self::ListeningEnded { .. }
            | Self::RulesChanged { .. } => None,
        }
    }
}
