//! A full edge map and a full ring buffer, filled by real connections.
//!
//! `cargo test -p sidestep-tests --test kernel_full` as root, here or in a VM of the matrix; see
//! `kernel_probes.rs`. One test: the probes hear every connection of the machine, so that a
//! second one beside it would be flooded as well.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use kernel::World;
use sidestep::{
    engine::{Code, Config, Engine, Finding, Input},
    mesh::Profiles,
    model::{AgentStats, Direction, Time},
};

/// Both ends are edges of this namespace: more than the map's 16 384 places, less than those and
/// the overflow's.
const FLOOD: u32 = 8_600;
const START: Time = Time(1_700_000_000_000_000);

fn connect(from: u32, count: u32, port: u16) {
    for n in from..from + count {
        // All of 127/8 is loopback: every address makes two edges of its own.
        let to = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n);
        drop(TcpStream::connect(SocketAddr::from((to, port))).unwrap());
    }
}

fn lost(stats: &AgentStats, at: &str) -> u64 {
    let found = stats.losses.iter().find(|loss| loss.at == at);
    found.unwrap_or_else(|| panic!("no counter {at}")).count
}

/// What the agent says of itself, given its counters.
fn said(engine: &mut Engine, seconds: u64, stats: AgentStats) -> Vec<Finding> {
    engine.input(START.plus_secs(seconds), Input::Stats(stats));
    engine.board().findings.clone()
}

#[test]
fn what_does_not_fit_is_counted_and_said() {
    let mut world = World::new("full");
    world.enter('c');
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let mut engine = Engine::new(Config::default(), Profiles::embedded().unwrap(), START);

    connect(0, 50, port);
    let counted = move |w: &World| -> u64 {
        let ours = w
            .deltas
            .iter()
            .filter(|d| d.key.owner.netns == w.client && d.key.direction == Direction::Outbound);
        ours.map(|d| d.counts.established).sum()
    };
    world.until("fifty connections", |w| counted(w) == 50);
    let stats = world.probes().stats();
    assert_eq!(
        (lost(&stats, "edge_map_full"), lost(&stats, "ring_buffer")),
        (0, 0)
    );
    assert!(said(&mut engine, 1, stats).is_empty());

    // Nobody reads meanwhile.
    connect(50, FLOOD, port);
    world.until("every connection", |w| counted(w) == u64::from(50 + FLOOD));
    let stats = world.probes().stats();
    assert!(lost(&stats, "edge_map_full") > 0, "{stats:?}");
    assert!(lost(&stats, "ring_buffer") > 0, "{stats:?}");
    assert_eq!(lost(&stats, "edge_lost"), 0, "{stats:?}");
    let findings = said(&mut engine, 2, stats);
    let codes: Vec<Code> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::AgentOverload]);
    for bound in ["edge_map_full", "ring_buffer"] {
        let mut evidence = findings[0].evidence.iter();
        assert!(evidence.any(|e| e.what == bound), "{bound}: {findings:?}");
    }
}
