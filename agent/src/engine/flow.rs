//! The way of a drain through the engine: bind, learn, judge, count, diagnose.
//!
//! A drain is learned from as a whole before any of it is judged, so that the order the
//! kernel handed its edges over in does not matter. Every connection leaves here exactly
//! once: under its pod, as the node's own, as unattributed, or held back for later.

use super::{
    Accepts, Leg, Verdict,
    binding::ON_NODE,
    diagnose::{self, Judged},
    directory::{PodId, Who},
    explain::Explained,
    facts::{self, View},
    findings::Case,
    late::{CONTAINER_WAIT_US, Came, Held, POD_WAIT_US, WAITS_US},
    ledger,
    machine::Engine,
    surroundings::{Surroundings, has_signal},
    verdict::{Facts, Path, judge},
    watch::{Refusals, Refuser},
};
use crate::model::{Counts, Direction, EdgeDelta, Outcome};

/// Where a delta goes.
#[derive(Clone, Copy)]
enum Way {
    /// To a pod.
    Pod(PodId, Option<u16>, Came),
    /// Nowhere yet.
    Wait,
    /// It is counted already.
    Done,
}

/// A delta whose pod is known, as the pod's intent sees it.
struct Bound<'a> {
    pod: PodId,
    container: Option<u16>,
    came: Came,
    delta: &'a EdgeDelta,
    view: View,
}

impl Engine {
    pub(super) fn edges(&mut self, deltas: &[EdgeDelta]) {
        let mut ways = Vec::with_capacity(deltas.len());
        for delta in deltas {
            self.count_accepted(delta);
            let way = self.bind(Came::at(self.now), delta);
            if matches!(way, Way::Wait) {
                self.hold(delta.clone());
            }
            ways.push(way);
        }
        self.judge_all(deltas.iter().zip(ways.iter().copied()));
    }

    fn count_accepted(&mut self, delta: &EdgeDelta) {
        let key = &delta.key;
        if key.direction == Direction::Inbound {
            let accepted = ledger::samples(&delta.duration);
            let port = self.queue_port(delta);
            let (netns, n) = (key.owner.netns, delta.counts.established);
            (self.known.sockets).established(self.now, netns, port, n, accepted);
        }
    }

    /// The port whose queue a connection waited in: its own, unless capture left it the
    /// destination that was asked for.
    fn queue_port(&mut self, delta: &EdgeDelta) -> u16 {
        let key = &delta.key;
        let Who::Pod { pod, container, .. } = self.known.directory.who(&key.owner) else {
            return key.local_port;
        };
        let entry = self.known.directory.pod(pod);
        let intent = entry.and_then(|entry| entry.intent.as_deref());
        let intent = intent.filter(|intent| intent.inbound_keeps_destination);
        let (Some(intent), Some(view)) = (intent, self.meshed_view(pod, container, delta)) else {
            return key.local_port;
        };
        match facts::accepts(key, &view, Some(intent)) {
            Accepts::CaptureInbound => intent.inbound_port,
            _ => key.local_port,
        }
    }

    /// Finds the delta's pod and learns from it.
    fn bind(&mut self, came: Came, delta: &EdgeDelta) -> Way {
        let since = came.first;
        let waited = self.now.micros_since(since);
        match self.known.directory.who(&delta.key.owner) {
            Who::Pod {
                pod,
                container,
                settled,
            } => {
                // Known by its namespace's number alone, or only by now: its address must agree.
                if (waited > 0 || container.is_none()) && !self.may_be_of(pod, delta) {
                    self.unattributed("not_its_address", delta);
                    return Way::Done;
                }
                let unsettled = !settled && waited < CONTAINER_WAIT_US;
                if unsettled || self.refusal_waits(pod, delta, since) {
                    return Way::Wait;
                }
                if !settled {
                    self.known.directory.give_up(delta.key.owner.cgroup);
                }
                if let Some(view) = self.meshed_view(pod, container, delta) {
                    if self.waits_for_rules(pod, &view, delta, since) {
                        return Way::Wait;
                    }
                    self.learn(pod, &view, delta);
                    self.learn_of_ends(pod, &view, delta);
                }
                Way::Pod(pod, container, came)
            }
            Who::Unknown(_) if waited < POD_WAIT_US => Way::Wait,
            // Nobody may ever tell of a pod in the node's network; then it is a part of the node.
            Who::Host | Who::Unknown(ON_NODE) => {
                self.ledger.count_host(ledger::total(&delta.counts));
                Way::Done
            }
            Who::Unknown(reason) => {
                self.unattributed(reason, delta);
                Way::Done
            }
        }
    }

