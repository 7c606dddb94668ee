//! Packets of a pod that rules of the node stop on their way: neither end of the connection has
//! these rules, and neither hears of it.
//!
//! The node's rules are many and change all the time, so they are read only where a destination
//! does not answer, or refuses again and again, and the pod's own rules let the packets out.

use std::net::{IpAddr, SocketAddr};

use super::{
    Code,
    diagnose::{Place, Stop},
    directory::PodId,
    explain,
    findings::Case,
    machine::Engine,
    turned_away::READ_US,
};
use crate::{
    model::{EdgeKey, Leaves, NetnsId, Through},
    rules::{self, Connection, Interface, Protocol},
};

/// Destinations of a case that are asked about when rules are read.
const ASKED: usize = 8;
/// Connections that are followed through the node's rules in a second: there may be ten thousand rules.
const FOLLOWED: u32 = 200;
const SECOND_US: u64 = 1_000_000;

impl Engine {
    /// The rule on the node that stops what this pod sends to a destination, which is `silent` or
    /// refuses. What is not known is asked for; whoever asks is told when it comes.
    pub(super) fn stopped_on_node(
        &mut self,
        pod: PodId,
        key: &EdgeKey,
        silent: bool,
    ) -> Option<Stop> {
        let netns = self.own_netns(pod)?;
        let ends = (key.local, key.remote.ip());
        let through = self.known.passages.ask(self.now, netns, ends)?.clone();
        self.ask_node(through.node, silent);
        if !self
            .known
            .passages
            .may_follow(self.now, FOLLOWED, SECOND_US)
        {
            return None;
        }
        let from = SocketAddr::new(key.local, key.local_port);
        self.stop_in(pod, &through, from, key.remote)
    }

    /// Wants the node's rules read: as they are now for whoever is not answered, as they were a
    /// moment ago for whoever is refused.
    pub(super) fn ask_node(&mut self, node: NetnsId, silent: bool) {
        let age_us = if silent { 0 } else { READ_US };
        self.known.rulebook.ask_unread(self.now, node, age_us);
    }

    /// Whether nothing is still to come of what the node does with packets of this pod for an
    /// address.
    pub(super) fn is_settled_on_node(&self, pod: PodId, to: IpAddr) -> bool {
        let Some(netns) = self.own_netns(pod) else {
            return true;
        };
        let read = |node: NetnsId| {
            let now = self
                .known
                .rulebook
                .of(node)
                .and_then(|page| page.now.as_ref());
            now.is_some_and(|now| self.now.micros_since(now.last) <= READ_US)
        };
        let through = self.known.passages.of(netns, to);
        !self.known.passages.waits(netns, to) && through.is_none_or(|through| read(through.node))
    }

    fn stop_in(
        &self,
        pod: PodId,
        through: &Through,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<Stop> {
        let now = self.known.rulebook.of(through.node)?.now.as_ref()?;
        let local = self.addresses_of(through.node);
        let came_in = Interface::Named(through.came_in.clone());
        let made = Connection::inbound(Protocol::Tcp, from, to, local).come_in_by(came_in);
        let connection = match &through.leaves {
            Leaves::Here => made,
            Leaves::By(name) => made.passed_on_by(Interface::Named(name.clone())),
            Leaves::NotKnown => made.passed_on_by(Interface::Unknown),
        };
        if !now.is_known(connection.family()) {
            return None;
        }
        let path = rules::evaluate(&now.rules, &connection);
        let stops = matches!(
            path.outcome,
            rules::Outcome::Dropped | rules::Outcome::Rejected
        );
        Some(Stop {
            pod,
            place: Place::Node,
            how: path.outcome,
            step: path.decided_by.filter(|_| stops)?,
            by: now.by.as_ref().map(explain::who),
        })
    }

    /// Rules of a namespace were read: who has to pass it is asked about again.
    pub(super) fn blame_node(&mut self, node: NetnsId) {
        if !self.known.passages.is_passed(node) {
            return;
        }
        // Nobody looks back at these, and they are many.
        if self.known.directory.pod_of(node).is_none() {
            self.known.rulebook.keep_last(node);
        }
        let pods: Vec<PodId> = self.known.watches.keys().copied().collect();
        for pod in pods {
            let Some(netns) = self.own_netns(pod) else {
                continue;
            };
            let passes = (self.known.passages.nodes_of(netns)).any(|found| found == Some(node));
            if passes {
                self.blame_pod(pod);
                self.close_on_node(pod, netns, node);
            }
        }
    }

    /// The rules of the node no longer stop what they stopped.
    fn close_on_node(&mut self, pod: PodId, netns: NetnsId, node: NetnsId) {
        let Some(case) = self.node_case(pod) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let stops = |to: SocketAddr| {
            let from = own.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
            let through = self.known.passages.of(netns, to.ip());
            let (Some(from), Some(through)) = (from, through) else {
                return true;
            };
            through.node != node
                || self
                    .stop_in(pod, through, SocketAddr::new(*from, 0), to)
                    .is_some()
        };
        let all = case.destinations.most(ASKED);
        if !all.into_iter().any(|(to, _)| stops(to)) {
            self.resolve(pod, Code::FailNetfilterDrop);
        }
    }

    /// A destination answers: whatever the node stopped, it no longer does.
    pub(super) fn answered_past_node(&mut self, pod: PodId, to: SocketAddr) {
        let Some(case) = self.node_case(pod) else {
            return;
        };
        let all = case.destinations.most(ASKED);
        if all.into_iter().any(|(told, _)| told == to) {
            self.resolve(pod, Code::FailNetfilterDrop);
        }
    }

    fn node_case(&self, pod: PodId) -> Option<&Case> {
        let case = self.findings.get(pod, Code::FailNetfilterDrop)?;
        (case.is_current() && case.fact("place") == Some(Place::Node.as_str())).then_some(case)
    }
}
