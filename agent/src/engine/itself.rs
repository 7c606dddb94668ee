//! The agent's own account: what was dropped at a bound, and whose connections are not known.
//!
//! Totals come in once a second; what they grew by since is what a finding is made of, so that
//! a bound that was reached once, long ago, is not told for ever. Only what makes an answer
//! wrong or missing counts here; everything dropped anywhere is in the metrics.

use std::collections::BTreeMap;

use super::{diagnose, findings::Case, machine::Engine, surroundings::Surroundings};
use crate::model::{AgentStats, Loss, Time};

/// Connections without a pod are looked at over this time.
const WINDOW_US: u64 = 10_000_000;
/// An agent that began a moment ago does not know the pods yet.
const START_US: u64 = 30_000_000;
/// Fewer in a window are what pods leave behind that just ended.
const FEW: u64 = 20;
/// One in so many connections may be nobody's.
const SHARE: u64 = 100;

/// What was known of the agent itself before.
#[derive(Debug, Default)]
pub(super) struct Itself {
    /// Totals of what was dropped, by bound.
    dropped: BTreeMap<String, u64>,
    window: Option<Window>,
}

/// Totals at the beginning of a window.
#[derive(Debug)]
struct Window {
    since: Time,
    connections: u64,
    unattributed: BTreeMap<String, u64>,
}

impl Engine {
    /// Takes the agent's own counters in.
    pub(super) fn stats(&mut self, stats: AgentStats) {
        self.stats = stats;
        self.forget_passages();
        self.suspect_given();
        let all: Vec<Loss> = self
            .stats
            .losses
            .iter()
            .cloned()
            .chain(self.losses())
            .collect();
        let mut grew = Vec::new();
        for loss in all {
            let before = self.itself.dropped.insert(loss.at.clone(), loss.count);
            let more = loss.count.saturating_sub(before.unwrap_or(0));
            if more > 0 {
                grew.push(Loss {
                    count: more,
                    ..loss
                });
            }
        }
        diagnose::overload(self.now, &grew, &mut self.findings);
        self.nobodys();
    }

    /// What the engine itself dropped, by bound, since the start.
    pub(super) fn losses(&self) -> Vec<Loss> {
        let loss = |at: &str, count| Loss {
            at: at.to_owned(),
            count,
        };
        let mut losses = vec![
            loss("edges", self.edges.evicted),
            loss("outputs", self.findings.outputs_lost),
            loss("listeners", self.known.sockets.refused),
            loss("streams", self.known.streams.refused),
            loss("datagrams", self.known.flows.refused),
            loss("rewrites", self.known.rewrites.refused),
            loss("rules", self.known.rulebook.refused),
            loss("drop_watches", self.known.drops.refused),
            loss("passages", self.known.passages.refused),
            loss("marked_routes", self.known.marked.refused),
            loss("memory", self.known.memories.refused),
            loss("conntrack", self.known.tables.refused),
        ];
        losses.extend(self.known.directory.losses());
        losses.sort_by(|a, b| a.at.cmp(&b.at));
        losses
    }

    /// Looks at the connections of one window whose pod stayed unknown.
    fn nobodys(&mut self) {
        let rows = self.ledger.unattributed_rows();
        let now: BTreeMap<String, u64> = rows.into_iter().map(|r| (r.at, r.count)).collect();
        let connections = self.ledger.total();
        let Some(window) = &self.itself.window else {
            if self.now.micros_since(self.started) >= START_US {
                self.begin_window(connections, now);
            }
            return;
        };
        if self.now.micros_since(window.since) < WINDOW_US {
            return;
        }
        let more = |(reason, n): (&String, &u64)| Loss {
            at: reason.clone(),
            count: n.saturating_sub(window.unattributed.get(reason).copied().unwrap_or(0)),
        };
        let grew: Vec<Loss> = now.iter().map(more).filter(|l| l.count > 0).collect();
        let unknown = grew
            .iter()
            .fold(0_u64, |sum, l| sum.saturating_add(l.count));
        let all = connections.saturating_sub(window.connections);
        if unknown >= FEW && unknown >= all / SHARE {
            diagnose::unattributed(self.now, &grew, all, &mut self.findings);
        } else {
            let surroundings = Surroundings::of(&self.known);
            let render = |case: &Case| surroundings.render(case);
            diagnose::attributed(self.now, &mut self.findings, &render);
        }
        self.begin_window(connections, now);
    }

    fn begin_window(&mut self, connections: u64, unattributed: BTreeMap<String, u64>) {
        self.itself.window = Some(Window {
            since: self.now,
            connections,
            unattributed,
        });
    }
}
