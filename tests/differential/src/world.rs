//! Two namespaces joined by a cable: a pod with rules, and a peer behind which services are.
//!
//! Somebody listens on every port of interest on both sides and says which side and port was reached, so that where a
//! connection came out needs no guess. Everything made is removed when the world is dropped, or its process killed, and what
//! connection tracking remembers of it with it: the kernel's table of that is one for all, and small on a small machine.
//!
//! It must never change the namespace of the thread that calls it: each job is done by a thread that ends.

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns},
    unistd::pipe,
};
use socket2::{Domain, Socket, Type};

use crate::grammar::{CAPTURES, Dialect, Family, SERVICES, Side, destinations};
use crate::sets;

#[path = "../../reaper.rs"]
mod reaper;

/// Worlds made by this process so far: each has names of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Ports on which sockets of the pod also listen at its own addresses.
const OWN: [u16; 3] = [443, 9090, 15006];

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the namespace with the rules.
    Pod,
    /// On the other side of the cable.
    Peer,
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    name: String,
    /// Dropped first: who listens keeps the namespace.
    listeners: Vec<Listeners>,
    _reaper: reaper::Reaper,
}

/// Those who listen in one namespace; they end with this.
#[derive(Debug)]
struct Listeners {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked: the connections that it did not answer told of that.
            let _ = thread.join();
        }
    }
}

impl World {
    /// Makes it and starts the listeners.
    pub(crate) fn new() -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sdiff{}-{number}", std::process::id());
        let names = ["pod", "peer"].map(|side| format!("{name}-{side}"));
        let mut world = Self {
            name,
            listeners: Vec::new(),
            _reaper: reaper::Reaper::of(&names).context("cannot start a shell")?,
        };
        let (pod, peer) = (world.netns(Place::Pod), world.netns(Place::Peer));
        for netns in [&pod, &peer] {
            ip(&format!("netns add {netns}"))?;
            ip(&format!("-n {netns} link set lo up"))?;
        }
        ip(&format!(
            "-n {pod} link add eth0 type veth peer name eth0 netns {peer}"
        ))?;
        for (netns, host) in [(&pod, 1), (&peer, 2)] {
            ip(&format!("-n {netns} addr add 10.97.0.{host}/24 dev eth0"))?;
            ip(&format!(
                "-n {netns} addr add fd97::{host}/64 dev eth0 nodad"
            ))?;
            ip(&format!("-n {netns} link set eth0 up"))?;
            ip(&format!("-n {netns} -6 addr add ::6/128 dev lo"))?;
        }
        for (four, net) in [("", "10.96.0.0/16"), ("-6", "fd96::/64")] {
            let via = if four.is_empty() {
                "10.97.0.2"
            } else {
                "fd97::2"
            };
            ip(&format!("-n {pod} {four} route add {net} via {via}"))?;
            ip(&format!("-n {peer} {four} route add local {net} dev lo"))?;
        }
        world.run(Command::new("ipset").arg("restore"), sets::CONTENT)?;
        for place in [Place::Pod, Place::Peer] {
            let listeners = world.listen(place)?;
            world.listeners.push(listeners);
        }
        Ok(world)
    }

    fn netns(&self, place: Place) -> String {
        let side = match place {
            Place::Pod => "pod",
            Place::Peer => "peer",
        };
        format!("{}-{side}", self.name)
    }

    /// Runs something in a namespace, in a thread that ends with it.
    pub(crate) fn within<T: Send>(
        &self,
        place: Place,
        job: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let path = format!("/run/netns/{}", self.netns(place));
        let job = move || {
            let file = File::open(&path).with_context(|| path.clone())?;
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
            job()
        };
        thread::scope(|scope| scope.spawn(job).join())
            .unwrap_or_else(|_| bail!("a thread in a namespace panicked"))
    }

    /// Listens on every port and tells whoever connects where it is.
    fn listen(&self, place: Place) -> Result<Listeners> {
        let word = match place {
            Place::Pod => "pod",
            Place::Peer => "peer",
        };
        let listeners = self.within(place, || {
            let ports = SERVICES.iter().chain(CAPTURES);
            let everywhere = ports.map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port));
            let own = own_listeners().into_iter().filter(|_| place == Place::Pod);
            everywhere
                .chain(own)
                .map(listener)
                .collect::<Result<Vec<_>>>()
        })?;
        let (stopped, stop) = pipe()?;
        let thread = thread::spawn(move || serve(&listeners, &stopped, word));
        Ok(Listeners {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Installs rules, in place of all that were there. An error is the tool's: the rules say something it cannot do.
    pub(crate) fn install(&self, dialect: Dialect, family: Family, text: &str) -> Result<()> {
        let mut command = match (dialect, family) {
            (Dialect::Legacy, Family::Four) => Command::new("iptables-legacy-restore"),
            (Dialect::Legacy, Family::Six) => Command::new("ip6tables-legacy-restore"),
            (Dialect::Nft, Family::Four) => Command::new("iptables-nft-restore"),
            (Dialect::Nft, Family::Six) => Command::new("ip6tables-nft-restore"),
            (Dialect::Native, _) => {
                let mut command = Command::new("nft");
                command.args(["-f", "-"]);
                command
            }
        };
        self.run(&mut command, text).map(drop)
    }

    /// Removes all rules of both dialects.
    pub(crate) fn clear(&self, dialect: Dialect, family: Family) -> Result<()> {
        match dialect {
            Dialect::Legacy => {
                let empty = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n";
                self.install(dialect, family, empty)
            }
            Dialect::Nft | Dialect::Native => self
                .run(Command::new("nft").args(["flush", "ruleset"]), "")
                .map(drop),
        }
    }

    /// What is in the sets.
    pub(crate) fn sets(&self) -> Result<String> {
        self.run(Command::new("ipset").arg("save"), "")
    }

    /// What the tools print of the rules that are there now.
    pub(crate) fn read(&self, dialect: Dialect, family: Family) -> Result<String> {
        let mut command = match (dialect, family) {
            (Dialect::Legacy, Family::Four) => Command::new("iptables-legacy-save"),
            (Dialect::Legacy, Family::Six) => Command::new("ip6tables-legacy-save"),
            (Dialect::Nft, Family::Four) => Command::new("iptables-nft-save"),
            (Dialect::Nft, Family::Six) => Command::new("ip6tables-nft-save"),
            (Dialect::Native, _) => {
                let mut command = Command::new("nft");
                command.args(["-j", "list", "ruleset"]);
                command
            }
        };
        self.run(&mut command, "")
    }

    fn run(&self, command: &mut Command, input: &str) -> Result<String> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.within(Place::Pod, move || {
            let what = format!("{command:?}");
            let mut child = command
                .spawn()
                .with_context(|| format!("cannot start {what}"))?;
            let mut stdin = child.stdin.take().context("no standard input")?;
            stdin.write_all(input.as_bytes())?;
            drop(stdin);
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                bail!("{what} failed: {said}\nits input was\n{input}");
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }
}

/// Where sockets of the pod listen beside those that listen everywhere.
fn own_listeners() -> Vec<SocketAddr> {
    let own = [Family::Four, Family::Six].map(|family| destinations(family, Side::Inbound));
    let at = |ip| OWN.map(|port| SocketAddr::new(ip, port));
    own.concat().into_iter().flat_map(at).collect()
}

/// All that listens in the pod; what listens everywhere does so for both families.
pub(crate) fn listeners() -> Vec<SocketAddr> {
    let ports = || SERVICES.iter().chain(CAPTURES);
    let four = ports().map(|port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *port));
    let six = ports().map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port));
    four.chain(six).chain(own_listeners()).collect()
}

