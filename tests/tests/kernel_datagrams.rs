//! Flows over UDP and what NAT decides for them.
//!
//! `cargo test -p sidestep-tests --test kernel_datagrams` as root, here or in a VM of the
//! matrix; see `kernel_probes.rs`. Needs NAT's decisions, and says so where there are none.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::net::{SocketAddr, UdpSocket};

use kernel::{CLIENT, CLIENT6, SERVER, SERVER6, World, at};
use sidestep::model::{Arrival, Datagrams, NO_ID};

const RESOLVER: u16 = 15_053;
/// What every mesh has. Without a rule that rewrites, connections are not tracked in a
/// namespace, and NAT is not asked about anything.
const MESH: &str = "-A OUTPUT -p tcp -j REDIRECT --to-ports 15001";

/// A new flow with two packets: the second must not count.
fn ask(to: SocketAddr) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    for _ in 0..2 {
        // Nobody answers: an error of the first packet may be told with the second.
        let _ = socket.send_to(b"who is it", to);
    }
}

fn flows(world: &World, to: SocketAddr) -> Vec<(Arrival, u64)> {
    let about = |d: &&Datagrams| d.key.owner.netns == world.client && d.key.remote == to;
    let mut sums: Vec<(Arrival, u64)> = Vec::new();
    for one in world.datagrams.iter().filter(about) {
        match sums
            .iter_mut()
            .find(|(arrival, _)| *arrival == one.key.arrival)
        {
            Some((_, sum)) => *sum += one.flows,
            None => sums.push((one.key.arrival, one.flows)),
        }
    }
    sums
}

/// A world in which NAT is at work in the client's namespace, if it can be heard.
fn world(test: &str, rules: &[&str]) -> Option<World> {
    let mut world = World::new(test);
    for tool in ["iptables", "ip6tables"] {
        for rule in rules {
            world.run('c', &format!("{tool} -t nat {rule}"));
        }
    }
    if !std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists()
        || !std::path::Path::new("/sys/kernel/btf/nf_conntrack").exists()
    {
        println!("skipped: NAT's decisions cannot be heard here");
        return None;
    }
    world.until("NAT's decisions", |w| w.has("nat_decision"));
    world.enter('c');
    Some(world)
}

#[test]
fn queries_are_seen_redirected_and_direct() {
    let redirect = format!("OUTPUT -p udp --dport 53 -j REDIRECT --to-ports {RESOLVER}");
    let Some(mut world) = world("udp", &[MESH, &format!("-A {redirect}")]) else {
        return;
    };
    let (four, six) = (at(SERVER, 53), at(SERVER6, 53));
    for _ in 0..3 {
        ask(four);
        ask(six);
    }
    world.until("six captured queries", |w| {
        flows(w, four) == [(Arrival::Decided(RESOLVER), 3)]
            && flows(w, six) == [(Arrival::Decided(RESOLVER), 3)]
    });
    // The rule goes, the mesh's others stay: NAT is asked and lets them go.
    for tool in ["iptables", "ip6tables"] {
        world.run('c', &format!("{tool} -t nat -D {redirect}"));
    }
    world.datagrams.clear();
    ask(four);
    ask(four);
    ask(six);
    world.until("three direct queries", |w| {
        flows(w, four) == [(Arrival::Nowhere, 2)] && flows(w, six) == [(Arrival::Nowhere, 1)]
    });
    for (to, from) in [(four, CLIENT), (six, CLIENT6)] {
        let one = world.datagrams.iter().find(|d| d.key.remote == to).unwrap();
        assert_eq!(one.process.pid, std::process::id());
        assert_eq!(one.key.local, at(from, 0).ip());
        assert_eq!((one.key.owner.uid, one.key.owner.gid), (0, 0));
        assert_ne!(one.key.owner.uid, NO_ID);
    }
    world.assert_no_loss();
}

#[test]
fn only_ports_that_matter_and_only_at_home() {
    let Some(mut world) = world("upo", &[MESH]) else {
        return;
    };
    // The server's namespace has NAT too: the packets cross it in the client's context.
    world.run(
        's',
        "iptables -t nat -A PREROUTING -p udp --dport 1 -j REDIRECT --to-ports 2",
    );
    let (http3, other) = (at(SERVER, 443), at(SERVER, 4433));
    ask(other);
    ask(http3);
    world.until("HTTP/3", |w| flows(w, http3) == [(Arrival::Nowhere, 1)]);
    assert_eq!(flows(&world, other), []);
    let abroad = |d: &Datagrams| d.key.owner.netns == world.server;
    assert!(!world.datagrams.iter().any(abroad), "{:?}", world.datagrams);
    assert!(world.deltas.is_empty(), "no connection: {:?}", world.deltas);
}

#[test]
fn a_resolver_elsewhere_is_not_here_and_not_direct() {
    let to = format!("-A OUTPUT -p udp --dport 53 -j DNAT --to-destination {SERVER}:5353");
    let Some(mut world) = world("ude", &[]) else {
        return;
    };
    world.run('c', &format!("iptables -t nat {to}"));
    let asked = at("10.98.0.77", 53);
    ask(asked);
    world.until("it", |w| flows(w, asked) == [(Arrival::Unknown, 1)]);
}
