//! From the rows of a board to the rows of metric families.
//!
//! Only names are translated here. A value that is not on the board must not be made up:
//! what a metric needs and the board lacks belongs into the engine.

use std::{collections::BTreeSet, fmt};

use super::{
    super::View,
    catalog,
    labels::{
        AtLabel, CodeLabel, ConnectionLabels, DropLabels, FindingLabels, InterceptionLabels,
        LegLabels, ListenerLabels, MapLabel, MeshLabel, NodeLabels, PodLabels, ProbeLabels,
        ProgramLabel, QueueLabels, ReasonLabel, ResourceLabel, ResultLabel, SourceLabel,
        StageLabels, VersionLabel,
    },
    page::Page,
};
use crate::{
    engine::{Board, Finding, FindingState, QueueRow, StuckRow, Verdict},
    model::WatchStats,
};

/// Connections, verdicts, handshakes, queues.
pub(super) fn traffic(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    page.counters(
        &catalog::CONNECTIONS,
        board.connections.iter().map(|row| {
            let labels = ConnectionLabels {
                pod: PodLabels::new(&row.pod, row.workload.as_ref()),
                leg: row.leg.as_str(),
                result: row.result.as_str(),
            };
            (labels, row.connections)
        }),
    )?;
    page.counters(
        &catalog::INTERCEPTION,
        board.interception.iter().map(|row| {
            let labels = InterceptionLabels {
                pod: PodLabels::new(&row.pod, row.workload.as_ref()),
                direction: row.direction.as_str(),
                verdict: row.verdict.as_str(),
                reason: reason(row.verdict),
            };
            (labels, row.connections)
        }),
    )?;
    page.histograms(
        &catalog::HANDSHAKE,
        board.handshakes.iter().map(|row| {
            let pod = PodLabels::new(&row.pod, row.workload.as_ref());
            (
                LegLabels {
                    pod,
                    leg: row.leg.as_str(),
                },
                &row.histogram,
            )
        }),
    )?;
    page.histograms(
        &catalog::ACCEPT_WAIT,
        board.accepts.iter().map(|row| {
            let pod = PodLabels::new(&row.pod, row.workload.as_ref());
            let listener = row.listener.as_str();
            (ListenerLabels { pod, listener }, &row.histogram)
        }),
    )?;
    drops(page, board)?;
    queues(page, &board.queues)?;
    stuck(page, &board.stuck)
}

fn drops(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    page.counters(
        &catalog::DROPS,
        board.drops.iter().map(|row| {
            let labels = DropLabels {
                pod: PodLabels::new(&row.pod, row.workload.as_ref()),
                direction: row.direction.as_str(),
                reason: &row.reason,
            };
            (labels, row.packets)
        }),
    )?;
    page.counters(
        &catalog::SYN_ACKS,
        board.syn_acks.iter().map(|row| {
            let pod = PodLabels::new(&row.pod, row.workload.as_ref());
            (pod, row.resent)
        }),
    )
}

fn queues(page: &mut Page<'_, '_>, rows: &[QueueRow]) -> fmt::Result {
    fn labels(row: &QueueRow) -> QueueLabels<'_> {
        QueueLabels {
            pod: PodLabels::new(&row.pod, row.workload.as_ref()),
            port: row.port,
        }
    }
    let lengths = rows.iter().map(|row| (labels(row), u64::from(row.length)));
    page.gauges(&catalog::QUEUE_LENGTH, lengths)?;
    let maxima = rows.iter().map(|row| (labels(row), u64::from(row.max)));
    page.gauges(&catalog::QUEUE_MAX, maxima)?;
    let overflows = rows.iter().map(|row| (labels(row), row.overflows));
    page.counters(&catalog::QUEUE_OVERFLOWS, overflows)
}

fn stuck(page: &mut Page<'_, '_>, rows: &[StuckRow]) -> fmt::Result {
    fn labels(row: &StuckRow) -> StageLabels<'_> {
        StageLabels {
            pod: PodLabels::new(&row.pod, row.workload.as_ref()),
            stage: row.stage.as_str(),
        }
    }
    page.gauges(
        &catalog::STUCK,
        rows.iter().map(|row| (labels(row), row.connections)),
    )
}

/// The `reason` label: why it went direct, or at which stage it hangs.
const fn reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Bypassed { reason } | Verdict::Excluded { reason } => reason.as_str(),
        Verdict::Stuck { stage } => stage.as_str(),
        Verdict::Intercepted | Verdict::Failed | Verdict::Neutral => "none",
    }
}

