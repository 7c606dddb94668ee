//! Diagnosis: from verdicts and their surroundings to cases, and from cases to findings.
//!
//! A verdict says what happened to a connection; a finding says what is wrong with a pod.
//! Between them stand doubt (one connection in a pod that just starts proves nothing) and
//! cause (three symptoms, one missing rule set). Each kind has a file: `bypass`, `stuck`,
//! `spec`, `agent`; `ripe` holds the rules of doubt; `text` and `remedy` are for people.
//! Nothing here may name a mesh: words that differ between meshes come from the intent.

mod agent;
mod ambient;
mod bypass;
mod collide;
mod control;
mod datagram;
mod hang;
mod hang_text;
mod lost;
mod marked;
mod ports;
mod remedy;
mod rewrite;
mod ripe;
mod service;
mod spec;
mod status;
mod stuck;
mod tables;
mod text;
mod throttle;
mod words;

use std::net::SocketAddr;

pub(super) use agent::{attributed, coverage, overload, unattributed};
pub(super) use bypass::{ENDED_BY_CAPTURE, refile};
pub(super) use collide::collide;
pub(super) use datagram::{Flow, datagram, dns_rules, is_past_resolver, would_capture};
pub(super) use hang::{hangs, hung_up, is_hung_up};
pub(super) use lost::{Place, Stop, hang_sample, stopped, upstream_hangs, upstream_resets};
pub(super) use marked::{ROUTE, astray};
pub(super) use ports::{no_port, ports};
pub(super) use rewrite::{Rewritten, rewritten};
pub(super) use ripe::ripe;
pub(super) use spec::{ripe_by_spec, spec, unmeshed};
pub(super) use status::nobody;
pub(super) use stuck::{
    Queues, given_to_nobody, queue, refused_capture, signal_sample, signalled_refusal,
};
pub(super) use tables::{full, invalid};
pub(super) use text::render;
pub(super) use throttle::{SYMPTOMS as OF_THROTTLING, settle as settle_throttled};

use super::{
    Leg, Reason, Verdict,
    directory::{PodEntry, PodId},
    edges::Comm,
    evidence::Sample,
    explain::Explained,
    facts::View,
    findings::{Findings, Render},
    late::{Came, Late},
    rulebook::{Page, Read},
    sockets::Namespace,
    watch::{Refusals, Watch},
};
use crate::{
    mesh::Intent,
    model::{Direction, EdgeKey, Family, NO_ID, Outcome, Time},
};

/// One outcome of one edge, judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged<'a> {
    pub(super) at: Time,
    /// It may have been held back since.
    pub(super) came: Came,
    pub(super) pod: PodId,
    pub(super) key: &'a EdgeKey,
    pub(super) view: &'a View,
    pub(super) container: Option<u16>,
    pub(super) process: Option<Comm>,
    pub(super) outcome: Outcome,
    pub(super) n: u64,
    pub(super) leg: Leg,
    pub(super) verdict: Verdict,
    /// The proxy was refused: how often in a row.
    pub(super) refusals: Option<Refusals>,
    /// What the live rules say, if it should have been captured and was not.
    pub(super) explained: Option<&'a Explained>,
    /// A rule of its own pod stopped it, which is told as such.
    pub(super) stopped: bool,
    /// It was captured, and the rules that did it are about to be read.
    pub(super) outdates_rules: bool,
}

/// What is known around a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) entry: &'a PodEntry,
    pub(super) intent: &'a Intent,
    pub(super) ns: Option<&'a Namespace>,
    pub(super) watch: &'a Watch,
    /// What is held back, not judged yet.
    pub(super) late: &'a Late,
    /// The rules of its namespace, if they were ever read.
    pub(super) rules: Option<&'a Page>,
    /// NAT's decisions are seen here.
    pub(super) sees_nat: bool,
}

impl Scene<'_> {
    /// The rules as they are, if they were read since the pod is known.
    pub(super) fn live_rules(&self) -> Option<&Read> {
        let page = self.rules?;
        page.read_since(self.entry.since)
    }

    /// Whether the rules of this family are known, so that no sign need stand in for them.
    fn knows_rules(&self, family: Family) -> bool {
        self.live_rules().is_some_and(|now| now.is_known(family))
    }

    /// Connections the pod dialed are held back: what they say is not known yet.
    fn outbound_waits(&self) -> bool {
        let waits = |netns| self.late.waits(netns, Direction::Outbound);
        self.entry.netns.is_some_and(waits)
    }
}

/// Files what a judged connection speaks for, and closes what it speaks against.
pub(super) fn connection(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    match j.verdict {
        Verdict::Bypassed { reason } => bypass::bypassed(j, scene, reason, findings, render),
        Verdict::Excluded { .. } => {
            bypass::excluded(j, findings);
            spec::excluded(j, scene, findings);
        }
        Verdict::Intercepted => {
            bypass::intercepted(j, scene, findings, render);
            stuck::intercepted(j, findings, render);
        }
        // One cause, one finding.
        Verdict::Stuck { .. } | Verdict::Failed if j.stopped => {}
        Verdict::Stuck { .. } if wrong_port(j) => {
            bypass::bypassed(j, scene, Reason::RulesPartial, findings, render);
        }
        Verdict::Stuck { .. } => {
            stuck::stuck(j, scene, findings);
            lost::timed_out(j, scene, findings);
        }
        Verdict::Failed => {
            stuck::failed(j, scene, findings);
            lost::timed_out(j, scene, findings);
        }
        Verdict::Neutral => {
            stuck::succeeded(j, scene, findings, render);
            lost::answered(j, scene, findings, render);
        }
    }
}

/// Redirected to a port that is not the proxy's: whoever does not listen there is not to blame.
fn wrong_port(j: &Judged<'_>) -> bool {
    let partial = |explained: &Explained| explained.reason == Reason::RulesPartial;
    j.explained.is_some_and(partial)
}

/// A judged connection as evidence.
pub(super) fn sample(j: &Judged<'_>) -> Sample {
    let destination = match j.key.direction {
        Direction::Outbound => j.key.remote,
        Direction::Inbound => SocketAddr::new(j.key.remote.ip(), j.key.local_port),
    };
    let known = j.key.owner.uid != NO_ID || j.key.owner.gid != NO_ID;
    Sample {
        direction: j.key.direction,
        family: j.view.family,
        destination,
        process: j.process,
        ids: known.then_some((j.key.owner.uid, j.key.owner.gid)),
        container: j.container,
        n: j.n,
    }
}
