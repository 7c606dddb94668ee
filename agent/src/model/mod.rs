//! The nouns of Sidestep as plain data, shared by the core and its edges.
//!
//! Everything here is a value: no I/O, no clocks, no behaviour beyond parsing and
//! printing itself. The edges (probe, node, cluster) translate what they see into
//! these types; the core never learns where they came from. That is what lets a
//! recording replay bit for bit.

mod cluster;
mod conntrack;
mod coverage;
mod cpu;
mod lost_packets;
mod marked;
mod memory;
mod net;
mod passage;
mod pod;
mod ports;
mod signal;
mod stream;
mod time;

pub use cluster::{ClusterStats, WatchStats};
pub use conntrack::Conntrack;
pub use coverage::{AgentStats, Coverage, Loss, ProgramStats, RulesStats, SignalCoverage};
pub use cpu::{CpuLevel, CpuLimit};
pub use lost_packets::{LostPackets, Part};
pub use marked::{MarkedEnds, MarkedWay};
pub use memory::MemoryUse;
pub use net::{CgroupId, Direction, Family, NO_ID, NetnsId, Owner};
pub use passage::{Leaves, PacketEnds, Passage, Through};
pub use pod::{Container, ContainerKind, ContainerStatus, Ended, Pod, PodKey, Workload};
pub use ports::PortUse;
pub use signal::{
    Arrival, Counts, Datagrams, EdgeDelta, EdgeKey, HISTOGRAM_BUCKETS, Histogram, Listener,
    ListenerQueue, Outcome, Process, Rewrite, RulesBackend, Signal,
};
pub use stream::{Stream, StreamState};
pub use time::Time;
