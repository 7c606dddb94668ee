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

mod kernel;

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use kernel::{CLIENT, PROXY, SERVER, SERVER6, World, at, serve};
use sidestep::{
    model::{Arrival, Outcome, Signal},
    probe::ProbeOptions,
};

/// Connects, sends a byte and closes.
fn visit(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    stream.write_all(b"x").unwrap();
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
        // Counts and signals come by different ways.
        world.until("who made it", |w| {
            w.about(to).iter().any(|s| {
                matches!(s, Signal::FirstSeen { process, .. } if process.pid == std::process::id())
            })
        });
    }
    world.assert_no_loss();
}

#[test]
fn who_connects_goes_by_the_name_of_its_thread() {
    let mut world = World::new("nam");
    world.enter('s');
    let ports = [8_001, 8_002, 8_003];
    ports.iter().for_each(|port| serve(at(SERVER, *port)));
    world.enter('c');
    // Shorter than a word, longer than one, and as long as the kernel keeps them.
    for (port, name) in ports.iter().zip(["a", "ten letters", "fifteen letters"]) {
        std::fs::write("/proc/thread-self/comm", name).unwrap();
        let to = at(SERVER, *port);
        visit(to);
        world.until(name, |w| {
            w.about(to)
                .iter()
                .any(|s| matches!(s, Signal::FirstSeen { process, .. } if process.comm == name))
        });
    }
    world.assert_no_loss();
}

#[test]
fn an_edge_that_was_quiet_for_long_is_counted_on_and_not_again() {
    let mut world = World::new("idl");
    world.enter('s');
    serve(at(SERVER, 80));
    world.enter('c');
    let to = at(SERVER, 80);
    visit(to);
    world.until("the first", |w| w.established(to) == 1);
    // More looks than an edge is remembered for: it is taken out of the map on the way.
    (0..300).for_each(|_| world.listen());
    assert_eq!(world.established(to), 1);
    visit(to);
    world.until("the second", |w| w.established(to) >= 2);
    (0..300).for_each(|_| world.listen());
    assert_eq!(world.established(to), 2);
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
fn no_free_port_is_counted_as_such_and_not_as_given_up() {
    let mut world = World::new("eph");
    world.run('c', "sysctl -qw net.ipv4.ip_local_port_range=40000\t40001");
    world.enter('s');
    serve(at(SERVER, 80));
    world.enter('c');
    let to = at(SERVER, 80);
    let mut held = Vec::new();
    let mut without = 0;
    for _ in 0..6 {
        match TcpStream::connect(to) {
            Ok(stream) => held.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
                without += 1;
            }
        }
    }
    assert!(without >= 4, "{without}");
    world.until("those without a port", |w| {
        let counts = w.outbound(to);
        counts.iter().map(|(_, c)| c.no_address).sum::<u64>() == without
    });
    let aborted: u64 = world.outbound(to).iter().map(|(_, c)| c.aborted).sum();
    assert_eq!(aborted, 0);
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
    let seen = |w: &World| w.established(redirected) + w.established(direct);
    world.until("all", |w| seen(w) + w.skipped_runs() >= 2000);
    // A kernel does not run a program that it interrupted on the same CPU. Whatever is missing
    // is owed to that, and said; a machine that is not starved skips none.
    assert!(seen(&world) <= 2000, "{}", seen(&world));
    assert!(world.skipped_runs() > 0 || seen(&world) == 2000);
    for (arrival, counts) in world.outbound(redirected) {
        assert!(
            arrival != Arrival::Nowhere || counts.established == 0,
            "a false alarm"
        );
    }
    for (arrival, _) in world.outbound(direct) {
        assert!(
            matches!(arrival, Arrival::Nowhere | Arrival::Unknown),
            "{arrival:?}"
        );
    }
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
