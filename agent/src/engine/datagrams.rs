//! Flows over UDP: whose they are, and whether the rules are known that they met.
//!
//! No part of the ledger: connections are counted there, and a flow over UDP is none. What
//! cannot be bound yet waits here, bounded, as connections wait in `late`. It must never
//! make anything of a flow whose source is not the pod's own address: whoever runs when a
//! packet comes in has nothing to do with it.

use super::{
    diagnose::{self, Flow},
    directory::{PodId, Who},
    facts,
    findings::Case,
    late::{CONTAINER_WAIT_US, POD_WAIT_US},
    machine::Engine,
    surroundings::Surroundings,
    verdict::{Party, Path},
    waiting::Waiting,
};
use crate::model::{Datagrams, NetnsId, Time};

/// Flows that wait.
const MAX_WAITING: usize = 1_024;

/// Flows that wait for their pod or its rules.
pub(super) type Flows = Waiting<Datagrams, MAX_WAITING>;

impl Engine {
    pub(super) fn datagrams(&mut self, all: Vec<Datagrams>) {
        for flow in all {
            self.datagram(self.now, flow);
        }
    }

    /// Looks again at everything that waits.
    pub(super) fn retry_datagrams(&mut self) {
        for (since, flow) in self.known.flows.take() {
            self.datagram(since, flow);
        }
    }

    fn datagram(&mut self, since: Time, flow: Datagrams) {
        let waited = self.now.micros_since(since);
        match self.known.directory.who(&flow.key.owner) {
            Who::Pod { settled: false, .. } if waited < CONTAINER_WAIT_US => {
                self.hold_flow(since, flow);
            }
            Who::Pod { pod, container, .. } => {
                let waits = self.flow_waits(pod, container, since, &flow);
                if waits && waited < CONTAINER_WAIT_US {
                    self.hold_flow(since, flow);
                } else if !waits {
                    self.judge_flow(pod, container, &flow);
                }
            }
            Who::Unknown(_) if waited < POD_WAIT_US => {
                self.hold_flow(since, flow);
            }
            Who::Host | Who::Unknown(_) => {}
        }
    }

    fn hold_flow(&mut self, since: Time, flow: Datagrams) {
        let n = flow.flows;
        self.known.flows.hold(self.now, since, flow, n);
    }

    /// Whether the rules it met are not known yet: not read, or they would have captured it.
    fn flow_waits(
        &mut self,
        pod: PodId,
        container: Option<u16>,
        since: Time,
        flow: &Datagrams,
    ) -> bool {
        let netns = flow.key.owner.netns;
        if !self.known.rulebook.readable {
            return false;
        }
        let own = self.known.directory.own_addresses(pod);
        let surroundings = Surroundings::of(&self.known);
        let Some(scene) = surroundings.scene(pod) else {
            return false;
        };
        let view = facts::look(&flow.key, scene.entry, container, &own);
        let flow = Flow::new(flow, container, &own);
        if !diagnose::is_past_resolver(&flow, &view, &scene) {
            return false;
        }
        let Some(read) = scene.live_rules() else {
            return true;
        };
        if !diagnose::would_capture(&read.rules, &flow, scene.intent) {
            return false;
        }
        if read.last <= since {
            self.known.rulebook.ask(self.now, netns);
        }
        true
    }

    fn judge_flow(&mut self, pod: PodId, container: Option<u16>, flow: &Datagrams) {
        let own = self.known.directory.own_addresses(pod);
        let surroundings = Surroundings::of(&self.known);
        let Some(scene) = surroundings.scene(pod) else {
            return;
        };
        let view = facts::look(&flow.key, scene.entry, container, &own);
        let outside = own.is_empty() || own.contains(&flow.key.local);
        if view.party != Party::App || view.path == Path::Own || !outside {
            return;
        }
        let flow = Flow::new(flow, container, &own);
        diagnose::datagram(self.now, pod, &flow, &view, &scene, &mut self.findings);
    }

    /// The rules of a namespace were read: do they capture queries, if the pod's spec says so?
    pub(super) fn reread_dns(&mut self, netns: NetnsId) {
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let surroundings = Surroundings::of(&self.known);
        if let Some(scene) = surroundings.scene(pod) {
            let render = |case: &Case| surroundings.render(case);
            diagnose::dns_rules(self.now, pod, &scene, &mut self.findings, &render);
        }
    }
}
