//! A small node to hand-feed an engine with: one meshed pod, one without a mesh, seconds.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use sidestep::{
    engine::{Change, Code, Config, Engine, Finding, FindingState, Input, Inquiry, Output},
    mesh::Profiles,
    model::{
        Arrival, CgroupId, Container, ContainerKind, Counts, Coverage, Direction, EdgeDelta,
        EdgeKey, Histogram, Listener, ListenerQueue, NetnsId, Owner, Pod, PodKey, Process, Signal,
        SignalCoverage, Time,
    },
};

pub(crate) const START: Time = Time(1_700_000_000_000_000);
pub(crate) const OUT: u16 = 15001;
pub(crate) const IN: u16 = 15006;
pub(crate) const MESHED: NetnsId = NetnsId(100);
pub(crate) const PLAIN: NetnsId = NetnsId(200);
pub(crate) const APP: CgroupId = CgroupId(11);
pub(crate) const PROXY: CgroupId = CgroupId(12);
pub(crate) const INIT: CgroupId = CgroupId(13);
pub(crate) const PROXY_UID: u32 = 1337;

/// A node with an engine.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) outputs: Vec<Output>,
    /// Everything fed, for replays.
    pub(crate) inputs: Vec<(Time, Input)>,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn profiles() -> Profiles {
    static EMBEDDED: std::sync::OnceLock<Profiles> = std::sync::OnceLock::new();
    EMBEDDED
        .get_or_init(|| Profiles::embedded().unwrap())
        .clone()
}

pub(crate) fn container(name: &str, kind: ContainerKind, id: &str) -> Container {
    Container {
        name: name.into(),
        kind,
        id: Some(id.into()),
        args: vec![],
        run_as_user: None,
        run_as_group: None,
        ports: vec![],
        env: [].into(),
        status: None,
    }
}

pub(crate) fn pod(name: &str, uid: &str, ips: &[&str], containers: Vec<Container>) -> Pod {
    Pod {
        key: PodKey {
            namespace: "shop".into(),
            name: name.into(),
        },
        uid: uid.into(),
        workload: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        host_network: false,
        ips: ips.iter().map(|i| ip(i)).collect(),
        containers,
        netns_path: None,
    }
}

/// The meshed pod, dual-stack, set up by a CNI plugin.
pub(crate) fn meshed() -> Pod {
    let containers = vec![
        container("web", ContainerKind::Main, "c-app"),
        container("istio-proxy", ContainerKind::Main, "c-proxy"),
        container("migrate", ContainerKind::Init, "c-init"),
    ];
    pod("web-1", "uid-1", &["10.0.0.5", "fd00::5"], containers)
}

pub(crate) fn cgroup(
    cgroup: CgroupId,
    pod_uid: &str,
    container_id: &str,
    netns: NetnsId,
) -> Change {
    Change::Cgroup {
        cgroup,
        path: format!("/kubepods/besteffort/pod{pod_uid}/{container_id}"),
        pod_uid: Some(pod_uid.into()),
        container_id: Some(container_id.into()),
        netns: Some(netns),
    }
}

pub(crate) fn netns(netns: NetnsId, addresses: &[&str]) -> Change {
    Change::Netns {
        netns,
        paths: vec![],
        addresses: addresses.iter().map(|i| ip(i)).collect(),
        interfaces: vec![],
        host: false,
    }
}

pub(crate) fn owner(netns: NetnsId, cgroup: CgroupId, uid: u32) -> Owner {
    Owner {
        netns,
        cgroup,
        uid,
        gid: uid,
    }
}

/// An outbound edge of the meshed pod.
pub(crate) fn out(cgroup: CgroupId, uid: u32, to: &str, arrival: Arrival) -> EdgeKey {
    let remote = addr(to);
    let local = if remote.is_ipv4() {
        ip("10.0.0.5")
    } else {
        ip("fd00::5")
    };
    EdgeKey {
        owner: owner(MESHED, cgroup, uid),
        direction: Direction::Outbound,
        local,
        local_port: 0,
        remote,
        arrival,
    }
}

/// An inbound edge of the meshed pod.
pub(crate) fn into(cgroup: CgroupId, uid: u32, port: u16, from: &str) -> EdgeKey {
    let from = ip(from);
    let local = if from.is_ipv4() {
        ip("10.0.0.5")
    } else {
        ip("fd00::5")
    };
    EdgeKey {
        owner: owner(MESHED, cgroup, uid),
        direction: Direction::Inbound,
        local,
        local_port: port,
        remote: SocketAddr::new(from, 0),
        arrival: Arrival::Nowhere,
    }
}

pub(crate) fn established(n: u64) -> Counts {
    Counts {
        established: n,
        ..Counts::default()
    }
}

pub(crate) fn refused(n: u64) -> Counts {
    Counts {
        refused: n,
        ..Counts::default()
    }
}

pub(crate) fn delta(key: EdgeKey, counts: Counts) -> EdgeDelta {
    let mut duration = Histogram::default();
    duration.buckets[7] = counts.established;
    EdgeDelta {
        key,
        counts,
        duration: if key.direction == Direction::Outbound {
            duration
        } else {
            Histogram::default()
        },
    }
}

pub(crate) fn process(name: &str) -> Process {
    Process {
        pid: 42,
        comm: name.into(),
    }
}

