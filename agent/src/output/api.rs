//! The JSON pages under `/v1`, as types: what the agent writes is what the command line reads.
//!
//! Pages carry the board's rows as they are. Times are microseconds since the Unix epoch,
//! durations say their unit in the name. Everything is a pure function of a board and a
//! filter; a filter that is not known is refused, because a misspelled one that is ignored
//! shows the wrong rows.

pub mod pod;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::View;
use crate::{
    engine::{Board, Code, EdgeRow, Finding, FindingState, PodRow, Verdict},
    model::{AgentStats, Coverage, Loss, PodKey, Time},
};

/// Most rows of a page without `limit`.
const DEFAULT_LIMIT: usize = 1_000;

/// What every page begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Node name.
    pub node: String,
    /// When the board was drawn.
    pub at: Time,
    /// When the engine started.
    pub started: Time,
    /// Rows that match the filter, shown or not.
    pub total: usize,
}

impl Head {
    fn new(board: &Board, total: usize) -> Self {
        Self {
            node: board.node.clone(),
            at: board.at,
            started: board.started,
            total,
        }
    }
}

/// What the agent watched: an empty list of findings means little without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Pods known.
    pub pods: usize,
    /// Pods by mesh profile; pods in no mesh are not in it.
    pub meshes: BTreeMap<String, usize>,
    /// Connections judged.
    pub connections: u64,
    /// Signals of the kernel that are missing here.
    pub missing_signals: usize,
    /// Sources of identity in trouble, and what is wrong: their pods may be missing.
    pub sources: BTreeMap<String, String>,
}

impl Watched {
    /// What was watched to draw `board`.
    #[must_use]
    pub fn on(board: &Board) -> Self {
        let mut meshes: BTreeMap<String, usize> = BTreeMap::new();
        for mesh in board.pods.iter().filter_map(|pod| pod.mesh.clone()) {
            *meshes.entry(mesh).or_default() += 1;
        }
        let signals = &board.coverage.signals;
        Self {
            pods: board.pods.len(),
            meshes,
            connections: judged(board),
            missing_signals: signals.iter().filter(|s| s.is_missing()).count(),
            sources: board.sources.iter().cloned().collect(),
        }
    }
}

/// Connections with a verdict that says something.
fn judged(board: &Board) -> u64 {
    let rows = board.interception.iter();
    rows.filter(|row| row.verdict != Verdict::Neutral)
        .map(|row| row.connections)
        .sum()
}

/// `/v1/findings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingsPage {
    /// Node and time.
    #[serde(flatten)]
    pub head: Head,
    /// What was watched.
    pub watched: Watched,
    /// Open ones first, worst first.
    pub findings: Vec<Finding>,
}

/// `/v1/pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodsPage {
    /// Node and time.
    #[serde(flatten)]
    pub head: Head,
    /// Sorted by namespace and name.
    pub pods: Vec<PodRow>,
}

/// `/v1/edges`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgesPage {
    /// Node and time.
    #[serde(flatten)]
    pub head: Head,
    /// Most recent first.
    pub edges: Vec<EdgeRow>,
}

/// `/v1/coverage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoveragePage {
    /// Node and time; `total` is the number of signals.
    #[serde(flatten)]
    pub head: Head,
    /// What the node lets the agent see.
    pub coverage: Coverage,
    /// Sources of identity in trouble, and what is wrong.
    pub sources: BTreeMap<String, String>,
    /// The kernel side's counters.
    pub kernel: AgentStats,
    /// Everything dropped at a bound, by bound.
    pub losses: Vec<Loss>,
    /// Connections whose pod stayed unknown, by reason.
    pub unattributed: Vec<Loss>,
}

/// Open or resolved, as a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateFilter {
    /// Evidence still comes in.
    Open,
    /// Evidence stopped.
    Resolved,
}

/// Query of `/v1/findings` and `/v1/pods` (pods that have such findings open).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FindingFilter {
    /// Kubernetes namespace, exactly.
    pub namespace: Option<String>,
    /// Pod name, exactly.
    pub pod: Option<String>,
    /// Code of a finding.
    pub code: Option<Code>,
    /// Open or resolved; both without it.
    pub state: Option<StateFilter>,
    /// Most rows.
    pub limit: Option<usize>,
}

impl FindingFilter {
    /// Whether `finding` matches.
    #[must_use]
    pub fn matches(&self, finding: &Finding) -> bool {
        let state = match finding.state {
            FindingState::Open => StateFilter::Open,
            FindingState::Resolved { .. } => StateFilter::Resolved,
        };
        of_pod(
            self.namespace.as_deref(),
            self.pod.as_deref(),
            finding.pod.as_ref(),
        ) && self.code.is_none_or(|code| code == finding.code)
            && self.state.is_none_or(|wanted| wanted == state)
    }
}

/// Query of `/v1/pods`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodFilter {
    /// Kubernetes namespace, exactly.
    pub namespace: Option<String>,
    /// Pod name, exactly.
    pub pod: Option<String>,
    /// Code of an open finding of the pod.
    pub code: Option<Code>,
    /// Most rows.
    pub limit: Option<usize>,
}

