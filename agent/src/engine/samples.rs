//! What the engine makes of looks at the socket tables of namespaces.

use super::{
    Code, diagnose, directory::PodId, findings::Case, hang, machine::Engine,
    surroundings::Surroundings, throttle::Cpu,
};
use crate::model::{CgroupId, CpuLimit, ListenerQueue, NetnsId, PortUse, Stream};

/// Bytes nobody read for so long: whether the proxy is let run is asked then, to be known when it counts.
const SUSPECT_MS: u64 = 2_000;

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
            self.proxy_may_be_back(pod);
            self.findings.touched = true;
        }
        let intent = self
            .known
            .directory
            .pod(pod)
            .and_then(|p| p.intent.as_ref());
        let Some(ports) = intent.map(|intent| [intent.outbound_port, intent.inbound_port]) else {
            return;
        };
        let progress: Vec<_> = ports
            .into_iter()
            .filter_map(|port| self.known.sockets.progress(netns, port).map(|p| (port, p)))
            .map(|(port, (progress, length, max))| (port, progress, length, max))
            .collect();
        let after_us = u64::from(self.config.not_accepting_after_s) * 1_000_000;
        let ns = self.known.sockets.of(netns);
        let overflows = |port| ns.is_some_and(|ns| ns.overflows(self.now, port).is_some());
        // Who came and was lost waits too: the queue may just have been emptied.
        let waits = |(port, _, length, _): &(u16, _, u32, u32)| *length > 0 || overflows(*port);
        let waits = progress.iter().any(waits);
        let cpu = self.cpu(pod, waits);
        let surroundings = Surroundings::of(&self.known);
        let Some(scene) = surroundings.scene(pod) else {
            return;
        };
        diagnose::queue(
            self.now,
            pod,
            &scene,
            &diagnose::Queues {
                progress: &progress,
                after_us,
                cpu,
            },
            &mut self.findings,
            &|case: &Case| surroundings.render(case),
        );
    }

    /// CPU limits were read: what they are the root of is told as theirs.
    pub(super) fn limits(&mut self, cgroup: CgroupId, limits: Vec<CpuLimit>) {
        self.known.throttles.read(self.now, cgroup, limits);
        let Some(pod) = self.known.directory.pod_of_cgroup(cgroup) else {
            return;
        };
        let cpu = self.known.throttles.of(self.now, cgroup);
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        diagnose::settle_throttled(self.now, pod, cpu, &mut self.findings, &render);
        self.findings.touched = true;
    }

    /// Whether a pod's proxy is let run: asked only where somebody waits for it.
    fn cpu(&mut self, pod: PodId, waits: bool) -> Cpu {
        let told = self.findings.get(pod, Code::SidecarThrottled);
        if !waits && !told.is_some_and(Case::is_current) {
            return Cpu::Free;
        }
        let Some(cgroup) = self.known.directory.proxy_cgroup(pod) else {
            return Cpu::Free;
        };
        if waits {
            self.known.throttles.ask(self.now, cgroup);
        }
        self.known.throttles.of(self.now, cgroup)
    }

    /// Source ports that are about to run out, or no longer are.
    pub(super) fn ports(&mut self, netns: NetnsId, uses: &[PortUse]) {
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        diagnose::ports(self.now, pod, uses, &mut self.findings, &render);
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
        let unread = |one: &Stream| one.unread > 0 && page.unread_ms(one) >= SUSPECT_MS;
        let suspect = page.streams.iter().any(unread);
        let cpu = self.cpu(pod, suspect);
        let Some(page) = self.known.streams.of(netns) else {
            return;
        };
        let surroundings = Surroundings::of(&self.known);
        diagnose::hangs(
            self.now,
            pod,
            (page, &hangs, cpu),
            &mut self.findings,
            &|case: &Case| surroundings.render(case),
        );
        self.known.streams.hang(netns, hangs.by_stage());
        self.look_for_severed(pod, netns);
        self.look_for_collisions(pod, netns);
    }
}
