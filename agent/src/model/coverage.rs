//! What the agent can see on this node, and what it lost.

use serde::{Deserialize, Serialize};

/// One signal and how it is obtained here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalCoverage {
    /// Name of the signal: `connection_state`, `nat_decision`, `accept`, `reset`, `retransmit`, …
    pub signal: String,
    /// The variant in use (`tp_btf`, `raw_tracepoint`, `kprobe`, `fexit`, `kretprobe`), `None` if missing.
    pub variant: Option<String>,
    /// Where it is attached (`nf_nat_setup_info`), or where it would be.
    pub target: String,
    /// What is not seen while it is missing; for people.
    pub without_it: String,
    /// Why it is missing, in plain words; empty if it works.
    pub reason: String,
    /// A required signal that is missing keeps the agent from starting.
    pub required: bool,
}

/// Run time of one loaded program, sampled for a moment now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStats {
    /// Program name.
    pub program: String,
    /// Runs since load while statistics were on.
    pub runs: u64,
    /// Nanoseconds spent in those runs.
    pub run_time_ns: u64,
}

/// Something dropped at a bound: where, and how often since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Name of the bound: `ring_buffer`, `edge_map`, `late_binding`, …
    pub at: String,
    /// How many since the start.
    pub count: u64,
}

/// The agent's own account of the kernel side, cumulative since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStats {
    /// Ring buffer records read.
    pub events: u64,
    /// Losses by bound; an entry exists for every bound, at 0 when nothing was lost.
    pub losses: Vec<Loss>,
    /// Fill of each map: name, entries in use, capacity.
    pub maps: Vec<(String, u64, u64)>,
    /// Program statistics from the last sample.
    pub programs: Vec<ProgramStats>,
}

/// What the node lets the agent see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// All signals, working or not.
    pub signals: Vec<SignalCoverage>,
    /// Other limits in plain words (no cgroup v2, a source of identity that failed), each with what is not seen.
    pub limits: Vec<String>,
}