/// Findings, and what belongs to nobody.
pub(super) fn findings(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    fn labels(finding: &Finding) -> FindingLabels<'_> {
        let pod = finding.pod.as_ref();
        FindingLabels {
            code: finding.code.as_str(),
            severity: finding.severity.as_str(),
            pod: pod.map_or(PodLabels::NONE, |pod| {
                PodLabels::new(pod, finding.workload.as_ref())
            }),
        }
    }
    let open = |finding: &Finding| u64::from(matches!(finding.state, FindingState::Open));
    page.gauges(
        &catalog::FINDINGS,
        board
            .findings
            .iter()
            .map(|finding| (labels(finding), open(finding))),
    )?;
    page.counters(
        &catalog::UNATTRIBUTED,
        board
            .unattributed
            .iter()
            .map(|loss| (ReasonLabel { reason: &loss.at }, loss.count)),
    )
}

/// Who is known.
pub(super) fn identity(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    page.gauges(
        &catalog::PODS,
        board.pods.iter().map(|pod| {
            (
                MeshLabel {
                    mesh: pod.mesh.as_deref().unwrap_or("none"),
                },
                1,
            )
        }),
    )?;
    let netns: BTreeSet<u32> = board.pods.iter().filter_map(|pod| pod.netns).collect();
    page.gauge(&catalog::NETNS, netns.len() as u64)
}

/// The agent's own counters.
pub(super) fn agent(page: &mut Page<'_, '_>, board: &Board, view: &View) -> fmt::Result {
    let stats = &board.kernel;
    page.gauge(&catalog::BOARD_AGE, view.age().as_secs_f64())?;
    page.counter(&catalog::EVENTS, stats.events)?;
    let losses = view.losses();
    page.counters(
        &catalog::LOST,
        losses
            .iter()
            .map(|loss| (AtLabel { at: &loss.at }, loss.count)),
    )?;
    let entries = stats
        .maps
        .iter()
        .map(|(map, entries, _)| (MapLabel { map }, *entries));
    page.gauges(&catalog::MAP_ENTRIES, entries)?;
    let capacity = stats
        .maps
        .iter()
        .map(|(map, _, capacity)| (MapLabel { map }, *capacity));
    page.gauges(&catalog::MAP_CAPACITY, capacity)?;
    page.counters(
        &catalog::PROGRAM_RUNS,
        stats.programs.iter().map(|row| {
            (
                ProgramLabel {
                    program: &row.program,
                },
                row.runs,
            )
        }),
    )?;
    page.counters_of_seconds(
        &catalog::PROGRAM_SECONDS,
        stats.programs.iter().map(|row| {
            (
                ProgramLabel {
                    program: &row.program,
                },
                row.run_time_ns,
            )
        }),
    )
}

fn rules(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    let stats = &board.kernel.rules;
    let reads = stats.reads.iter();
    page.counters(
        &catalog::RULES_READS,
        reads.map(|(result, count)| (ResultLabel { result }, *count)),
    )?;
    page.counter(&catalog::RULES_READ_SECONDS, stats.took_us as f64 / 1e6)
}

/// What was asked of the API server; no series without a cluster.
fn cluster(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    let stats = &board.kernel.cluster;
    let each = |value: fn(&WatchStats) -> u64| {
        let watches = stats.watches.iter();
        watches.map(move |(resource, watch)| (ResourceLabel { resource }, value(watch)))
    };
    page.gauges(&catalog::CLUSTER_SYNCED, each(|w| u64::from(w.synced)))?;
    page.gauges(&catalog::CLUSTER_OBJECTS, each(|w| w.objects))?;
    page.counters(&catalog::CLUSTER_CHANGES, each(|w| w.changes))?;
    page.counters(&catalog::CLUSTER_LISTS, each(|w| w.lists))?;
    let requests = stats.requests.iter();
    page.counters(
        &catalog::CLUSTER_REQUESTS,
        requests.map(|(code, count)| (CodeLabel { code }, *count)),
    )?;
    let events = stats.events.iter();
    page.counters(
        &catalog::CLUSTER_EVENTS,
        events.map(|(result, count)| (ResultLabel { result }, *count)),
    )
}

/// What the node lets the agent see.
pub(super) fn coverage(page: &mut Page<'_, '_>, board: &Board) -> fmt::Result {
    page.gauges(
        &catalog::PROBE_ATTACHED,
        board.coverage.signals.iter().map(|row| {
            let variant = row.variant.as_deref();
            let labels = ProbeLabels {
                signal: &row.signal,
                variant: variant.unwrap_or(if row.idle { "idle" } else { "none" }),
            };
            (labels, u64::from(variant.is_some()))
        }),
    )?;
    rules(page, board)?;
    cluster(page, board)?;
    page.gauges(
        &catalog::SOURCES_FAILED,
        board
            .sources
            .iter()
            .map(|(source, _)| (SourceLabel { source }, 1)),
    )?;
    page.info(
        &catalog::BUILD,
        &VersionLabel {
            version: env!("CARGO_PKG_VERSION"),
        },
    )?;
    let node = NodeLabels {
        node: &board.node,
        kernel: &board.coverage.kernel,
    };
    page.info(&catalog::NODE, &node)
}
