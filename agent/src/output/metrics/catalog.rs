//! Every metric there is: name, type, unit, labels, meaning.
//!
//! The one place a name is written. `docs/metrics.md` is checked against this table, and a
//! test checks that a page holds these and no others.

use prometheus_client::{metrics::MetricType, registry::Unit};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the agent restarts or its row goes away.
    Counter,
    /// A value of this moment.
    Gauge,
    /// Durations by upper bound.
    Histogram,
    /// Always 1; the facts are in the labels.
    Info,
}

impl Kind {
    /// Name in the exposition format and the docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    pub(super) const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

/// A metric family.
#[derive(Debug)]
pub struct Metric {
    /// Name without unit and suffix.
    pub(super) base: &'static str,
    /// Unit, part of the name.
    pub(super) unit: Option<Unit>,
    /// Type.
    pub kind: Kind,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// Name of its samples, as used in queries (a histogram's without `_bucket`).
    #[must_use]
    pub fn name(&self) -> String {
        let unit = self
            .unit
            .as_ref()
            .map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.base)
    }
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $base:literal $($unit:ident)? [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $id: Metric = Metric {
            base: $base,
            unit: metrics!(@unit $($unit)?),
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All metrics, in the order of the page.
        pub static METRICS: &[&Metric] = &[$(&$id),*];
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

metrics! {
    CONNECTIONS = Counter "sidestep_connections" ["namespace", "pod", "workload", "leg", "result"]
        "TCP connections of a pod by leg of the path and how they ended.";
    INTERCEPTION = Counter "sidestep_interception" ["namespace", "pod", "workload", "direction", "verdict", "reason"]
        "Connections judged against what the pod's spec says must be captured.";
    HANDSHAKE = Histogram "sidestep_handshake" Seconds ["namespace", "pod", "workload", "leg"]
        "Outbound legs: connect to established.";
    ACCEPT_WAIT = Histogram "sidestep_accept_wait" Seconds ["namespace", "pod", "workload", "listener"]
        "Established to accepted, by whose listener it is.";
    DROPS = Counter "sidestep_drops" ["namespace", "pod", "workload", "direction", "reason"]
        "TCP packets of a pod that the kernel dropped while it was watched, by the kernel's own reason.";
    SYN_ACKS = Counter "sidestep_syn_ack_retransmits" ["namespace", "pod", "workload"]
        "Answers of a pod's listeners to SYNs that had to be sent again, as far as they were told.";
    QUEUE_LENGTH = Gauge "sidestep_accept_queue_length" ["namespace", "pod", "workload", "port"]
        "Connections waiting in the accept queue of a capture listener.";
    QUEUE_MAX = Gauge "sidestep_accept_queue_max" ["namespace", "pod", "workload", "port"]
        "Maximum of the accept queue of a capture listener.";
    QUEUE_OVERFLOWS = Counter "sidestep_accept_queue_overflows" ["namespace", "pod", "workload", "port"]
        "Samples in which the accept queue of a capture listener was over its maximum.";
    STUCK = Gauge "sidestep_stuck_connections" ["namespace", "pod", "workload", "stage"]
        "Connections of a pod that make no progress now, by where they hang.";
    FINDINGS = Gauge "sidestep_findings" ["namespace", "pod", "workload", "code", "severity"]
        "Open findings of this pod and code; 0 once resolved and still shown.";
    UNATTRIBUTED = Counter "sidestep_unattributed_connections" ["reason"]
        "Connections whose pod is unknown and stayed so.";
    PODS = Gauge "sidestep_pods" ["mesh"]
        "Pods known on this node by mesh profile; none for pods in no mesh.";
    NETNS = Gauge "sidestep_pod_network_namespaces" []
        "Network namespaces that are known to be a pod's.";
    BOARD_AGE = Gauge "sidestep_agent_board_age" Seconds []
        "Time since the picture these metrics are a view of was drawn.";
    EVENTS = Counter "sidestep_agent_events" []
        "Ring buffer records read from the kernel.";
    LOST = Counter "sidestep_agent_lost" ["at"]
        "Things dropped at a bound, by bound; 0 where nothing was lost.";
    MAP_ENTRIES = Gauge "sidestep_agent_map_entries" ["map"]
        "Entries in use in a BPF map.";
    MAP_CAPACITY = Gauge "sidestep_agent_map_capacity" ["map"]
        "Entries a BPF map can hold.";
    PROGRAM_RUNS = Counter "sidestep_agent_program_runs" ["program"]
        "Runs of a BPF program while statistics were sampled; not all runs.";
    PROGRAM_SECONDS = Counter "sidestep_agent_program_run" Seconds ["program"]
        "Time spent in a BPF program while statistics were sampled.";
    PROBE_ATTACHED = Gauge "sidestep_agent_probe_attached" ["signal", "variant"]
        "1 if the signal is delivered, by the variant that delivers it; 0 and variant none if it is missing, idle while its module is not loaded.";
    RULES_READS = Counter "sidestep_rules_reads" ["result"]
        "Readings of the rules of a network namespace, by what came of them.";
    RULES_READ_SECONDS = Counter "sidestep_rules_read" Seconds []
        "Processor time spent on reading rules, the programs started for it included.";
    CLUSTER_SYNCED = Gauge "sidestep_cluster_synced" ["resource"]
        "1 while the watch of this kind of object is whole, 0 while it fails or its first list is not through.";
    CLUSTER_OBJECTS = Gauge "sidestep_cluster_objects" ["resource"]
        "Objects of this kind known from the API server.";
    CLUSTER_CHANGES = Counter "sidestep_cluster_changes" ["resource"]
        "Objects the API server told of, those of lists included.";
    CLUSTER_LISTS = Counter "sidestep_cluster_lists" ["resource"]
        "Whole lists read: one at start, one more each time the server no longer knew where the watch stood.";
    CLUSTER_REQUESTS = Counter "sidestep_cluster_requests" ["code"]
        "Requests to the API server by the status of the answer, none where there was no answer.";
    CLUSTER_EVENTS = Counter "sidestep_cluster_events" ["result"]
        "Kubernetes Events about findings by what came of them.";
    SOURCES_FAILED = Gauge "sidestep_agent_sources_failed" ["source"]
        "1 while a source of identity is in trouble.";
    BUILD = Info "sidestep_build" ["version"]
        "Version of the agent.";
    NODE = Info "sidestep_node" ["node", "kernel"]
        "The node and its kernel release.";
    PROCESS_CPU = Counter "process_cpu" Seconds []
        "User and system CPU time of the agent.";
    PROCESS_RSS = Gauge "process_resident_memory" Bytes []
        "Resident memory of the agent.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory" Bytes []
        "Virtual memory of the agent.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors of the agent.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Most file descriptors the agent may open.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads of the agent.";
    PROCESS_START = Gauge "process_start_time" Seconds []
        "When the agent's process started, since the Unix epoch.";
}
