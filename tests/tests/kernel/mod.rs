//! Two namespaces joined by a cable, and ears in the kernel.
//!
//! Needs root and a built agent library; fails loudly without. Everything made is named
//! after the process and the test, and removed when the test ends, or is killed.

use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    process::Command,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use sidestep::{
    model::{Arrival, Counts, Datagrams, Direction, EdgeDelta, EdgeKey, NetnsId, Signal},
    probe::{ProbeOptions, Probes},
};

#[path = "../../reaper.rs"]
mod reaper;

/// How long anything may take to be told.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a mesh's proxy listens.
pub(crate) const PROXY: u16 = 15_001;

/// The client's address, and the server's.
pub(crate) const CLIENT: &str = "10.98.0.1";
pub(crate) const SERVER: &str = "10.98.0.2";
pub(crate) const CLIENT6: &str = "fd98::1";
pub(crate) const SERVER6: &str = "fd98::2";

/// A test's namespaces and probes.
pub(crate) struct World {
    name: String,
    pub(crate) probes: Option<Probes>,
    pub(crate) client: NetnsId,
    pub(crate) server: NetnsId,
    pub(crate) deltas: Vec<EdgeDelta>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) datagrams: Vec<Datagrams>,
    /// Dropped last: its namespaces are used to the end.
    _reaper: reaper::Reaper,
}

impl World {
    /// Makes the namespaces and attaches the probes.
    pub(crate) fn new(test: &str) -> Self {
        Self::with(test, ProbeOptions::default())
    }

