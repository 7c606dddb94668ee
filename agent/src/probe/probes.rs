//! The probes as the composition root sees them.
//!
//! Load, attach, read, count, and nothing about what it means: a program that is missing is
//! coverage, not an error, as long as connection state itself is told.
//!
//! Must never block for longer than one read of the edge map takes.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use sidestep_abi::{DatagramValue, EdgeKey, Event};

use super::{
    ProbeError,
    btf::Types,
    capability::{self, Facts},
    clock::Anchor,
    datagrams::{self, Taker},
    decode,
    drain::{Counted, EdgeReader},
    drops::Drops,
    late, load, memory,
    open::OpenSockets,
    plan::{CATALOGUE, Capabilities, SIGNALS, SignalId, SignalInfo, Step, plan},
    readiness::Readiness,
    skeleton, stats,
    sweep::Sweeper,
};
use crate::model::{
    AgentStats, Coverage, Datagrams, EdgeDelta, Loss, LostPackets, NetnsId, ProgramStats, Rewrite,
    Signal, SignalCoverage, Time,
};

/// What may be chosen at start.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// Whether kernel functions may be patched; `false` forces the tracepoint tier.
    pub kprobes: bool,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { kprobes: true }
    }
}

/// The attached probes. Dropping them detaches everything.
pub struct Probes {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    counted: Counted,
    edges: EdgeReader,
    overflow: EdgeReader,
    datagrams: Taker<EdgeKey, DatagramValue>,
    rewrites: Taker<EdgeKey, DatagramValue>,
    drops: Drops,
    open: OpenSockets,
    sweeper: Sweeper,
    capabilities: Capabilities,
    options: ProbeOptions,
    clock: Anchor,
    /// First sights of the sweep, told with the next [`Probes::read_signals`].
    waiting: Vec<(u64, Signal)>,
    events: u64,
    malformed: u64,
    programs: Vec<ProgramStats>,
    sampling: Option<OwnedFd>,
    #[cfg(feature = "debug-log")]
    log: super::debug_log::ProbeLog,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl Probes {
    /// Loads and attaches what this kernel allows. Counting begins at once.
    ///
    /// # Errors
    /// [`ProbeError`] if nothing can work: no privileges, no BTF, a required field or signal missing.
    pub fn start(options: &ProbeOptions) -> Result<Self, ProbeError> {
        let types = Types::kernel()?;
        let facts = Facts::read(&types);
        let offsets = load::offsets(&types)?;
        let late = late::offsets(&types);
        let table_family = late::table_family(&types);
        // Types and their reduction are megabytes each: never at the same time.
        drop(types);
        let mut ebpf = load::load(&offsets)?;
        let decision = late.and_then(|offsets| late::provide(&mut ebpf, offsets));
        late::provide_table_family(&mut ebpf, table_family);
        let mut capabilities = capability::ruled_out(&facts, options.kprobes, decision);
        let targets = skeleton::build(&facts.anchors())?;
        capability::try_all(&mut ebpf, &targets, &mut capabilities);
        drop(targets);
        if options.kprobes {
            late::excuse(&mut capabilities);
        }
        memory::give_back_memory();
        require(&capabilities)?;
        let missing = |name: &str| ProbeError::Abi {
            reason: format!("no map {name}"),
        };
        let ring = ebpf.take_map("EVENTS").ok_or_else(|| missing("EVENTS"))?;
        Ok(Self {
            ring: RingBuf::try_from(ring).map_err(|e| ProbeError::Object {
                reason: e.to_string(),
            })?,
            counted: Counted::new(ebpf.map("COUNTED"))?,
            edges: EdgeReader::new(ebpf.take_map("EDGES"), "EDGES")?,
            overflow: EdgeReader::new(ebpf.take_map("OVERFLOW"), "OVERFLOW")?,
            datagrams: Taker::new(ebpf.take_map("DATAGRAMS"), "DATAGRAMS", datagrams::ROOM)?,
            rewrites: Taker::new(ebpf.take_map("REWRITES"), "REWRITES", datagrams::REWRITES)?,
            drops: Drops::new(&mut ebpf),
            #[cfg(feature = "debug-log")]
            log: super::debug_log::ProbeLog::of(&mut ebpf),
            open: OpenSockets::new(&mut ebpf, &offsets)?,
            sweeper: Sweeper::new(ebpf.map("AWAIT_STATES"), ebpf.map("AWAIT_SLOTS"))?,
            ebpf,
            capabilities,
            options: *options,
            clock: Anchor::now(),
            waiting: Vec::new(),
            events: 0,
            malformed: 0,
            programs: Vec::new(),
            sampling: None,
        })
    }

    /// What is seen on this kernel and what is not. `limits` is left empty for other sources.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let steps = plan(&self.capabilities);
        let signals = SIGNALS
            .iter()
            .map(|info| signal_coverage(info, steps.get(&info.id)))
            .chain([self.drops.coverage(), self.open.coverage()])
            .collect();
        Coverage {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map(|release| release.trim().to_owned())
                .unwrap_or_default(),
            signals,
            limits: Vec::new(),
        }
    }

