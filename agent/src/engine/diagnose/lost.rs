//! Handshakes that end nowhere: an upstream that does not answer, and rules of this node that
//! drop or reject.
//!
//! A rule is only blamed when two sources agree: the live rules would stop this very connection,
//! and it was seen to be stopped in that way. A dropped connection is silent, a rejected one is
//! refused; whoever was refused under rules that drop was refused by somebody else.

use std::net::SocketAddr;

use super::{Judged, Scene, marked::ROUTE, service};
use crate::{
    engine::{
        Code, Leg,
        directory::PodId,
        evidence::Sample,
        findings::{Case, Findings, Render},
        resets::Run,
        unanswered::Hang,
    },
    model::{Outcome, Time},
    rules::{Hook, Outcome as Ruled, Step},
};

/// What rules do that refuse.
const REJECTED: &str = "rejected";

/// Whose rules stop a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Place {
    /// Those in the namespace of the pod.
    Pod,
    /// Those of the node, which the pod's packets pass.
    Node,
}

impl Place {
    /// The fact of a case.
    pub(in crate::engine) const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }
}

/// A rule that stops a connection, and the pod in whose namespace it is, or whose packets it stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Stop {
    pub(in crate::engine) pod: PodId,
    pub(in crate::engine) place: Place,
    /// [`Ruled::Dropped`] or [`Ruled::Rejected`].
    pub(in crate::engine) how: Ruled,
    pub(in crate::engine) step: Step,
    /// Who wrote the rules, where that was told.
    pub(in crate::engine) by: Option<String>,
}

impl Stop {
    /// Whether a connection that ended so may have been stopped so. Nobody tells a socket of a
    /// dropped SYN; of a rejected one its first report may come too early to be heard.
    pub(in crate::engine) fn explains(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::TimedOut | Outcome::Aborted => true,
            Outcome::Refused | Outcome::Unreachable | Outcome::Denied | Outcome::Failed => {
                self.how == Ruled::Rejected
            }
            // No packet was sent, or it was let through.
            Outcome::Established | Outcome::NoAddress => false,
        }
    }
}

/// A connection was stopped by a rule of this node, as others of the same kind are `since` then.
pub(in crate::engine) fn stopped(
    at: Time,
    stop: &Stop,
    since: Time,
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(stop.pod), Code::FailNetfilterDrop);
    case.first = case.first.min(since);
    case.add(sample);
    case.state(at, "rule", stop.step.to_string());
    case.state(at, "place", stop.place.as_str().to_owned());
    case.state(at, "hook", place(&stop.step));
    let how = match stop.how {
        Ruled::Rejected => REJECTED,
        _ => "dropped",
    };
    case.state(at, "ruled", how.to_owned());
    service::state(at, case, &stop.step);
    if let Some(by) = &stop.by {
        case.state(at, "changed_by", by.clone());
    }
    case.witnesses
        .insert("the live rules stop this very connection");
    case.witnesses.insert(match stop.how {
        Ruled::Rejected => "it was refused",
        _ => "it was not answered",
    });
}

/// Hook, kind and family of a rule, in words.
fn place(step: &Step) -> String {
    let hook = step.hook.map_or("no hook", hook_name);
    let Step {
        table,
        chain,
        family,
        ..
    } = step;
    format!("{hook}, table {table}, chain {chain}, {}", family.as_str())
}

const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

/// An upstream does not answer the proxy. `dropped_by`: a rule of another pod of this node.
pub(in crate::engine) fn upstream_hangs(
    at: Time,
    (pod, code): (PodId, Code),
    hang: &Hang,
    dropped_by: Option<String>,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), code);
    case.first = case.first.min(hang.first);
    case.add(&hang_sample(hang));
    if hang.is_run() {
        case.state(
            at,
            "unanswered",
            format!(
                "{} connections to {}, {} SYNs sent again, none answered between",
                hang.connections, hang.key.remote, hang.resent
            ),
        );
    }
    case.witnesses.insert("SYNs are sent again");
    if let Some(text) = dropped_by {
        case.witnesses.insert("a rule of this node drops them");
        case.state(at, "dropped_by", text);
    }
}