    pub(crate) fn with(test: &str, options: ProbeOptions) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let name = format!("k{}{test}", std::process::id() % 10_000);
        let names = ["c", "s"].map(|side| format!("{name}{side}"));
        let reaper = reaper::Reaper::of(&names).unwrap();
        for side in ["c", "s"] {
            ip(&format!("netns add {name}{side}"));
            ip(&format!("-n {name}{side} link set lo up"));
        }
        ip(&format!(
            "-n {name}c link add eth0 type veth peer name eth0 netns {name}s"
        ));
        for (side, four, six) in [("c", CLIENT, CLIENT6), ("s", SERVER, SERVER6)] {
            ip(&format!("-n {name}{side} addr add {four}/24 dev eth0"));
            ip(&format!("-n {name}{side} addr add {six}/64 dev eth0 nodad"));
            ip(&format!("-n {name}{side} link set eth0 up"));
        }
        let inode = |side: &str| {
            let path = format!("/run/netns/{name}{side}");
            NetnsId(u32::try_from(std::fs::metadata(path).unwrap().ino()).unwrap())
        };
        Self {
            probes: Some(Probes::start(&options).expect("the probes do not start")),
            client: inode("c"),
            server: inode("s"),
            name,
            deltas: Vec::new(),
            signals: Vec::new(),
            datagrams: Vec::new(),
            _reaper: reaper,
        }
    }

    /// The probes; only a measurement goes without.
    pub(crate) fn probes(&self) -> &Probes {
        self.probes.as_ref().unwrap()
    }

    /// Moves this thread into one of the namespaces: sockets made from now on live there.
    pub(crate) fn enter(&self, side: char) {
        let file = File::open(format!("/run/netns/{}{side}", self.name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs a command in one of the namespaces.
    pub(crate) fn run(&self, side: char, command: &str) {
        ip(&format!("netns exec {}{side} {command}", self.name));
    }

    /// Redirects the client's connections to `port` to `to`, both families.
    pub(crate) fn redirect(&self, port: u16, to: u16) {
        for tool in ["iptables", "ip6tables"] {
            self.run(
                'c',
                &format!(
                    "{tool} -t nat -A OUTPUT -p tcp --dport {port} -j REDIRECT --to-ports {to}"
                ),
            );
        }
    }

    /// Whether a signal is delivered here.
    pub(crate) fn has(&self, signal: &str) -> bool {
        let coverage = self.probes().coverage();
        let found = coverage.signals.iter().find(|s| s.signal == signal);
        found
            .unwrap_or_else(|| panic!("no signal {signal}"))
            .variant
            .is_some()
    }

    /// Listens until `done` is true of what was heard; panics when patience ends.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.listen();
            if done(self) {
                return;
            }
            assert!(
                Instant::now() < end,
                "never seen: {what}\nedges {:#?}\nUDP {:?}\nsignals {:?}\nstats {:?}",
                self.deltas,
                self.datagrams,
                self.signals,
                self.probes().stats()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// One look at everything, as the agent does once a second.
    pub(crate) fn listen(&mut self) {
        let own = [self.client, self.server];
        self.probes.as_mut().unwrap().attach_late();
        let deltas = self.probes.as_mut().unwrap().drain().expect("draining");
        self.deltas.extend(
            deltas
                .into_iter()
                .filter(|d| own.contains(&d.key.owner.netns)),
        );
        let flows = self.probes.as_mut().unwrap().datagrams();
        self.datagrams.extend(flows.expect("flows over UDP"));
        let signals = &mut self.signals;
        self.probes
            .as_mut()
            .unwrap()
            .read_signals(|_, signal| signals.push(signal));
    }

    /// Sums of the client's outbound edges to a destination, by arrival.
    pub(crate) fn outbound(&self, to: SocketAddr) -> Vec<(Arrival, Counts)> {
        let mut sums: Vec<(Arrival, Counts)> = Vec::new();
        for delta in self.deltas.iter().filter(|d| {
            d.key.owner.netns == self.client
                && d.key.direction == Direction::Outbound
                && d.key.remote == to
        }) {
            match sums
                .iter_mut()
                .find(|(arrival, _)| *arrival == delta.key.arrival)
            {
                Some((_, sum)) => add(sum, &delta.counts),
                None => sums.push((delta.key.arrival, delta.counts)),
            }
        }
        sums.sort_by_key(|(arrival, _)| *arrival);
        sums
    }

    /// Established connections of an outbound destination, all arrivals.
    pub(crate) fn established(&self, to: SocketAddr) -> u64 {
        self.outbound(to).iter().map(|(_, c)| c.established).sum()
    }

    /// Inbound deltas of one side's port.
    pub(crate) fn inbound(&self, netns: NetnsId, port: u16) -> Vec<&EdgeDelta> {
        self.deltas
            .iter()
            .filter(|d| d.key.owner.netns == netns && d.key.direction == Direction::Inbound)
            .filter(|d| d.key.local_port == port)
            .collect()
    }

    /// Signals about an edge of the client's.
    pub(crate) fn about(&self, to: SocketAddr) -> Vec<&Signal> {
        let ours = |key: &EdgeKey| key.owner.netns == self.client && key.remote == to;
        self.signals
            .iter()
            .filter(|signal| match signal {
                Signal::FirstSeen { key, .. }
                | Signal::Failed { key, .. }
                | Signal::Stalled { key, .. }
                | Signal::Reset { key, .. }
                | Signal::Closed { key, .. } => ours(key),
                _ => false,
            })
            .collect()
    }

    /// Runs of a probe that the kernel skipped.
    pub(crate) fn skipped_runs(&self) -> u64 {
        let losses = self.probes().stats().losses;
        losses
            .iter()
            .filter(|l| l.at == "skipped_runs")
            .map(|l| l.count)
            .sum()
    }

    /// Asserts that the probes gave up nothing.
    pub(crate) fn assert_no_loss(&self) {
        for loss in self.probes().stats().losses {
            // Connects of the machine's own that began before the probes did.
            // A run skipped may have been about anything; what it lost shows in the counts.
            if loss.at != "pending_missing" && loss.at != "skipped_runs" {
                assert_eq!(loss.count, 0, "lost at {}", loss.at);
            }
        }
    }
}

/// An address and port.
pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.established += more.established;
    sum.refused += more.refused;
    sum.timed_out += more.timed_out;
    sum.unreachable += more.unreachable;
    sum.failed += more.failed;
    sum.aborted += more.aborted;
    sum.no_address += more.no_address;
    sum.denied += more.denied;
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A listener whose connections are accepted and read to their end by a thread.
pub(crate) fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|mut s| s.read_to_end(&mut Vec::new()));
        }
    });
}
