//! Who stopped a connection: the rules of its own pod, those of the pod it was for, or nobody
//! that is known here.
//!
//! Asked when a handshake is not answered or is refused, and again when rules are read: the
//! first sign of a silent destination also asks for the rules as they are now.

use std::net::{IpAddr, SocketAddr};

use super::{
    Code,
    control::Control,
    diagnose::{self, Judged, Place, Stop},
    directory::{PodId, Who},
    edges::Comm,
    evidence::Sample,
    explain,
    facts::{self, View},
    findings::Case,
    machine::Engine,
    marked,
    surroundings::Surroundings,
    unanswered::{Hang, PATIENCE_US, Sign},
    verdict::Path,
};
use crate::{
    model::{Direction, EdgeKey, Family, NetnsId, Outcome, Process},
    rules::{self, Connection, Protocol},
};

/// What did not answer is asked about again for so long when rules are read.
const ASK_AGAIN_US: u64 = 10_000_000;
/// Destinations of a case that are asked about when rules are read.
const ASKED: usize = 8;

/// A connection that did not come about, as the kernel tells of it.
pub(super) struct Lost<'a> {
    pub(super) key: &'a EdgeKey,
    pub(super) process: &'a Process,
    /// How it ended; absent: it still waits.
    pub(super) outcome: Option<Outcome>,
    /// SYNs sent again.
    pub(super) resent: u8,
    pub(super) after_us: u64,
}

impl Lost<'_> {
    /// Nobody answered, as far as the caller waited.
    fn is_silent(&self) -> bool {
        match self.outcome {
            None => true,
            Some(Outcome::Aborted) => self.resent > 0 || self.after_us >= PATIENCE_US,
            Some(Outcome::TimedOut) => true,
            Some(_) => false,
        }
    }
}

impl Engine {
    /// A connection hangs or failed: remembers who does not answer, and asks the rules.
    pub(super) fn lost(&mut self, lost: &Lost<'_>) {
        let key = lost.key;
        let Who::Pod { pod, container, .. } = self.known.directory.who(&key.owner) else {
            return;
        };
        let Some(view) = self.view(pod, container, key) else {
            return;
        };
        if view.is_upstream() {
            self.proxy_dialled(pod, key);
        }
        let process = Comm::of(lost.process);
        if lost.outcome == Some(Outcome::NoAddress) {
            let mut sample = diagnose::signal_sample(key.direction, key.remote, process, 0);
            sample.container = container;
            diagnose::no_port(self.now, pod, key, &sample, &mut self.findings);
        } else if lost.is_silent() {
            self.known.rulebook.ask(self.now, key.owner.netns);
            self.known.tables.ask(self.now, key.owner.netns);
            // Its end after SYNs were sent again was told by those.
            if lost.outcome.is_none() || lost.resent == 0 {
                let sign = Sign {
                    key: *key,
                    container,
                    process,
                    resent: lost.resent,
                    upstream: view.is_upstream(),
                };
                let watch = self.known.watches.entry(pod).or_default();
                let hang = watch.unanswered.note(self.now, &sign);
                self.known.drops.suspect(self.now, pod, key.local);
                self.waits_for_app(pod, &view, lost, marked::sample_of(lost, container));
                self.blame(pod, &hang);
            }
        } else if let Some(outcome) = lost.outcome {
            self.turned_away(pod, lost, outcome, container);
        }
    }

    /// Files what is known about a destination that does not answer.
    fn blame(&mut self, pod: PodId, hang: &Hang) {
        let stop = self.stop_of(pod, &hang.key, Outcome::TimedOut);
        let own = stop.as_ref().is_some_and(|stop| stop.pod == pod);
        if let Some(stop) = &stop {
            self.file_stop(stop, pod, &hang.key, diagnose::hang_sample(hang));
        }
        if own {
            self.explained_by_own_rules(pod, hang.key.remote);
            self.state_drops(pod);
            return;
        }
        let by = match stop {
            Some(stop) => Some(self.stop_in_words(&stop)),
            None => self.given_to_nobody(pod, &hang.key, 0),
        };
        if hang.upstream {
            let code = self.upstream_code(pod, hang.key.remote, Code::StuckUpstreamTimeout);
            diagnose::upstream_hangs(self.now, (pod, code), hang, by, &mut self.findings);
        }
        self.state_drops(pod);
    }

    /// The code under which trouble of a pod's proxy with a destination is told.
    pub(super) fn upstream_code(&self, pod: PodId, to: SocketAddr, otherwise: Code) -> Code {
        let intent = self
            .known
            .directory
            .pod(pod)
            .and_then(|p| p.intent.as_ref());
        let fresh = Control::default();
        let control = self.known.watches.get(&pod).map_or(&fresh, |w| &w.control);
        intent.map_or(otherwise, |i| control.code(i, to.port(), otherwise))
    }

