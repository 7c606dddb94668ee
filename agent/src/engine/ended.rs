//! Established connections that their peer ended before it had said a word: by a reset, or by closing them at once.
//!
//! Those of the proxy speak of their destination. Those of an app that were captured speak of its proxy: whoever ends
//! them at once and dials nobody meanwhile had nowhere to go with them. A proxy that passes on how its upstream ended
//! has dialled for it, and one whose requests share connections answers in words. A node's proxy is left alone: it passes
//! on whole connections over one that it shares.

use super::{
    Code, diagnose,
    directory::{PodId, Who},
    facts::View,
    findings::Case,
    machine::Engine,
    verdict::{Expected, Party, Path},
};
use crate::model::{Direction, EdgeDelta, EdgeKey};

impl Engine {
    /// A peer reset a connection before it answered. Which end called connect(2) shows in who
    /// listens: a port of this end that somebody listens on belongs to a peer's connection.
    pub(super) fn reset_by_peer(&mut self, key: &EdgeKey, port: u16) {
        let ns = self.known.sockets.of(key.owner.netns);
        if ns.is_none_or(|ns| !ns.on_port(port).is_empty()) {
            return;
        }
        let Some((pod, container, view)) = self.whose(key) else {
            return;
        };
        if is_captured(&view) {
            self.app_was_reset(pod, key.owner.netns);
            self.hung_up_on(pod, container, key, 1);
        }
        if !view.is_upstream() {
            return;
        }
        let code = self.upstream_code(pod, key.remote, Code::StuckUpstreamReset);
        let watch = self.known.watches.entry(pod).or_default();
        let run = watch.resets.note(self.now, key.remote, 1);
        let mut sample = diagnose::signal_sample(key.direction, key.remote, None, 1);
        sample.container = container;
        diagnose::upstream_resets(self.now, (pod, code), &run, &sample, &mut self.findings);
    }

    /// A peer closed a client's connection at once, and `n` of them in all.
    pub(super) fn closed_by_peer(&mut self, key: &EdgeKey, n: u64) {
        if let Some((pod, container, view)) = self.whose(key)
            && is_captured(&view)
        {
            self.hung_up_on(pod, container, key, n);
        }
    }

    fn whose(&mut self, key: &EdgeKey) -> Option<(PodId, Option<u16>, View)> {
        let Who::Pod { pod, container, .. } = self.known.directory.who(&key.owner) else {
            return None;
        };
        Some((pod, container, self.view(pod, container, key)?))
    }

    /// The proxy ended `n` connections of its app, as far as they were captured.
    fn hung_up_on(&mut self, pod: PodId, container: Option<u16>, key: &EdgeKey, n: u64) {
        let entry = self.known.directory.pod(pod);
        let intent = entry.and_then(|entry| entry.intent.as_ref());
        if intent.is_none_or(|intent| intent.node_proxy) {
            return;
        }
        let root = self.findings.get(pod, Code::FailInvalidPackets);
        let watch = self.known.watches.entry(pod).or_default();
        // Then it is not the proxy that ends them.
        if watch.severed.any() || root.is_some_and(Case::is_current) {
            return;
        }
        let run = watch.hung_up.note(self.now, key.remote, n);
        let mut sample = diagnose::signal_sample(key.direction, key.remote, None, n);
        sample.container = container;
        diagnose::hung_up(self.now, pod, &run, &sample, &mut self.findings);
    }

    /// What an edge's connections say about those that were ended.
    pub(super) fn learn_of_ends(&mut self, pod: PodId, view: &View, delta: &EdgeDelta) {
        let (key, n) = (&delta.key, delta.counts.established);
        if key.direction == Direction::Inbound {
            return;
        }
        if view.is_upstream() {
            self.proxy_dialled(pod, key);
        } else if view.party == Party::App {
            let watch = self.known.watches.entry(pod).or_default();
            match view.path {
                Path::Capture => watch.hung_up.established(key.remote, n),
                // Whoever ended them was not the proxy.
                _ => watch.hung_up.forget(key.remote),
            }
        }
    }

    /// The proxy dials, with or without success: it may have been for any of those it ended since.
    pub(super) fn proxy_dialled(&mut self, pod: PodId, key: &EdgeKey) {
        let entry = self.known.directory.pod(pod);
        let intent = entry.and_then(|entry| entry.intent.as_ref());
        let Some(watch) = self.known.watches.get_mut(&pod) else {
            return;
        };
        // Its control plane it dials for itself.
        if intent.is_some_and(|intent| watch.control.is_it(intent, key.remote.port())) {
            return;
        }
        watch.hung_up.clear();
        let case = self.findings.get(pod, Code::StuckNoUpstream);
        if case.is_some_and(|case| case.is_current() && diagnose::is_hung_up(case)) {
            self.resolve(pod, Code::StuckNoUpstream);
        }
    }
}

/// Whether an app's connection was to go through its proxy. Where it went its edge says, a drain later.
fn is_captured(view: &View) -> bool {
    view.party == Party::App && view.expected == Expected::Captured
}
