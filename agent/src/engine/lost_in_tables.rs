//! What the engine makes of connection tracking tables: handshakes that nobody answers because
//! their packets found no room.
//!
//! The table is the root of whatever else was suspected about these destinations: one cause, one finding.

use super::{
    Code, diagnose, directory::PodId, findings::Case, machine::Engine, surroundings::Surroundings,
    tables::Table, unanswered::Hang,
};
use crate::model::{Conntrack, NetnsId};

/// What did not answer counts for so long.
const RECENT_US: u64 = 10_000_000;

impl Engine {
    /// Tables that were asked about.
    pub(super) fn tables(&mut self, netns: NetnsId, now: [Option<Conntrack>; 2]) {
        self.known.tables.read(self.now, netns, now);
        self.findings.touched = true;
        if let Some(pod) = self.known.directory.pod_of(netns) {
            self.look_for_room(pod, netns);
            self.look_for_invalid(pod, netns);
        }
    }

    fn look_for_room(&mut self, pod: PodId, netns: NetnsId) {
        let full = self.known.tables.of(netns).find(Table::is_full);
        let Some(watch) = self.known.watches.get_mut(&pod) else {
            return;
        };
        let recent: Vec<Hang> = (watch.unanswered)
            .recent(self.now, RECENT_US)
            .copied()
            .collect();
        match full {
            Some(table) => {
                for hang in &recent {
                    watch.unanswered.explain(hang.key.remote);
                    diagnose::full(self.now, pod, &table, hang, &mut self.findings);
                }
                self.full_explains(pod);
            }
            None => {
                let code = Code::FailConntrackFull;
                if !self.findings.get(pod, code).is_some_and(Case::is_current) {
                    return;
                }
                watch.unanswered.explain_anew();
                self.resolve(pod, code);
            }
        }
    }

    fn full_explains(&mut self, pod: PodId) {
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        let root = Code::FailConntrackFull;
        if !self.findings.get(pod, root).is_some_and(Case::is_current) {
            return;
        }
        for symptom in [Code::StuckUpstreamTimeout, Code::StuckControlPlane] {
            let case = self.findings.get(pod, symptom);
            // Whoever is refused was reached.
            if case.is_some_and(|case| case.fact("refused").is_none()) {
                self.findings.absorb(self.now, pod, root, symptom, &render);
            }
        }
    }
}
