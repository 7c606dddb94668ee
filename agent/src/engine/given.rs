//! Connections that rules give to the proxy as they are (TPROXY), where nobody takes them.
//!
//! Without NAT nobody refuses them: the kernel drops their SYNs without a word. So it is asked where a peer of this
//! node is not answered, and what the kernel drops is watched for a moment where the rules and the sockets of a pod
//! disagree: peers elsewhere are not seen.

use std::net::{IpAddr, SocketAddr};

use super::{
    diagnose,
    directory::PodId,
    drops::Drops,
    machine::Engine,
    sockets::{Listens, Namespace},
};
use crate::{
    model::{Direction, EdgeKey, Family, LostPackets, NetnsId, Part},
    rules::{self, Action, Outcome, Protocol, Redirection},
};

/// A pod known for less is still starting.
const YOUNG_US: u64 = 3_000_000;
/// How the kernel calls what netfilter dropped, or the function that did it where it has no reasons.
const BY_NETFILTER: [&str; 2] = ["NETFILTER_DROP", "nf_hook_slow"];

impl Engine {
    /// The pod that a connection is for is on this node, and its rules give it to a port where nobody listens: files
    /// `n` more of them there. In words, if so.
    pub(super) fn given_to_nobody(&mut self, from: PodId, key: &EdgeKey, n: u64) -> Option<String> {
        let (pod, netns) = self.known.directory.pod_at(key.remote.ip(), from)?;
        let (path, _) = self.path_in(pod, &self.as_received(pod, key))?;
        let Outcome::Redirected {
            by: Redirection::Tproxy,
            port,
            ..
        } = path.outcome
        else {
            return None;
        };
        if !self.is_deserted(netns, port, Family::of(key.remote.ip())) {
            return None;
        }
        let rule = path.decided_by?.to_string();
        let asked = SocketAddr::new(key.local, key.remote.port());
        self.file_given(pod, (port, &rule), asked, n);
        let pod = &self.known.directory.pod(pod)?.pod.key;
        Some(format!("{rule} of {pod}, where nobody listens"))
    }

    /// The kernel dropped a SYN that came in to a watched pod.
    pub(super) fn given_was_dropped(&mut self, pod: PodId, lost: &LostPackets) {
        let came_in = lost.part == Part::Syn && lost.direction == Direction::Inbound;
        let own = lost.netns.is_some() && lost.netns == self.own_netns(pod);
        let by_rules = BY_NETFILTER.contains(&lost.why());
        if came_in
            && own
            && by_rules
            && let Some((port, rule)) = self.gives_to_nobody(pod, Family::of(lost.local))
        {
            let asked = SocketAddr::new(lost.remote.ip(), port);
            self.file_given(pod, (port, &rule), asked, lost.packets);
        }
    }

    /// Watches what the kernel drops of pods whose rules give what comes in to nobody.
    pub(super) fn suspect_given(&mut self) {
        let now = self.now;
        let settled = |pod: &PodId| {
            let entry = self.known.directory.pod(*pod);
            entry.is_some_and(|entry| {
                let gives = |intent: &crate::mesh::Intent| intent.inbound_keeps_destination;
                let old = now.micros_since(entry.since) >= YOUNG_US;
                old && entry.gone.is_none() && entry.intent.as_deref().is_some_and(gives)
            })
        };
        let pods = self.known.directory.pods.keys().copied();
        let pods: Vec<PodId> = pods.filter(settled).collect();
        for pod in pods {
            let own = self.known.directory.own_addresses(pod);
            let deserted = |ip: &&IpAddr| self.gives_to_nobody(pod, Family::of(**ip)).is_some();
            let address = own.iter().find(deserted).copied();
            let drops: &mut Drops = &mut self.known.drops;
            if let Some(address) = address {
                drops.suspect_given(now, pod, address);
            }
        }
    }

    /// The port where nobody listens and the rule that gives it what comes in to this pod.
    fn gives_to_nobody(&self, pod: PodId, family: Family) -> Option<(u16, String)> {
        let entry = self.known.directory.pod(pod)?;
        let netns = self.own_netns(pod)?;
        let port = entry.intent.as_ref()?.inbound_port;
        if !self.is_deserted(netns, port, family) {
            return None;
        }
        let now = self.known.rulebook.of(netns)?.read_since(entry.since)?;
        let all = rules::redirectors(&now.rules, Direction::Inbound, family, Protocol::Tcp);
        let gives = all
            .into_iter()
            .filter(|one| one.reached && one.sends_to(port));
        // A rule of nftables' own lets go on what nobody takes.
        let drops = |action: &Action| matches!(action, Action::Tproxy { ends: true, .. });
        let mut gives = gives.filter(|one| {
            let rule = now.rules.rule_at(&one.step);
            rule.is_some_and(|rule| rule.actions().any(drops))
        });
        Some((port, gives.next()?.step.to_string()))
    }

    fn is_deserted(&self, netns: NetnsId, port: u16, family: Family) -> bool {
        let listens = |ns: &Namespace| ns.listens(port, family) == Listens::No;
        self.known.sockets.of(netns).is_some_and(listens)
    }

    fn file_given(&mut self, pod: PodId, (port, rule): (u16, &str), asked: SocketAddr, n: u64) {
        let Some(entry) = self.known.directory.pod(pod) else {
            return;
        };
        if entry.intent.is_none() {
            return;
        }
        let code = diagnose::nobody(self.now, entry);
        let sample = diagnose::signal_sample(Direction::Inbound, asked, None, n);
        let netns = entry.netns.and_then(|netns| self.known.sockets.of(netns));
        let at = self.now;
        diagnose::given_to_nobody(
            at,
            (pod, code),
            netns,
            (port, rule),
            &sample,
            &mut self.findings,
        );
    }
}
