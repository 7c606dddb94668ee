//! A proxy that cannot reach its control plane: refused, not answered, or reset.
//!
//! The same signs as of any upstream, told under one code of its own: what fails is not the app's
//! traffic but the proxy's configuration and certificates, which go stale.

use std::net::SocketAddr;

use super::{Judged, Scene, lost};
use crate::{
    engine::{
        Code, Leg,
        findings::{Case, Findings, Render},
    },
    model::Time,
};

/// A destination that gave trouble for the last time so long ago gives none.
const OVER_US: u64 = 10_000_000;

impl Scene<'_> {
    /// The code under which trouble of the proxy with a destination is told.
    pub(super) fn upstream(&self, to: SocketAddr, otherwise: Code) -> Code {
        self.watch.control.code(self.intent, to.port(), otherwise)
    }

    fn is_control(&self, to: SocketAddr) -> bool {
        self.watch.control.is_it(self.intent, to.port())
    }
}

/// When it may be told: refusals were a run before they were filed; the others as of any upstream.
pub(super) fn ripe(case: &Case, scene: &Scene<'_>) -> Option<Time> {
    if case.fact("refused").is_some() {
        return Some(case.first);
    }
    let both = [lost::ripe(case, scene), lost::ripe_reset(case, scene)];
    both.into_iter().flatten().min()
}

/// The proxy reached something: over, if that was the control plane and none of it fails now.
pub(super) fn reached(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    if j.leg != Leg::ProxyToUpstream || !scene.is_control(j.key.remote) {
        return;
    }
    let watch = scene.watch;
    let lately = |at: Time| j.at.micros_since(at) < OVER_US;
    let refused = watch.refusing().filter(|(_, run)| lately(run.last));
    let silent = watch.unanswered.upstreams().filter(|h| lately(h.last));
    let reset = watch.resets.rules().filter(|(_, run)| lately(run.last));
    let mut failing = (refused.map(|(to, _)| *to))
        .chain(silent.map(|h| h.key.remote))
        .chain(reset.map(|(to, _)| *to));
    if !failing.any(|to| scene.is_control(to)) {
        findings.resolve(j.at, Some(j.pod), Code::StuckControlPlane, render);
    }
}

/// When it was last reached.
pub(super) fn facts(scene: &Scene<'_>, push: &mut dyn FnMut(&str, String)) {
    let text = match scene.watch.control.reached {
        Some(at) => format!("last connected to at {} s since 1970", at.0 / 1_000_000),
        None => "never connected to since the agent knows this pod".to_owned(),
    };
    push("control_plane", text);
    push("mesh", scene.intent.profile.clone());
}

/// One sentence: what is wrong.
pub(super) fn summary(case: &Case, pod: &str, to: &str) -> String {
    format!(
        "the proxy of {pod} cannot reach its control plane at {to}: {}",
        how(case)
    )
}

fn how(case: &Case) -> &'static str {
    if case.fact("refused").is_some() {
        "it is refused (ECONNREFUSED)"
    } else if case.fact("reset_by").is_some() {
        "its connections are reset (ECONNRESET)"
    } else {
        "nobody answers (ETIMEDOUT)"
    }
}

/// What to change.
pub(super) fn remedy(case: &Case, proxy: &str) -> String {
    let to = case.destinations.most(1);
    let to = to
        .first()
        .map_or_else(String::new, |(to, _)| to.to_string());
    let look = match how(case) {
        refused if refused.contains("REFUSED") => format!(
            "nobody listens at {to}: look whether the control plane's pods run and are ready, and whether its Service has endpoints"
        ),
        reset if reset.contains("RESET") => format!(
            "{to} answers and cuts the connection: look at its log for certificates and tokens that it refuses, and whether it is the control plane of this revision"
        ),
        _ => format!(
            "look for a network policy of this namespace or the control plane's that does not allow {to}, and for nodes that cannot reach each other"
        ),
    };
    format!(
        "The app still talks by the configuration {proxy} was last given; new endpoints, routes and certificates do not come. {look}."
    )
}