    fn stop_in_words(&self, stop: &Stop) -> String {
        let pod = self.known.directory.pod(stop.pod);
        let pod = pod.map_or_else(String::new, |entry| entry.pod.key.to_string());
        format!("{} of {pod}", stop.step)
    }

    /// The pod's own rules are the root: what was suspected beside them is taken back.
    fn explained_by_own_rules(&mut self, pod: PodId, to: SocketAddr) {
        let watch = self.known.watches.entry(pod).or_default();
        watch.unanswered.explain(to);
        if watch.unanswered.upstreams().next().is_none() {
            let surroundings = Surroundings::of(&self.known);
            let render = |case: &Case| surroundings.render(case);
            let root = Code::FailNetfilterDrop;
            for symptom in [Code::StuckUpstreamTimeout, Code::StuckControlPlane] {
                let case = self.findings.get(pod, symptom);
                // Whoever is refused is not dropped.
                if case.is_some_and(|case| case.fact("refused").is_none()) {
                    self.findings.absorb(self.now, pod, root, symptom, &render);
                }
            }
        }
    }

    /// Counts a connection of a drain under the rule that stopped it; whether one did.
    pub(super) fn count_stopped(&mut self, judged: &Judged<'_>) -> bool {
        let (pod, key, outcome) = (judged.pod, judged.key, judged.outcome);
        // A connection that was captured was answered by the proxy, not by its destination.
        let left = key.direction == Direction::Outbound && judged.view.path != Path::Capture;
        if outcome == Outcome::Established && left {
            self.answered_past_node(pod, key.remote);
        }
        if outcome == Outcome::Established || key.direction == Direction::Inbound {
            return false;
        }
        if outcome == Outcome::NoAddress {
            let sample = diagnose::sample(judged);
            diagnose::no_port(self.now, pod, key, &sample, &mut self.findings);
            return false;
        }
        // A caller may give up for many reasons; it counts where silence was seen already.
        let silent = |pod| {
            let watch = self.known.watches.get(&pod);
            watch.is_some_and(|watch| watch.unanswered.is_silent(key.remote))
        };
        if outcome == Outcome::Aborted && !silent(pod) {
            return false;
        }
        let Some(stop) = self.stop_of(pod, key, outcome) else {
            if matches!(outcome, Outcome::TimedOut | Outcome::Aborted) {
                self.given_to_nobody(pod, key, judged.n);
            }
            return false;
        };
        self.file_stop(&stop, pod, key, diagnose::sample(judged));
        stop.pod == pod
    }

    pub(super) fn file_stop(
        &mut self,
        stop: &Stop,
        from: PodId,
        key: &EdgeKey,
        mut sample: Sample,
    ) {
        if stop.pod != from {
            // What belongs to the pod that dialed says nothing about the one that was dialed.
            sample.direction = Direction::Inbound;
            sample.destination = SocketAddr::new(key.local, key.remote.port());
            sample.process = None;
            sample.ids = None;
            sample.container = None;
        }
        let watch = self.known.watches.get(&from);
        let refused = watch.and_then(|watch| watch.turned_away.since(key.remote));
        let since = refused
            .filter(|_| stop.place == Place::Node && stop.how == rules::Outcome::Rejected)
            .unwrap_or(self.now);
        diagnose::stopped(self.now, stop, since, &sample, &mut self.findings);
    }

    /// The rule that stops a connection which ended so: one of its own pod, or one of the pod it
    /// was for, if that is on this node.
    pub(super) fn stop_of(&mut self, pod: PodId, key: &EdgeKey, outcome: Outcome) -> Option<Stop> {
        if key.direction == Direction::Inbound {
            return None;
        }
        let own = self.known.directory.own_addresses(pod);
        let entry = self.known.directory.pod(pod);
        let interface = entry.and_then(|entry| entry.interface(key.local));
        let connection = explain::connection(Protocol::Tcp, key, &own, interface);
        let path = self.path_in(pod, &connection);
        let goes_out = (path.as_ref()).is_some_and(|(p, _)| p.outcome == rules::Outcome::Direct);
        let stop = path
            .and_then(|(path, by)| stop(pod, path, by))
            .or_else(|| {
                let silent = matches!(outcome, Outcome::TimedOut | Outcome::Aborted);
                let looks = silent || self.may_be_the_nodes(pod, key.remote, outcome);
                let on_node = (goes_out && looks).then(|| self.stopped_on_node(pod, key, silent));
                on_node.flatten()
            })
            .or_else(|| self.stopped_at_destination(pod, key))?;
        stop.explains(outcome).then_some(stop)
    }

    /// The rule that stops it in the pod it is for, if that is on this node.
    fn stopped_at_destination(&mut self, pod: PodId, key: &EdgeKey) -> Option<Stop> {
        let (other, netns) = self.known.directory.pod_at(key.remote.ip(), pod)?;
        self.known.rulebook.ask(self.now, netns);
        let connection = self.as_received(other, key);
        self.stopped_in(other, &connection)
    }

