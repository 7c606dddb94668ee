//! The probes against real connections in namespaces: the one right count for each.
//!
//! `cargo test -p sidestep-tests --test kernel_probes` as root, here or in a VM of the
//! matrix. What a kernel cannot tell is skipped by name, never silently.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is a failed test"
)]
// lint: long file because it is a table of connections with one kit, used nowhere else
#![expect(unsafe_code, reason = "system calls std does not make; one line each")]

mod kernel;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use kernel::{CLIENT, SERVER, SERVER6, World, at};
use sidestep::{
    model::{Arrival, Outcome, Signal},
    probe::ProbeOptions,
};

const PROXY: u16 = 15_001;

/// Connects, sends a byte and closes.
fn visit(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    stream.write_all(b"x").unwrap();
}

/// A listener whose connections are accepted and read to their end by a thread.
fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.map(|mut s| s.read_to_end(&mut Vec::new()));
        }
    });
}

fn coverage(world: &World) {
    for signal in world.probes().coverage().signals {
        println!(
            "{:17} {:15} {}",
            signal.signal,
            signal.variant.unwrap_or_default(),
            signal.reason
        );
    }
}

#[test]
fn the_required_signal_works_and_the_rest_says_why_not() {
    let world = World::new("cov");
    coverage(&world);
    for signal in world.probes().coverage().signals {
        assert!(!signal.required || signal.variant.is_some(), "{signal:?}");
        assert_eq!(
            signal.variant.is_some(),
            signal.reason.is_empty(),
            "{signal:?}"
        );
    }
    // Where functions can be probed at all, nothing is missing but what the module's types decide.
    if std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        assert!(world.has("accept") && world.has("reset") && world.has("retransmit"));
        if std::path::Path::new("/sys/kernel/btf/nf_conntrack").exists() {
            assert!(world.has("nat_decision"));
        }
    }
}

#[test]
fn a_redirected_connection_arrives_at_the_proxy() {
    let mut world = World::new("red");
    world.redirect(80, PROXY);
    world.enter('c');
    serve(at("127.0.0.1", PROXY));
    serve(at("::1", PROXY));
    let (four, six) = (at(SERVER, 80), at(SERVER6, 80));
    for _ in 0..5 {
        visit(four);
        visit(six);
    }
    // An IPv6 socket speaking IPv4 counts as IPv4.
    visit(at(&format!("::ffff:{SERVER}"), 80));
    world.until("both families", |w| {
        w.established(four) == 6 && w.established(six) == 5
    });
    for (to, count) in [(four, 6), (six, 5)] {
        let edges = world.outbound(to);
        assert_eq!(edges.len(), 1, "{edges:?}");
        assert_eq!(
            (edges[0].0, edges[0].1.established),
            (Arrival::Port(PROXY), count)
        );
    }
    let inbound: u64 = world
        .inbound(world.client, PROXY)
        .iter()
        .map(|d| d.counts.established)
        .sum();
    assert_eq!(inbound, 11);
    world.assert_no_loss();
}

#[test]
fn a_direct_connection_arrives_nowhere_and_is_counted_once() {
    let mut world = World::new("dir");
    world.enter('s');
    serve(at(SERVER, 80));
    serve(at(SERVER6, 80));
    world.enter('c');
    for server in [SERVER, SERVER6] {
        let to = at(server, 80);
        visit(to);
        world.until("the short one", |w| w.established(to) == 1);
        let held = TcpStream::connect(to).unwrap();
        world.until("the one still open", |w| w.established(to) == 2);
        drop(held);
        visit(to);
        world.until("the third", |w| w.established(to) >= 3);
        let edges = world.outbound(to);
        assert_eq!(edges.len(), 1, "{edges:?}");
        assert_eq!((edges[0].0, edges[0].1.established), (Arrival::Nowhere, 3));
        let told = world.about(to);
        let process = told.iter().find_map(|s| match s {
            Signal::FirstSeen { process, .. } => Some(process.pid),
            _ => None,
        });
        assert_eq!(process, Some(std::process::id()), "{told:?}");
    }
    world.assert_no_loss();
}

#[test]
fn a_local_connection_arrives_at_its_own_port() {
    let mut world = World::new("loc");
    world.enter('c');
    serve(at("0.0.0.0", 8080));
    for to in [at("127.0.0.1", 8080), at(CLIENT, 8080)] {
        visit(to);
        world.until("it", |w| w.established(to) == 1);
        assert_eq!(world.outbound(to)[0].0, Arrival::Port(8080));
    }
}