    /// Watches for something to tell by [`Probes::read_signals`].
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn readiness(&self) -> std::io::Result<Readiness> {
        // SAFETY: the ring buffer's own descriptor, which lives as long as `self`.
        Readiness::of(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    /// Hands over everything told since the last call, oldest first within its source.
    /// Call it when [`Probes::readiness`] says so, and after `drain` and `sweep`.
    pub fn read_signals(&mut self, mut tell: impl FnMut(Time, Signal)) {
        for (at_ns, signal) in self.waiting.drain(..) {
            tell(self.clock.time(at_ns), signal);
        }
        while let Some(record) = self.ring.next() {
            self.events += 1;
            let event = Event::from_bytes(&record).ok();
            let clock = &self.clock;
            let told = event.and_then(|e| {
                let at = clock.time(e.at_ns);
                Some((at, decode::signal(&e, at)?))
            });
            match told {
                Some((at, signal)) => tell(at, signal),
                None => self.malformed += 1,
            }
        }
    }

    /// What is new on every edge since the last call, [`Probes::sweep`] included.
    /// Meant for once a second.
    ///
    /// # Errors
    /// [`ProbeError::System`] if the edge map cannot be read.
    pub fn drain(&mut self) -> Result<Vec<EdgeDelta>, ProbeError> {
        #[cfg(feature = "debug-log")]
        self.log.flush();
        let mut deltas = Vec::new();
        let counted = self.counted.take();
        let read = self.edges.drain(counted, &mut deltas);
        read.and_then(|()| self.overflow.drain(counted, &mut deltas))
            .inspect_err(|_| self.counted.put_back())?;
        deltas.extend(self.sweeper.sweep(counted, &self.edges, &mut self.waiting));
        Ok(deltas)
    }

    /// Flows over UDP since the last call, as far as a mesh cares: to ports 53 and 443, where
    /// NAT's decisions are seen. Meant for once a second.
    ///
    /// # Errors
    /// [`ProbeError::System`] if their map cannot be read.
    pub fn datagrams(&mut self) -> Result<Vec<Datagrams>, ProbeError> {
        self.datagrams.take(decode::datagrams)
    }

    /// Connections since the last call whose destination was rewritten inside connect(2).
    /// What is asked there is compared with what is used from the first time on that somebody
    /// is `hooked` into it, where this kernel allows it. Meant for once a second.
    ///
    /// # Errors
    /// [`ProbeError::System`] if their map cannot be read.
    pub fn rewrites(&mut self, hooked: bool) -> Result<Vec<Rewrite>, ProbeError> {
        if late::waits_for_hook(&self.capabilities) {
            if !hooked {
                return Ok(Vec::new());
            }
            self.retry(SignalId::Rewrite);
        }
        self.rewrites.take(decode::rewrite)
    }

    /// Counts what the kernel drops of these addresses, and of no others; nothing is attached
    /// while there are none.
    pub fn watch_drops(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.drops.watch(&mut self.ebpf, addresses);
    }

    /// What was dropped of them since the last call. Meant for once a second.
    ///
    /// # Errors
    /// [`ProbeError::Object`] if their map cannot be read.
    pub fn lost_packets(&mut self) -> Result<Vec<LostPackets>, ProbeError> {
        self.drops.take(&mut self.ebpf)
    }

    /// Namespaces in which a connection makes no progress, as far as that can be told without
    /// walking the kernel's table of connections; `None` if it cannot. Meant for once a second.
    pub fn waiting(&mut self) -> Option<BTreeSet<NetnsId>> {
        self.open.round(&mut self.ebpf)
    }

    /// Settles established connections that came out nowhere. Meant for every 250 ms.
    pub fn sweep(&mut self) -> Vec<EdgeDelta> {
        let counted = self.counted.is_any();
        self.sweeper.sweep(counted, &self.edges, &mut self.waiting)
    }

    /// Attaches what could not be attached before because its module was missing; true if
    /// coverage changed. Cheap enough for every second.
    pub fn attach_late(&mut self) -> bool {
        let due = late::due(&self.capabilities);
        if due.is_empty() || !self.options.kprobes {
            return false;
        }
        let Ok(types) = Types::kernel() else {
            return false;
        };
        let before = self.capabilities.clone();
        for signal in due {
            match self.provide(signal, &types) {
                Ok(()) => self.retry(signal),
                Err(reason) => {
                    capability::rule_out_signal(&mut self.capabilities, signal, &reason);
                }
            }
        }
        before != self.capabilities
    }

    /// Tells the probes of a signal what they need to know of its module.
    fn provide(&mut self, signal: SignalId, types: &Types<'_>) -> Result<(), String> {
        match signal {
            SignalId::Decision => {
                late::offsets(types).and_then(|offsets| late::provide(&mut self.ebpf, offsets))?;
            }
            SignalId::RulesLegacy => {
                late::provide_table_family(&mut self.ebpf, late::table_family(types));
            }
            _ => {}
        }
        Ok(())
    }

    fn retry(&mut self, signal: SignalId) {
        for variant in CATALOGUE.iter().filter(|v| v.signal == signal) {
            self.capabilities.remove(variant.program);
        }
        // Kprobes and raw tracepoints, which need no types.
        if let Ok(targets) = skeleton::build(&[]) {
            capability::try_all(&mut self.ebpf, &targets, &mut self.capabilities);
        }
    }

    /// The kernel side's account since the start.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        let mut losses = stats::counters(&self.ebpf);
        for (at, count) in [
            ("skipped_runs", stats::skipped_runs(&self.ebpf)),
            (
                "malformed_record",
                self.malformed + self.sweeper.malformed(),
            ),
        ] {
            losses.push(Loss {
                at: at.to_owned(),
                count,
            });
        }
        let (waiting, places) = self.sweeper.fill();
        let (open, open_places) = self.open.fill();
        let used = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        AgentStats {
            events: self.events,
            losses,
            maps: vec![
                ("edges".into(), used(self.edges.len()), 16_384),
                ("edges_overflow".into(), used(self.overflow.len()), 1_024),
                (
                    "datagrams".into(),
                    used(self.datagrams.len),
                    used(datagrams::ROOM),
                ),
                (
                    "rewrites".into(),
                    used(self.rewrites.len),
                    used(datagrams::REWRITES),
                ),
                ("awaiting_arrival".into(), waiting, places),
                ("open".into(), open, open_places),
            ],
            programs: self.programs.clone(),
            ..AgentStats::default()
        }
    }

    /// Switches the kernel's run statistics on (they cost every program a little).
    ///
    /// # Errors
    /// [`ProbeError::System`] if the kernel has none.
    pub fn start_sample(&mut self) -> Result<(), ProbeError> {
        self.sampling = Some(stats::enable()?);
        Ok(())
    }

    /// Reads the run statistics into [`Probes::stats`] and switches them off again.
    pub fn end_sample(&mut self) {
        if self.sampling.take().is_some() {
            self.programs = stats::programs(&self.ebpf);
        }
    }
}

fn require(capabilities: &Capabilities) -> Result<(), ProbeError> {
    let steps = plan(capabilities);
    for info in SIGNALS.iter().filter(|info| info.required) {
        if let Some(Step::Missing(reasons)) = steps.get(&info.id) {
            return Err(ProbeError::Required {
                signal: info.name.to_owned(),
                reasons: reasons.join("\n"),
            });
        }
    }
    Ok(())
}

fn signal_coverage(info: &SignalInfo, step: Option<&Step>) -> SignalCoverage {
    let first = CATALOGUE.iter().find(|v| v.signal == info.id);
    let (used, reason) = match step {
        Some(Step::Use(variant)) => (Some(variant), String::new()),
        Some(Step::Missing(reasons)) => (None, reasons.join("; ")),
        Some(Step::Try(_)) | None => (None, "not tried".to_owned()),
    };
    SignalCoverage {
        signal: info.name.to_owned(),
        variant: used.map(|v| v.mechanism.as_str().to_owned()),
        target: used
            .or(first)
            .map(|v| v.targets.join(", "))
            .unwrap_or_default(),
        without_it: info.without_it.to_owned(),
        idle: used.is_none() && late::waits(&reason),
        reason,
        required: info.required,
    }
}