    /// A connection as the pod it was for receives it.
    pub(super) fn as_received(&self, other: PodId, key: &EdgeKey) -> Connection {
        let own = self.known.directory.own_addresses(other);
        let from = SocketAddr::new(key.local, 0);
        Connection::inbound(Protocol::Tcp, from, key.remote, Some(own))
    }

    /// The rule in a pod's namespace that stops a connection, if its rules are known.
    fn stopped_in(&self, pod: PodId, connection: &Connection) -> Option<Stop> {
        let (path, by) = self.path_in(pod, connection)?;
        stop(pod, path, by)
    }

    /// Where the rules in a pod's namespace lead a connection, if they are known, and who wrote them.
    pub(super) fn path_in(
        &self,
        pod: PodId,
        connection: &Connection,
    ) -> Option<(rules::Path, Option<String>)> {
        let entry = self.known.directory.pod(pod)?;
        if entry.pod.host_network {
            return None;
        }
        let page = self.known.rulebook.of(entry.netns?)?;
        let now = page.read_since(entry.since)?;
        if !now.is_known(connection.family()) {
            return None;
        }
        let path = rules::evaluate(&now.rules, connection);
        Some((path, now.by.as_ref().map(explain::who)))
    }

    /// What did not answer a pod lately is asked about again.
    pub(super) fn blame_pod(&mut self, pod: PodId) {
        let watch = self.known.watches.get(&pod);
        let recent = watch.map(|watch| watch.unanswered.recent(self.now, ASK_AGAIN_US));
        let hangs: Vec<Hang> = recent.into_iter().flatten().copied().collect();
        for hang in hangs {
            self.blame(pod, &hang);
        }
        self.blame_for_refusals(pod);
    }

    /// Rules were read: what waited for them is asked about again, and what they no longer stop
    /// is over.
    pub(super) fn blame_again(&mut self, netns: NetnsId) {
        self.blame_node(netns);
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let now = self.now;
        let concerns = |id: PodId, hang: &Hang| id == pod || own.contains(&hang.key.remote.ip());
        let hangs: Vec<(PodId, Hang)> = (self.known.watches.iter())
            .flat_map(|(id, watch)| {
                let recent = watch.unanswered.recent(now, ASK_AGAIN_US);
                recent.map(|hang| (*id, *hang))
            })
            .filter(|(id, hang)| concerns(*id, hang))
            .collect();
        for (id, hang) in hangs {
            self.blame(id, &hang);
        }
        self.close_stops(pod, &own);
    }

    fn close_stops(&mut self, pod: PodId, own: &[IpAddr]) {
        let Some(case) = self.findings.get(pod, Code::FailNetfilterDrop) else {
            return;
        };
        let here = case.is_current() && case.fact("place") == Some(Place::Pod.as_str());
        let Some(direction) = case.direction().filter(|_| here) else {
            return;
        };
        let ids = case.ids.most(1).first().map(|(ids, _)| *ids);
        let stops = case.destinations.most(ASKED).into_iter().any(|(to, _)| {
            let connection = again(direction, to, own, ids);
            connection.is_none_or(|connection| self.stopped_in(pod, &connection).is_some())
        });
        if !stops {
            self.resolve(pod, Code::FailNetfilterDrop);
        }
    }

    pub(super) fn view(&self, pod: PodId, container: Option<u16>, key: &EdgeKey) -> Option<View> {
        let entry = self.known.directory.pod(pod)?;
        let own = self.known.directory.own_addresses(pod);
        Some(facts::look(key, entry, container, &own))
    }
}

/// The rule that stops a connection in a pod, if one does.
fn stop(pod: PodId, path: rules::Path, by: Option<String>) -> Option<Stop> {
    let stops = matches!(
        path.outcome,
        rules::Outcome::Dropped | rules::Outcome::Rejected
    );
    Some(Stop {
        pod,
        place: Place::Pod,
        how: path.outcome,
        step: path.decided_by.filter(|_| stops)?,
        by,
    })
}

/// A connection of a case, made anew.
fn again(
    direction: Direction,
    to: SocketAddr,
    own: &[IpAddr],
    ids: Option<(u32, u32)>,
) -> Option<Connection> {
    let family = Family::of(to.ip());
    let local = own.iter().copied().find(|ip| Family::of(*ip) == family)?;
    let all = Some(own.to_vec());
    Some(match direction {
        Direction::Inbound => Connection::inbound(
            Protocol::Tcp,
            SocketAddr::new(to.ip(), 0),
            SocketAddr::new(local, to.port()),
            all,
        ),
        Direction::Outbound => {
            let made = Connection::outbound(Protocol::Tcp, SocketAddr::new(local, 0), to, all);
            match ids {
                Some((uid, gid)) => made.owned_by(uid, gid),
                None => made,
            }
        }
    })
}