#[test]
fn a_redirect_to_nobody_names_the_port() {
    let mut world = World::new("nob");
    world.redirect(80, PROXY);
    world.enter('c');
    let to = at(SERVER, 80);
    assert!(TcpStream::connect(to).is_err());
    world.until("the failure", |w| {
        !w.about(to).is_empty() && !w.outbound(to).is_empty()
    });
    let (arrival, counts) = world.outbound(to)[0];
    assert_eq!(counts.refused, 1);
    let failed = world.about(to).into_iter().find_map(|s| match s {
        Signal::Failed {
            outcome,
            errno,
            refused_at,
            ..
        } => Some((*outcome, *errno, *refused_at)),
        _ => None,
    });
    let (outcome, errno, refused_at) = failed.expect("no Failed signal");
    assert_eq!((outcome, errno), (Outcome::Refused, 111));
    if world.has("nat_decision") {
        assert_eq!(arrival, Arrival::Decided(PROXY));
    } else if world.has("reset") {
        assert_eq!(arrival, Arrival::Port(PROXY));
    }
    if world.has("reset") {
        assert_eq!(refused_at, Some(PROXY));
        let heard = world.signals.iter().any(|s| {
            matches!(s, Signal::NoListener { netns, port, peer, .. }
                if *netns == world.client && *port == PROXY && peer.ip().to_string() == CLIENT)
        });
        assert!(heard, "{:?}", world.signals);
    } else {
        println!("skipped: this kernel has no reset signal");
    }
}

#[test]
fn a_refusal_by_the_destination_is_not_blamed_on_the_own_namespace() {
    let mut world = World::new("ref");
    world.redirect(80, PROXY);
    world.enter('c');
    let to = at(SERVER, 81);
    assert!(TcpStream::connect(to).is_err());
    world.until("the failure", |w| {
        w.outbound(to).iter().any(|(_, c)| c.refused == 1)
    });
    let expected = if world.has("nat_decision") {
        Arrival::Nowhere
    } else {
        Arrival::Unknown
    };
    assert_eq!(world.outbound(to)[0].0, expected);
    for signal in world.about(to) {
        if let Signal::Failed { refused_at, .. } = signal {
            assert_eq!(*refused_at, None);
        }
    }
}

#[test]
fn giving_up_is_counted_as_aborted() {
    let mut world = World::new("abo");
    world.run('s', "iptables -A INPUT -p tcp --dport 80 -j DROP");
    world.enter('c');
    let to = at(SERVER, 80);
    for _ in 0..3 {
        assert!(TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_err());
    }
    world.until("three", |w| {
        w.outbound(to).iter().map(|(_, c)| c.aborted).sum::<u64>() == 3
    });
    let stalled = TcpStream::connect_timeout(&to, Duration::from_millis(1500));
    assert!(stalled.is_err());
    world.until("the stall", |w| {
        w.about(to)
            .iter()
            .any(|s| matches!(s, Signal::Stalled { retransmits: 1, .. }))
    });
    assert_eq!(world.established(to), 0);
}