    /// Whether what waited may be this pod's, not what an earlier namespace of its number left behind.
    fn may_be_of(&self, pod: PodId, delta: &EdgeDelta) -> bool {
        let (local, directory) = (delta.key.local.to_canonical(), &self.known.directory);
        let own = directory.own_addresses(pod);
        let earlier = directory.is_earlier(delta.key.owner.netns, local);
        if earlier || own.contains(&local) {
            return !earlier;
        }
        // Loopback is everybody's; but then the other end is inside as well.
        let remote = delta.key.remote.ip().to_canonical();
        let to_itself = remote.is_loopback() || own.contains(&remote);
        let inside = local.is_loopback() && to_itself;
        let entry = directory.pod(pod);
        let intent = entry.and_then(|entry| entry.intent.as_deref());
        let kept = intent.is_some_and(|intent| {
            // A proxy that keeps the peer's address dials the app from there.
            intent.inbound_bind.contains(&local) || intent.inbound_keeps_source && to_itself
        });
        // The node's namespace is never another one's, and has many addresses.
        let on_node = entry.is_some_and(|entry| entry.pod.host_network);
        on_node || own.is_empty() || inside || local.is_unspecified() || kept
    }

    /// The delta as its pod's intent sees it, if the pod is in a mesh.
    fn meshed_view(&self, pod: PodId, container: Option<u16>, delta: &EdgeDelta) -> Option<View> {
        let entry = self.known.directory.pod(pod)?;
        entry.intent.as_ref()?;
        let own = self.known.directory.own_addresses(pod);
        Some(facts::look(&delta.key, entry, container, &own))
    }

    fn learn(&mut self, pod: PodId, view: &View, delta: &EdgeDelta) {
        let entry = self.known.directory.pod(pod);
        if let Some(intent) = entry.and_then(|entry| entry.intent.as_ref()) {
            let watch = self.known.watches.entry(pod).or_default();
            watch.learn(self.now, &delta.key, view, intent, delta.counts.established);
        }
    }

    fn unattributed(&mut self, reason: &'static str, delta: &EdgeDelta) {
        self.ledger
            .unattributed(reason, ledger::total(&delta.counts));
        if let Some(edge) = self.edges.touch(self.now, &delta.key) {
            edge.update(self.now, None, None, &delta.counts);
        }
    }

    fn hold(&mut self, delta: EdgeDelta) {
        if let Some(delta) = self
            .known
            .late
            .hold(self.now, delta, self.config.max_unbound)
        {
            self.unattributed("late_binding_full", &delta);
        }
    }

    /// Looks again at everything that waits.
    pub(super) fn retry(&mut self) {
        self.retry_at = None;
        let mut bound = Vec::new();
        for held in self.known.late.take() {
            match self.bind(held.came, &held.delta) {
                Way::Wait => self.wait_on(held),
                way => bound.push((held.delta, way)),
            }
        }
        self.judge_all(bound.iter().map(|(delta, way)| (delta, *way)));
        self.retry_datagrams();
        // A suspicion may have waited for exactly these, whatever became of them.
        self.findings.touched = true;
    }

