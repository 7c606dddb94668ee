//! How to look at the node: where, how often, and how much of it at once.

use std::time::Duration;

use super::{hooks::AskHook, rules, scanner::Paths};

/// How to look at the node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to look.
    pub paths: Paths,
    /// Time between two scans without a notice.
    pub scan_every: Duration,
    /// The same where nothing is new, and whatever appears gives notice.
    pub scan_settled: Duration,
    /// Time between two rounds of accept queues.
    pub sample_every: Duration,
    /// Most namespaces whose accept queues are looked at in one round.
    pub samples: usize,
    /// Most namespaces whose connections are looked at in one round.
    pub stream_samples: usize,
    /// How to read the rules of namespaces.
    pub rules: rules::Options,
    /// Asks whether a cgroup has a hook inside connect(2); nobody is asked without it.
    pub ask_hook: Option<AskHook>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            paths: Paths::default(),
            scan_every: Duration::from_secs(2),
            scan_settled: Duration::from_secs(6),
            // Not a multiple of the 100 ms in which CPU limits are measured out: looks would all fall into the same
            // moment of a proxy that may run for a part of each, and that is one in which it has just run.
            sample_every: Duration::from_millis(1_030),
            samples: 64,
            stream_samples: 16,
            rules: rules::Options::default(),
            ask_hook: None,
        }
    }
}
