//! Drawing the board: everything the outputs read, as rows, sorted.
//!
//! Drawn only when somebody asks. Edges are the exception to
//! completeness: the board carries the [`SHOWN_EDGES`] most recent ones, because ten
//! thousand rows of strings would cost more memory than the agent itself.

use std::{net::IpAddr, sync::Arc};

use super::{
    AcceptRow, Accepts, Board, ConnectionRow, DropRow, EdgeRow, Finding, FindingState,
    HandshakeRow, InterceptionRow, LiveRules, PodRow, QueueRow, RulesRow, StuckRow, SynAckRow,
    Verdict,
    directory::{PodEntry, PodId},
    edges::{Comm, Edge},
    findings::State,
    ledger::{self, Account},
    machine::Engine,
    rulebook::{Page, Read},
    sockets::Namespace,
    streams,
    surroundings::Surroundings,
};
use crate::{
    mesh::{Intent, IntentSource},
    model::{Direction, Histogram},
};

/// Edges on the board, the most recent ones.
pub(super) const SHOWN_EDGES: usize = 1_000;

/// Draws everything.
pub(super) fn board(engine: &mut Engine) -> Board {
    let findings = findings(engine);
    let edges = edges(engine);
    let mut board = Board {
        node: engine.config.node.clone(),
        at: engine.now,
        started: engine.started,
        findings,
        edges,
        host_connections: engine.ledger.host(),
        unattributed: engine.ledger.unattributed_rows(),
        coverage: engine.known.coverage.clone(),
        kernel: engine.stats.clone(),
        losses: engine.losses(),
        sources: engine
            .sources
            .iter()
            .map(|(s, t)| (s.clone(), t.clone()))
            .collect(),
        ..Board::default()
    };
    pods(engine, &mut board);
    board
}

fn pods(engine: &mut Engine, board: &mut Board) {
    let mut ids: Vec<PodId> = engine.known.directory.pods().map(|(id, _)| id).collect();
    // A pod that was made again under its name comes once, as it is now.
    let key = |id: &PodId| {
        engine
            .known
            .directory
            .pod(*id)
            .map(|p| (p.pod.key.clone(), p.gone.is_some(), *id))
    };
    ids.sort_by_cached_key(|id| key(id));
    ids.dedup_by_key(|id| engine.known.directory.pod(*id).map(|p| p.pod.key.clone()));
    let nothing = Account::default();
    for id in ids {
        let Some(entry) = engine.known.directory.pod(id) else {
            continue;
        };
        let account = engine.ledger.account(id).unwrap_or(&nothing);
        rows(entry, account, board);
        accepts(entry, account, board);
        drops(entry, account, board);
        let ns = entry.netns.and_then(|n| engine.known.sockets.of(n));
        if let (Some(ns), Some(intent)) = (ns, &entry.intent) {
            queues(entry, ns, intent, board);
        }
        if entry.gone.is_none() && entry.intent.is_some() {
            let page = entry.netns.and_then(|n| engine.known.streams.of(n));
            board
                .stuck
                .extend(page.iter().flat_map(|page| stuck(entry, page)));
        }
        let page = entry.netns.and_then(|n| engine.known.rulebook.of(n));
        board.rules.extend(page.map(|page| rules_row(entry, page)));
        if entry.gone.is_none() {
            let own = engine.known.directory.own_addresses(id);
            board.pods.push(pod_row(engine, id, entry, own, account));
        }
    }
}

fn pod_row(
    engine: &Engine,
    id: PodId,
    entry: &PodEntry,
    ips: Vec<IpAddr>,
    account: &Account,
) -> PodRow {
    let intent = entry.intent.as_ref();
    let open = |c: &&super::findings::Case| c.pod == Some(id) && c.is_open();
    PodRow {
        pod: entry.pod.key.clone(),
        workload: entry.pod.workload.clone(),
        mesh: intent.map(|i| i.profile.clone()),
        intent_source: intent.map(|i| source_name(i.source).to_owned()),
        intent: intent.map_or_else(Vec::new, |i| i.describe.clone()),
        problems: intent.map_or_else(Vec::new, |i| i.problems.clone()),
        netns: entry.netns.map(|n| n.0),
        ips,
        intercepted: account.verdicts_like(|v| *v == Verdict::Intercepted),
        bypassed: account.verdicts_like(|v| matches!(v, Verdict::Bypassed { .. })),
        excluded: account.verdicts_like(|v| matches!(v, Verdict::Excluded { .. })),
        failed: account.verdicts_like(|v| matches!(v, Verdict::Failed | Verdict::Stuck { .. })),
        findings: engine
            .findings
            .told()
            .filter(open)
            .map(|c| c.code)
            .collect(),
        wants: entry.intent.clone(),
    }
}

fn rules_row(entry: &PodEntry, page: &Page) -> RulesRow {
    // The same bound as verdicts have: rules read before the pod was known may be another pod's.
    let now = page.read_since(entry.since);
    RulesRow {
        pod: entry.pod.key.clone(),
        read: now.map(|read| read.last),
        sources: now.map_or_else(Vec::new, |read| read.sources.clone()),
        changed: page.changed.clone(),
        changes: page.changes,
        live: now.map(live_rules),
        earlier: page.earlier_since(entry.since).map(live_rules).collect(),
    }
}