/// An upstream resets the proxy's connections before it answers.
pub(in crate::engine) fn upstream_resets(
    at: Time,
    (pod, code): (PodId, Code),
    run: &Run,
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), code);
    case.add(sample);
    case.witnesses
        .insert("resets came in for established connections");
    case.state(
        at,
        "reset_by",
        format!(
            "{}, {} times without a byte of an answer",
            sample.destination, run.resets
        ),
    );
}

/// A hang as evidence; connections are counted when they end.
pub(in crate::engine) fn hang_sample(hang: &Hang) -> Sample {
    Sample {
        direction: hang.key.direction,
        process: hang.process,
        container: hang.container,
        ..Sample::made(&hang.key, 0)
    }
}

/// The proxy's connection ended without an answer: counted where it is told of already.
pub(super) fn timed_out(j: &Judged<'_>, scene: &Scene<'_>, findings: &mut Findings) {
    let code = scene.upstream(j.key.remote, Code::StuckUpstreamTimeout);
    let silent = matches!(j.outcome, Outcome::TimedOut | Outcome::Aborted);
    let told = |case: &Case| {
        let all = case.destinations.most(32);
        case.is_current() && all.iter().any(|(to, _)| *to == j.key.remote)
    };
    let dialled = matches!(j.leg, Leg::ProxyToUpstream | Leg::ProxyToApp);
    if silent && dialled && findings.get(j.pod, code).is_some_and(told) {
        let case = findings.note(j.at, Some(j.pod), code);
        case.add(&super::sample(j));
    }
}

/// An answer: over, if nothing else is silent.
pub(super) fn answered(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let told = findings.get(j.pod, Code::StuckUpstreamTimeout);
    let of_app = told.is_some_and(|case| case.fact(ROUTE).is_some());
    let leg = [Leg::ProxyToUpstream, Leg::ProxyToApp][usize::from(of_app)];
    if j.leg == leg && scene.watch.unanswered.upstreams().next().is_none() {
        findings.resolve(j.at, Some(j.pod), Code::StuckUpstreamTimeout, render);
    }
    if j.leg == Leg::ProxyToUpstream && scene.watch.resets.rules().next().is_none() {
        let told = findings.get(j.pod, Code::StuckUpstreamReset);
        if told.is_some_and(Case::is_open) {
            findings.resolve(j.at, Some(j.pod), Code::StuckUpstreamReset, render);
        }
    }
}

/// A drain and its way here.
const DRAIN_US: u64 = 1_500_000;

/// When resets may be told: when they are the rule, and the drain that tells of those that
/// were established or refused beside them has come.
pub(super) fn ripe_reset(case: &Case, scene: &Scene<'_>) -> Option<Time> {
    let of = |to: SocketAddr| scene.upstream(to, Code::StuckUpstreamReset) == case.code;
    let mut rules = scene.watch.resets.rules();
    let (_, run) = rules.find(|(to, _)| of(**to))?;
    let ruled = run.ruled.unwrap_or(run.last).max(case.first);
    Some(ruled.plus_micros(DRAIN_US))
}

/// When a silent upstream may be told: when it is a run, and the rules of the pod were read
/// since it began or are not to be had.
pub(super) fn ripe(case: &Case, scene: &Scene<'_>) -> Option<Time> {
    /// Rules asked for are there by then, or will not be.
    const RULES_US: u64 = 3_500_000;
    let of = |to: SocketAddr| scene.upstream(to, Code::StuckUpstreamTimeout) == case.code;
    let mut hangs = scene.watch.unanswered.upstreams();
    hangs.find(|h| h.is_run() && of(h.key.remote))?;
    let read = scene.live_rules().is_some_and(|now| now.last >= case.first);
    let wait = if read { 0 } else { RULES_US };
    Some(case.first.plus_micros(wait))
}