pub(crate) fn queue(address: &str, length: u32) -> ListenerQueue {
    let at = addr(address);
    ListenerQueue {
        listener: Listener {
            addr: at.ip(),
            port: at.port(),
            dual_stack: false,
        },
        length,
        max: 128,
        uid: PROXY_UID,
    }
}

pub(crate) fn coverage(missing: &[&str]) -> Coverage {
    let signals = [
        "connection_state",
        "nat_decision",
        "reset",
        "accept",
        "retransmit",
    ];
    let signal = |name: &&str| SignalCoverage {
        signal: (*name).into(),
        variant: (!missing.contains(name)).then(|| "kprobe".into()),
        target: "somewhere".into(),
        without_it: "less is seen".into(),
        reason: if missing.contains(name) {
            "no kprobes".into()
        } else {
            String::new()
        },
        required: *name == "connection_state",
        idle: false,
    };
    Coverage {
        kernel: "6.12".into(),
        signals: signals.iter().map(signal).collect(),
        limits: vec![],
    }
}

impl Node {
    /// An empty node: the agent just started.
    pub(crate) fn empty() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        Self {
            engine: Engine::new(config, profiles(), START),
            now: START,
            outputs: vec![],
            inputs: vec![],
        }
    }

    /// The meshed pod has run for ten seconds, its proxy listens, every signal works.
    pub(crate) fn running() -> Self {
        let mut node = Self::empty();
        node.give(Input::Coverage(coverage(&[])));
        node.announce();
        // Nobody answers unless a test does.
        let first = Some(Inquiry::Memory(PROXY));
        assert_eq!(node.engine.next_inquiry(), first);
        node.listeners(&[
            "0.0.0.0:15001",
            "0.0.0.0:15006",
            "[::]:15001",
            "[::]:15006",
            "0.0.0.0:8080",
        ]);
        node.pass(10.0);
        node
    }

    /// Announces the meshed pod.
    pub(crate) fn announce(&mut self) {
        self.change(Change::Pod(Box::new(meshed())));
        self.change(netns(MESHED, &["10.0.0.5", "fd00::5"]));
        self.change(cgroup(APP, "uid-1", "c-app", MESHED));
        self.change(cgroup(PROXY, "uid-1", "c-proxy", MESHED));
        self.change(cgroup(INIT, "uid-1", "c-init", MESHED));
    }

    pub(crate) fn give(&mut self, input: Input) {
        self.inputs.push((self.now, input.clone()));
        self.engine.input(self.now, input);
        while let Some(output) = self.engine.next_output() {
            self.outputs.push(output);
        }
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.give(Input::Change(change));
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.give(Input::Signal(signal));
    }

    pub(crate) fn edges(&mut self, deltas: Vec<EdgeDelta>) {
        self.give(Input::Edges(deltas));
    }

    pub(crate) fn edge(&mut self, key: EdgeKey, counts: Counts) {
        self.edges(vec![delta(key, counts)]);
    }

    /// A sample of the meshed pod's namespace with empty queues.
    pub(crate) fn listeners(&mut self, addresses: &[&str]) {
        let queues = addresses.iter().map(|a| queue(a, 0)).collect();
        self.queues(queues);
    }

    pub(crate) fn queues(&mut self, queues: Vec<ListenerQueue>) {
        self.give(queues_in(MESHED, queues));
    }

    /// Lets time pass, waking the engine at each of its deadlines.
    pub(crate) fn pass(&mut self, seconds: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small and positive"
        )]
        let end = self.now.plus_micros((seconds * 1e6) as u64);
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.give(Input::Tick);
            let again = self.engine.next_deadline();
            assert!(
                again.is_none_or(|next| next > due),
                "deadline {due:?} does not move"
            );
        }
        self.now = end;
        self.give(Input::Tick);
    }

    /// The same drain once a second, `times` times.
    pub(crate) fn keep(&mut self, times: u32, deltas: &[EdgeDelta]) {
        for _ in 0..times {
            self.edges(deltas.to_vec());
            self.pass(1.0);
        }
    }

    pub(crate) fn findings(&mut self) -> Vec<Finding> {
        self.engine.board().findings.clone()
    }

    /// Codes of the open findings.
    pub(crate) fn open(&mut self) -> Vec<Code> {
        let open = |f: &Finding| f.state == FindingState::Open;
        self.findings()
            .iter()
            .filter(|f| open(f))
            .map(|f| f.code)
            .collect()
    }

    /// The one open finding, which must be `code`.
    pub(crate) fn only(&mut self, code: Code) -> Finding {
        assert_eq!(self.open(), [code]);
        self.findings().swap_remove(0)
    }

    /// Codes ever told.
    pub(crate) fn told(&self) -> Vec<Code> {
        let opened = |o: &Output| match o {
            Output::Opened(f) => Some(f.code),
            Output::Resolved(_) => None,
        };
        self.outputs.iter().filter_map(opened).collect()
    }
}

/// All evidence of a finding as one text.
pub(crate) fn facts(finding: &Finding) -> String {
    finding
        .evidence
        .iter()
        .map(|e| format!("{}: {}\n", e.what, e.value))
        .collect()
}

/// A sample of a namespace's accept queues.
pub(crate) fn queues_in(netns: NetnsId, queues: Vec<ListenerQueue>) -> Input {
    Input::Queues {
        netns,
        queues,
        overflows: None,
    }
}