#[test]
fn a_full_accept_queue_is_never_called_direct() {
    let mut world = World::new("ful");
    world.redirect(80, PROXY);
    world.enter('c');
    let listener = TcpListener::bind(at("127.0.0.1", PROXY)).unwrap();
    // SAFETY: an open socket; a second listen only changes the length of the queue.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let to = at(SERVER, 80);
    let tried: Vec<_> = (0..6)
        .map(|_| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
        .collect();
    let connected = tried.iter().filter(|t| t.is_ok()).count() as u64;
    world.until("all that connected", |w| w.established(to) == connected);
    std::thread::sleep(Duration::from_millis(1500));
    world.until("the rest", |w| w.established(to) >= connected);
    for (arrival, counts) in world.outbound(to) {
        assert!(
            arrival != Arrival::Nowhere || counts.established == 0,
            "{arrival:?} {counts:?}"
        );
    }
    assert_eq!(world.established(to), connected);
    drop(tried);
    drop(listener);
}

#[test]
fn the_owner_is_the_socket_files_not_the_threads() {
    let mut world = World::new("own");
    world.enter('s');
    serve(at(SERVER, 80));
    world.enter('c');
    // SAFETY: changes this thread's filesystem ids only, as a socket's creator has them.
    unsafe {
        libc::setfsgid(4_321);
        libc::setfsuid(1_234);
    }
    // SAFETY: a new socket, owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: back to root before connecting.
    unsafe {
        libc::setfsuid(0);
        libc::setfsgid(0);
    }
    let to = at(SERVER, 80);
    connect(&socket, to);
    drop(socket);
    world.until("it", |w| w.established(to) == 1);
    let owner = world
        .deltas
        .iter()
        .find(|d| d.key.remote == to)
        .unwrap()
        .key
        .owner;
    assert_eq!((owner.uid, owner.gid), (1_234, 4_321));
}

/// connect(2) to an IPv4 address.
fn connect(socket: &OwnedFd, to: SocketAddr) {
    let SocketAddr::V4(to) = to else {
        panic!("IPv4 only")
    };
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap(),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: a whole address of the length said.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            u32::try_from(size_of_val(&address)).unwrap(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn listeners_come_and_go() {
    let mut world = World::new("lis");
    world.enter('c');
    let dual = TcpListener::bind("[::]:9001").unwrap();
    let four = TcpListener::bind("127.0.0.1:9002").unwrap();
    drop((dual, four));
    world.until("both ends", |w| {
        let ended =
            |s: &&Signal| matches!(s, Signal::ListeningEnded { netns, .. } if *netns == w.client);
        w.signals.iter().filter(ended).count() == 2
    });
    let began: Vec<_> = world
        .signals
        .iter()
        .filter_map(|s| match s {
            Signal::Listening {
                owner,
                listener,
                process,
            } if owner.netns == world.client => {
                assert_eq!((owner.uid, process.pid), (0, std::process::id()));
                Some((
                    listener.addr.to_string(),
                    listener.port,
                    listener.dual_stack,
                ))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        began,
        [("::".into(), 9001, true), ("127.0.0.1".into(), 9002, false)]
    );
}

#[test]
fn waiting_in_the_accept_queue_is_measured() {
    let mut world = World::new("acc");
    if !world.has("accept") {
        println!("skipped: this kernel has no accept signal");
        return;
    }
    world.enter('c');
    let listener = TcpListener::bind(at("127.0.0.1", 9003)).unwrap();
    let to = at("127.0.0.1", 9003);
    let streams: Vec<_> = (0..4).map(|_| TcpStream::connect(to).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let accepted: Vec<_> = (0..4).map(|_| listener.accept().unwrap()).collect();
    let timed = |w: &World| -> (u64, u64) {
        let of = w.inbound(w.client, 9003);
        let count = of.iter().flat_map(|d| d.duration.buckets).sum();
        (count, of.iter().map(|d| d.duration.sum_us).sum())
    };
    world.until("four waits", |w| timed(w).0 == 4);
    assert!(timed(&world).1 >= 4 * 90_000, "{:?}", timed(&world));
    drop((streams, accepted));
}

#[test]
fn a_thousand_connections_are_a_thousand() {
    let mut world = World::new("tho");
    world.redirect(80, PROXY);
    world.enter('s');
    serve(at(SERVER, 81));
    world.enter('c');
    serve(at("127.0.0.1", PROXY));
    let (redirected, direct) = (at(SERVER, 80), at(SERVER, 81));
    std::thread::scope(|scope| {
        for to in [redirected, direct] {
            // A thread starts in its parent's namespace.
            scope.spawn(move || (0..1000).for_each(|_| visit(to)));
        }
    });
    world.until("all", |w| {
        w.established(redirected) >= 1000 && w.established(direct) >= 1000
    });
    assert_eq!(
        world.outbound(redirected).len(),
        1,
        "{:?}",
        world.outbound(redirected)
    );
    assert_eq!(world.outbound(redirected)[0].0, Arrival::Port(PROXY));
    assert_eq!(
        world.outbound(direct).len(),
        1,
        "{:?}",
        world.outbound(direct)
    );
    assert_eq!(world.outbound(direct)[0].0, Arrival::Nowhere);
    assert_eq!(
        (world.established(redirected), world.established(direct)),
        (1000, 1000)
    );
    world.assert_no_loss();
}

#[test]
fn without_kprobes_the_main_job_is_still_done() {
    let mut world = World::with("nok", ProbeOptions { kprobes: false });
    assert!(!world.has("nat_decision") && !world.has("accept"));
    world.redirect(80, PROXY);
    world.enter('c');
    serve(at("127.0.0.1", PROXY));
    let to = at(SERVER, 80);
    visit(to);
    world.until("it", |w| w.established(to) == 1);
    assert_eq!(world.outbound(to)[0].0, Arrival::Port(PROXY));
}

/// Run alone, on a kernel that has not loaded NAT's module yet: `cargo xtask vm run --bare`.
#[test]
fn a_module_that_loads_later_is_attached() {
    let module = std::path::Path::new("/sys/module/nf_nat");
    if module.exists() || !std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        println!("skipped: NAT is there already, or functions cannot be probed");
        return;
    }
    let mut world = World::new("lat");
    assert!(!world.has("nat_decision"));
    world.redirect(80, PROXY);
    assert!(module.exists(), "the rules loaded no module");
    world.until("the decision attached", |w| w.has("nat_decision"));
    world.enter('c');
    let to = at(SERVER, 80);
    assert!(TcpStream::connect(to).is_err());
    world.until("the failure", |w| !w.outbound(to).is_empty());
    assert_eq!(world.outbound(to)[0].0, Arrival::Decided(PROXY));
}