fn listener(at: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    // The same port at all addresses and at one of them: whoever has the address comes first.
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Until the other end of `stopped` is closed.
fn serve(listeners: &[TcpListener], stopped: &OwnedFd, word: &str) {
    loop {
        let mut fds: Vec<PollFd<'_>> = listeners
            .iter()
            .map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN))
            .chain([PollFd::new(stopped.as_fd(), PollFlags::POLLIN)])
            .collect();
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds.last().and_then(PollFd::any).unwrap_or(false) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for (listener, _) in listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
            while let Ok((mut stream, _)) = listener.accept() {
                let port = listener.local_addr().map_or(0, |a| a.port());
                // The client may be gone.
                let _ = stream.write_all(format!("{word} {port}\n").as_bytes());
            }
        }
    }
}

/// The source a connection gets from the kernel, or the loopback address proxies dial from.
pub(crate) fn source(place: Place, to: IpAddr, bound: bool) -> IpAddr {
    let own = match place {
        Place::Pod => (
            Ipv4Addr::new(10, 97, 0, 1),
            Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 1),
        ),
        Place::Peer => (
            Ipv4Addr::new(10, 97, 0, 2),
            Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 0, 2),
        ),
    };
    match to {
        IpAddr::V4(_) if bound => Ipv4Addr::new(127, 0, 0, 6).into(),
        IpAddr::V6(_) if bound => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        to if to.is_loopback() => match to {
            // A connection to 127.x comes from 127.0.0.1 only if that is the interface's own address.
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        IpAddr::V4(_) => own.0.into(),
        IpAddr::V6(_) => own.1.into(),
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("cannot start ip")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    )
}
