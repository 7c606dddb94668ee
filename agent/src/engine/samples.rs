//! What the engine makes of looks at the socket tables of namespaces.

use super::{diagnose, findings::Case, hang, machine::Engine, surroundings::Surroundings};
use crate::model::{ListenerQueue, NetnsId, Stream};

impl Engine {
    pub(super) fn queues(
        &mut self,
        netns: NetnsId,
        queues: &[ListenerQueue],
        overflows: Option<u64>,
    ) {
        let changed = self.known.sockets.sampled(self.now, netns, queues);
        self.known.sockets.overflowed(self.now, netns, overflows);
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        if changed {
            self.reread_by_listeners(pod);
            self.findings.touched = true;
        }
        let surroundings = Surroundings::of(&self.known);
        let Some(scene) = surroundings.scene(pod) else {
            return;
        };
        let progress: Vec<_> = [scene.intent.outbound_port, scene.intent.inbound_port]
            .into_iter()
            .filter_map(|port| self.known.sockets.progress(netns, port).map(|p| (port, p)))
            .map(|(port, (progress, length, max))| (port, progress, length, max))
            .collect();
        let after_us = u64::from(self.config.not_accepting_after_s) * 1_000_000;
        let render = |case: &Case| surroundings.render(case);
        diagnose::queue(
            self.now,
            pod,
            &scene,
            &progress,
            after_us,
            &mut self.findings,
            &render,
        );
    }

    pub(super) fn streams(&mut self, netns: NetnsId, streams: Vec<Stream>, left: u64) {
        self.known.streams.sampled(self.now, netns, streams, left);
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let intent = self.known.directory.pod(pod).and_then(|p| p.intent.clone());
        let (Some(intent), Some(page)) = (intent, self.known.streams.of(netns)) else {
            return;
        };
        let hangs = hang::hangs(page, &intent, &own);
        let surroundings = Surroundings::of(&self.known);
        diagnose::hangs(
            self.now,
            pod,
            (page, &hangs),
            &mut self.findings,
            &|case: &Case| surroundings.render(case),
        );
        self.known.streams.hang(netns, hangs.by_stage());
    }
}
