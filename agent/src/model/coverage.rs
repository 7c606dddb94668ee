//! What the agent can see on this node, and what it lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One signal and how it is obtained here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalCoverage {
    /// Name of the signal: `connection_state`, `nat_decision`, `accept`, `reset`, `retransmit`,
    /// `rules_change_nft`, …
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
    /// Missing, but there is nothing to tell yet: the module it is about is not loaded. It
    /// is attached when it loads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
}

impl SignalCoverage {
    /// Whether something is not seen because of it.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        self.variant.is_none() && !self.idle
    }
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

/// Readings of the rules of network namespaces, cumulative since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesStats {
    /// How many by what came of them: `complete`, `empty`, `unchanged`, `vanished`, …
    pub reads: BTreeMap<String, u64>,
    /// Processor time they took, programs included, microseconds.
    pub took_us: u64,
    /// Namespaces not read for want of room, each time they were seen.
    pub refused: u64,
}

impl RulesStats {
    /// Counts one.
    pub fn count(&mut self, result: &str, took_us: u64) {
        let count = self.reads.entry(result.to_owned()).or_default();
        *count = count.saturating_add(1);
        self.took_us = self.took_us.saturating_add(took_us);
    }
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
    /// Readings of rules.
    #[serde(default)]
    pub rules: RulesStats,
    /// Requests to the API server.
    #[serde(default)]
    pub cluster: super::ClusterStats,
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