    fn wait_on(&mut self, held: Held) {
        // The next time at which somebody gives up.
        let ends = WAITS_US.map(|wait| held.came.first.plus_micros(wait));
        let due = ends.into_iter().find(|end| *end > self.now);
        let due = due.unwrap_or(self.now.plus_micros(1));
        self.known.late.put_back(held, due);
    }

    /// Judges what has a pod: first what was established, then what failed, because a success
    /// anywhere in a drain speaks for or against every failure in it. Each is looked at anew:
    /// keeping every view of a large drain would cost megabytes.
    fn judge_all<'a>(&mut self, bound: impl Iterator<Item = (&'a EdgeDelta, Way)> + Clone) {
        for success in [true, false] {
            for (delta, way) in bound.clone() {
                let outcomes = ledger::outcomes(&delta.counts);
                let (established, failures) = outcomes.split_at(1);
                let round = if success { established } else { failures };
                let Way::Pod(pod, container, came) = way else {
                    continue;
                };
                // A connection of an earlier drain may have been accepted only now.
                let waited = success && has_waited(delta);
                if waited || round.iter().any(|(_, n)| *n > 0) {
                    self.judge_round((pod, container, came), delta, round);
                }
            }
        }
    }

    fn judge_round(
        &mut self,
        (pod, container, came): (PodId, Option<u16>, Came),
        delta: &EdgeDelta,
        round: &[(Outcome, u64)],
    ) {
        let own = self.known.directory.own_addresses(pod);
        let entry = self.known.directory.pod(pod);
        let view = entry.map(|entry| facts::look(&delta.key, entry, container, &own));
        let Some(view) = view else {
            let n = round
                .iter()
                .fold(0, |sum: u64, (_, n)| sum.saturating_add(*n));
            self.ledger.unattributed("no_pod", n);
            return;
        };
        let bound = Bound {
            pod,
            container,
            came,
            delta,
            view,
        };
        if has_waited(delta)
            && round
                .iter()
                .any(|(outcome, _)| *outcome == Outcome::Established)
        {
            let intent = entry.and_then(|entry| entry.intent.as_deref());
            let by = facts::accepts(&delta.key, &bound.view, intent);
            self.ledger.waits(pod, by, &delta.duration);
        }
        let mut shown = None;
        let mut counts = Counts::default();
        for (outcome, n) in round.iter().filter(|(_, n)| *n > 0) {
            shown = worse(shown, self.judge(&bound, *outcome, *n));
            ledger::set(&mut counts, *outcome, *n);
        }
        self.show(&bound, &counts, shown);
    }

    fn judge(&mut self, b: &Bound<'_>, outcome: Outcome, n: u64) -> (Leg, Verdict) {
        let key = &b.delta.key;
        let explained = self.explained((b.pod, b.came.first), &b.view, key, outcome);
        let (leg, verdict) = judge(&self.facts(b, outcome, explained.as_ref()));
        self.ledger
            .count(b.pod, key.direction, outcome, (leg, verdict), n);
        if outcome == Outcome::Established && key.direction == Direction::Outbound {
            self.ledger.handshakes(b.pod, leg, &b.delta.duration);
        }
        let mut judged = Judged {
            at: self.now,
            came: b.came,
            pod: b.pod,
            key,
            view: &b.view,
            container: b.container,
            process: self.edges.get(key).and_then(|e| e.process),
            outcome,
            n,
            leg,
            verdict,
            refusals: self.refusals(b, leg, outcome, n),
            explained: explained.as_ref(),
            stopped: false,
            outdates_rules: self.outdates_rules(b.pod, &b.view, key, verdict),
        };
        judged.stopped = self.count_stopped(&judged);
        self.diagnose(&judged);
        (leg, verdict)
    }

    /// Shows the edge with the worst verdict of its latest drain.
    fn show(&mut self, b: &Bound<'_>, counts: &Counts, shown: Option<(Leg, Verdict)>) {
        let now = self.now;
        if let Some(edge) = self.edges.touch(now, &b.delta.key) {
            let same_drain = counts.established == 0 && b.delta.counts.established > 0;
            let before = same_drain.then_some(edge.judged);
            edge.update(now, Some(b.pod), b.container, counts);
            let worst = shown.and_then(|shown| worse(before, shown));
            edge.judged = worst.unwrap_or(edge.judged);
        }
    }

    fn facts(&self, b: &Bound<'_>, outcome: Outcome, explained: Option<&Explained>) -> Facts {
        let surroundings = Surroundings::of(&self.known);
        let scene = surroundings.scene(b.pod);
        let (key, view) = (&b.delta.key, &b.view);
        let sees_resets = has_signal(&self.known.coverage, "reset");
        let unanswered = outcome == Outcome::Refused
            && scene
                .is_some_and(|s| diagnose::refused_capture(&s, view.family, self.now, sees_resets));
        let signs = || {
            scene.map_or(super::Reason::None, |s| {
                let has_ipv4 = s.entry.pod.ips.iter().any(std::net::IpAddr::is_ipv4);
                s.watch.cause(key, view, s.intent, has_ipv4)
            })
        };
        let cause = explained.map_or_else(signs, |explained| explained.reason);
        let doubt = scene.is_some_and(|s| facts::may_be_the_proxys(key, view, s.intent));
        // The rules agree that nothing captures it; else the proxy's own socket was missed.
        let doubt = doubt && cause_is_open(explained);
        Facts {
            direction: key.direction,
            party: view.party,
            expected: view.expected,
            path: if doubt { Path::Lost } else { view.path },
            mesh_port: view.mesh_port,
            outcome,
            unanswered,
            cause,
        }
    }

    fn refusals(&mut self, b: &Bound, leg: Leg, outcome: Outcome, n: u64) -> Option<Refusals> {
        let who = match (leg, outcome) {
            (Leg::ProxyToApp, Outcome::Refused) => Refuser::App,
            (Leg::ProxyToUpstream, Outcome::Refused) => Refuser::Upstream,
            (Leg::AppToProxy, Outcome::TimedOut | Outcome::Aborted) => {
                let watch = self.known.watches.get_mut(&b.pod)?;
                watch.hanging = watch.hanging.saturating_add(n);
                return None;
            }
            _ => return None,
        };
        let watch = self.known.watches.entry(b.pod).or_default();
        Some(watch.refused(self.now, who, b.delta.key.remote, n))
    }

    fn diagnose(&mut self, judged: &Judged<'_>) {
        let surroundings = Surroundings::of(&self.known);
        if let Some(scene) = surroundings.scene(judged.pod) {
            let render = |case: &Case| surroundings.render(case);
            diagnose::connection(judged, &scene, &mut self.findings, &render);
        } else if let Some(entry) = self.known.directory.pod(judged.pod) {
            diagnose::unmeshed(judged, entry, &mut self.findings);
        }
    }
}

/// Whether the rules are not known, or do not say why.
fn cause_is_open(explained: Option<&Explained>) -> bool {
    explained.is_none_or(|explained| explained.reason == super::Reason::Unknown)
}

/// Whether connections of this delta were accepted, and how long they had waited is known.
fn has_waited(delta: &EdgeDelta) -> bool {
    delta.key.direction == Direction::Inbound && ledger::samples(&delta.duration) > 0
}

/// Of two verdicts of one edge the one a person must see.
fn worse(a: Option<(Leg, Verdict)>, b: (Leg, Verdict)) -> Option<(Leg, Verdict)> {
    let rank = |v: &Verdict| match v {
        Verdict::Bypassed { .. } => 5,
        Verdict::Stuck { .. } => 4,
        Verdict::Failed => 3,
        Verdict::Intercepted => 2,
        Verdict::Excluded { .. } => 1,
        Verdict::Neutral => 0,
    };
    match a {
        Some(a) if rank(&a.1) >= rank(&b.1) => Some(a),
        _ => Some(b),
    }
}