fn live_rules(read: &Read) -> LiveRules {
    LiveRules {
        since: read.first,
        by: read.by.clone(),
        rules: Arc::clone(&read.rules),
    }
}

const fn source_name(source: IntentSource) -> &'static str {
    match source {
        IntentSource::Manifest => "manifest",
        IntentSource::Listeners => "listeners",
    }
}

fn rows(entry: &PodEntry, account: &Account, board: &mut Board) {
    let (pod, workload) = (&entry.pod.key, &entry.pod.workload);
    board.connections.extend(
        account
            .connections
            .iter()
            .map(|((leg, result), n)| ConnectionRow {
                pod: pod.clone(),
                workload: workload.clone(),
                leg: *leg,
                result: *result,
                connections: *n,
            }),
    );
    board
        .interception
        .extend(
            account
                .verdicts
                .iter()
                .map(|((direction, verdict), n)| InterceptionRow {
                    pod: pod.clone(),
                    workload: workload.clone(),
                    direction: *direction,
                    verdict: *verdict,
                    connections: *n,
                }),
        );
    board.handshakes.extend(
        account
            .handshakes
            .iter()
            .map(|(leg, histogram)| HandshakeRow {
                pod: pod.clone(),
                workload: workload.clone(),
                leg: *leg,
                histogram: histogram.clone(),
            }),
    );
}

fn accepts(entry: &PodEntry, account: &Account, board: &mut Board) {
    let row = |(listener, histogram): (&Accepts, &Histogram)| AcceptRow {
        pod: entry.pod.key.clone(),
        workload: entry.pod.workload.clone(),
        listener: *listener,
        histogram: histogram.clone(),
    };
    board.accepts.extend(account.waits.iter().map(row));
}

fn drops(entry: &PodEntry, account: &Account, board: &mut Board) {
    let row = |((direction, reason), packets): (&(Direction, String), &u64)| DropRow {
        pod: entry.pod.key.clone(),
        workload: entry.pod.workload.clone(),
        direction: *direction,
        reason: reason.clone(),
        packets: *packets,
    };
    board.drops.extend(account.drops.iter().map(row));
    if account.syn_acks > 0 {
        board.syn_acks.push(SynAckRow {
            pod: entry.pod.key.clone(),
            workload: entry.pod.workload.clone(),
            resent: account.syn_acks,
        });
    }
}

fn queues(entry: &PodEntry, ns: &Namespace, intent: &Intent, board: &mut Board) {
    if entry.gone.is_some() {
        return;
    }
    for (addr, port, queue) in ns.queues() {
        if intent.is_capture_port(port) {
            board.queues.push(QueueRow {
                pod: entry.pod.key.clone(),
                workload: entry.pod.workload.clone(),
                addr,
                port,
                length: queue.length,
                max: queue.max,
                overflows: queue.overflows,
            });
        }
    }
}

fn stuck(entry: &PodEntry, page: &streams::Page) -> impl Iterator<Item = StuckRow> {
    page.hanging.iter().map(|(stage, connections)| StuckRow {
        pod: entry.pod.key.clone(),
        workload: entry.pod.workload.clone(),
        stage: *stage,
        connections: *connections,
    })
}

fn findings(engine: &Engine) -> Vec<Finding> {
    let surroundings = Surroundings::of(&engine.known);
    let mut findings: Vec<Finding> = engine
        .findings
        .told()
        .map(|case| match &case.state {
            State::Resolved(_, finding) => (**finding).clone(),
            State::Pending | State::Open => surroundings.render(case),
        })
        .collect();
    let key = |f: &Finding| {
        let over = !matches!(f.state, FindingState::Open);
        (
            over,
            std::cmp::Reverse(f.severity),
            f.code,
            f.pod.clone(),
            f.first_seen,
        )
    };
    findings.sort_by_cached_key(key);
    findings
}

fn edges(engine: &Engine) -> Vec<EdgeRow> {
    let counted = |e: &&Edge| ledger::total(&e.counts) > 0;
    let recent = engine.edges.recent().filter(counted).take(SHOWN_EDGES);
    recent.map(|edge| edge_row(engine, edge)).collect()
}

fn edge_row(engine: &Engine, edge: &Edge) -> EdgeRow {
    let entry = edge.pod.and_then(|id| engine.known.directory.pod(id));
    EdgeRow {
        pod: entry.map(|e| e.pod.key.clone()),
        container: entry
            .and_then(|e| e.container(edge.container))
            .map(|c| c.name.clone()),
        key: edge.key,
        process: edge.process.as_ref().map(Comm::show),
        leg: edge.judged.0,
        verdict: edge.judged.1,
        remote: edge.key.remote,
        counts: edge.counts,
        first_seen: edge.first,
        last_seen: edge.last,
    }
}