/// Query of `/v1/edges`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeFilter {
    /// Kubernetes namespace, exactly.
    pub namespace: Option<String>,
    /// Pod name, exactly.
    pub pod: Option<String>,
    /// Verdict: `intercepted`, `bypassed`, …
    pub verdict: Option<String>,
    /// Leg: `app_to_proxy`, `direct_out`, …
    pub leg: Option<String>,
    /// Most rows.
    pub limit: Option<usize>,
}

/// Whether a row of `key` is asked for; a row of no pod only matches where no pod is named.
fn of_pod(namespace: Option<&str>, pod: Option<&str>, key: Option<&PodKey>) -> bool {
    match key {
        None => namespace.is_none() && pod.is_none(),
        Some(key) => {
            namespace.is_none_or(|wanted| wanted == key.namespace)
                && pod.is_none_or(|wanted| wanted == key.name)
        }
    }
}

/// The rows that match, cut to the limit, and how many matched.
fn select<T: Clone>(
    rows: &[T],
    limit: Option<usize>,
    matches: impl Fn(&T) -> bool,
) -> (usize, Vec<T>) {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let mut total = 0;
    let mut shown = Vec::new();
    for row in rows.iter().filter(|row| matches(row)) {
        total += 1;
        if shown.len() < limit {
            shown.push(row.clone());
        }
    }
    (total, shown)
}

/// `/v1/findings` of a board.
#[must_use]
pub fn findings(board: &Board, filter: &FindingFilter) -> FindingsPage {
    let (total, findings) = select(&board.findings, filter.limit, |row| filter.matches(row));
    FindingsPage {
        head: Head::new(board, total),
        watched: Watched::on(board),
        findings,
    }
}

/// `/v1/pods` of a board.
#[must_use]
pub fn pods(board: &Board, filter: &PodFilter) -> PodsPage {
    let (total, pods) = select(&board.pods, filter.limit, |row| {
        of_pod(
            filter.namespace.as_deref(),
            filter.pod.as_deref(),
            Some(&row.pod),
        ) && filter.code.is_none_or(|code| row.findings.contains(&code))
    });
    PodsPage {
        head: Head::new(board, total),
        pods,
    }
}

/// `/v1/edges` of a board.
#[must_use]
pub fn edges(board: &Board, filter: &EdgeFilter) -> EdgesPage {
    let (total, edges) = select(&board.edges, filter.limit, |row| {
        of_pod(
            filter.namespace.as_deref(),
            filter.pod.as_deref(),
            row.pod.as_ref(),
        ) && filter
            .verdict
            .as_deref()
            .is_none_or(|wanted| wanted == row.verdict.as_str())
            && filter
                .leg
                .as_deref()
                .is_none_or(|wanted| wanted == row.leg.as_str())
    });
    EdgesPage {
        head: Head::new(board, total),
        edges,
    }
}

/// `/v1/coverage` of a view.
#[must_use]
pub fn coverage(view: &View) -> CoveragePage {
    let board = view.board();
    CoveragePage {
        head: Head::new(&board, board.coverage.signals.len()),
        coverage: board.coverage.clone(),
        sources: board.sources.iter().cloned().collect(),
        kernel: board.kernel.clone(),
        losses: view.losses(),
        unattributed: board.unattributed.clone(),
    }
}

/// `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Every required probe is attached and the kernel's counters have been read.
    pub ready: bool,
    /// Every required probe is attached.
    pub probes_attached: bool,
    /// The kernel's counters have been read at least once.
    pub first_drain: bool,
    /// Something below is not empty: the agent works and sees less than it could.
    pub degraded: bool,
    /// Signals that are missing, and why.
    pub missing_signals: BTreeMap<String, String>,
    /// Sources of identity in trouble, and what is wrong.
    pub sources: BTreeMap<String, String>,
    /// Other limits of this node.
    pub limits: Vec<String>,
}

impl Readiness {
    /// Whether the agent behind `view` is ready.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let board = view.board();
        let signals = &board.coverage.signals;
        let missing = || signals.iter().filter(|signal| signal.is_missing());
        // No signals at all means that nothing has been attached yet.
        let probes_attached = !signals.is_empty() && !missing().any(|signal| signal.required);
        let first_drain = view.drained();
        let missing_signals: BTreeMap<_, _> = missing()
            .map(|signal| (signal.signal.clone(), signal.reason.clone()))
            .collect();
        let sources: BTreeMap<_, _> = board.sources.iter().cloned().collect();
        let limits = board.coverage.limits.clone();
        Self {
            ready: probes_attached && first_drain,
            probes_attached,
            first_drain,
            degraded: !(missing_signals.is_empty() && sources.is_empty() && limits.is_empty()),
            missing_signals,
            sources,
            limits,
        }
    }
}

/// An error of the API, in three parts like every error of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong.
    pub error: String,
    /// Where: the path or parameter.
    pub place: String,
    /// What to do.
    pub to_do: String,
}