/// When a rule that stops connections may be told. One that the node rejects may be answered in a
/// moment: a Service has no endpoints whenever a client is quicker than its server's readiness
/// probe, or its only pod is replaced. So rejections must go on for a while, or be the last that
/// is heard: who tries again within that while is answered or makes them go on.
pub(super) fn ripe_stop(case: &Case) -> Time {
    const PASSES_US: u64 = 3_000_000;
    let fact = |what, is| case.fact(what) == Some(is);
    if !(fact("place", Place::Node.as_str()) && fact("ruled", REJECTED)) {
        return case.first;
    }
    if case.last.micros_since(case.first) >= PASSES_US {
        case.last
    } else {
        case.last.plus_micros(PASSES_US + DRAIN_US)
    }
}

/// In one sentence.
pub(super) fn summary(case: &Case, pod: &str, n: &str, to: &str) -> String {
    match case.code {
        Code::FailNetfilterDrop => {
            let how = case.fact("ruled").unwrap_or("dropped");
            let rule = case.fact("rule").unwrap_or("a rule");
            if let Some(said) = service::missing(case) {
                return format!("connections of {pod} to {to} are {how} on the node: {said}");
            }
            if case.fact("place") == Some(Place::Node.as_str()) {
                return format!(
                    "connections of {pod} to {to} are {how} by a rule on the node: {rule}"
                );
            }
            match case.direction() {
                Some(crate::model::Direction::Inbound) => {
                    format!("connections to {pod} are {how} by a rule in its namespace: {rule}")
                }
                _ => format!(
                    "connections of {pod} to {to} are {how} by a rule in its namespace: {rule}"
                ),
            }
        }
        Code::StuckUpstreamReset => {
            format!("{to} resets the connections of the proxy of {pod} before it answers")
        }
        _ if case.fact(ROUTE).is_some() => super::marked::summary(pod, to),
        _ if case.connections == 0 => format!("{to} does not answer the proxy of {pod}"),
        _ => format!("{to} does not answer the proxy of {pod}: {n} given up"),
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, to: Option<SocketAddr>, scene: Option<&Scene<'_>>) -> String {
    if case.code == Code::FailNetfilterDrop {
        let rule = case.fact("rule").unwrap_or("the rule");
        if let Some(said) = service::missing(case) {
            return service::remedy(said);
        }
        if case.fact("place") == Some(Place::Node.as_str()) {
            return on_node(case, rule);
        }
        let who = case.fact("changed_by").map_or_else(
            || "a network policy, a CNI plugin or a script".to_owned(),
            |by| format!("it was last changed by {by}"),
        );
        return format!(
            "If this is not meant, take away or narrow the rule `{rule}` at whoever writes it ({who}), not by hand: it would come back."
        );
    }
    if case.fact(ROUTE).is_some() {
        return super::marked::remedy(case, to, scene.and_then(|scene| scene.intent.mark_table));
    }
    let to = to.map_or_else(String::new, |to| to.to_string());
    if case.code == Code::StuckUpstreamReset {
        return format!(
            "The proxy and {to} do not speak the same protocol: check mTLS on both sides (PeerAuthentication, DestinationRule, a sidecar that is missing there), the port's name or appProtocol, and the destination's log. A middlebox that answers in its name resets too."
        );
    }
    case.fact("dropped_by").map_or_else(
        || format!("Find out who drops packets to {to}: a network policy, a security group or firewall between the nodes, an endpoint of a node that is gone; at the destination itself an accept queue that is full. `sidestep findings` on its node shows what is dropped there."),
        |by| format!("Change the rule that drops them: {by}."),
    )
}

/// What to change where the node stops it.
fn on_node(case: &Case, rule: &str) -> String {
    let who = case.fact("changed_by").map_or_else(
        || "a network policy, the CNI, a firewall of the host such as firewalld or ufw, or Docker, which sets the policy of FORWARD to DROP".to_owned(),
        |by| format!("its rules were last changed by {by}"),
    );
    format!(
        "If this is not meant, let the node pass the pod's packets: allow them in the network policy, or take away or narrow `{rule}` in the node's own namespace at whoever writes it ({who})."
    )
}
