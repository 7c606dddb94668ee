//! Connections that their peer ends before it has answered, against those that it ends later.
//!
//! `cargo test -p sidestep-tests --test kernel_ends` as root, here or in a VM of the matrix.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use kernel::{CLIENT, SERVER, World, at};
use sidestep::model::Signal;

#[test]
fn a_reset_before_any_answer_is_told_and_one_after_it_is_not() {
    let mut world = World::new("pre");
    world.enter('s');
    let listener = std::net::TcpListener::bind(at(SERVER, 80)).unwrap();
    let talker = std::net::TcpListener::bind(at(SERVER, 81)).unwrap();
    // What was sent and never read makes close(2) a reset.
    let wait = || std::thread::sleep(Duration::from_millis(100));
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        wait();
        drop(stream);
    });
    std::thread::spawn(move || {
        let (mut stream, _) = talker.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
        wait();
        drop(stream);
    });
    world.enter('c');
    let (silent, spoken) = (at(SERVER, 80), at(SERVER, 81));
    for to in [spoken, silent] {
        let mut stream = TcpStream::connect(to).unwrap();
        std::io::Write::write_all(&mut stream, b"request").unwrap();
        let mut answer = Vec::new();
        let end = std::io::Read::read_to_end(&mut stream, &mut answer);
        assert!(end.is_err(), "{answer:?}");
    }
    let resets = |w: &World, to| {
        let reset = |s: &&Signal| matches!(s, Signal::Reset { port, .. } if *port != 0);
        w.about(to).iter().filter(|s| reset(s)).count()
    };
    world.until("the reset", |w| resets(w, silent) == 1);
    assert_eq!(resets(&world, spoken), 0);
}

#[test]
fn an_end_at_once_without_an_answer_is_told_and_others_are_not() {
    let mut world = World::new("end");
    world.enter('s');
    let (wordless, spoken, late, left) = (
        at(SERVER, 80),
        at(SERVER, 81),
        at(SERVER, 82),
        at(SERVER, 83),
    );
    for to in [wordless, spoken, late, left] {
        let listener = std::net::TcpListener::bind(to).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            match to.port() {
                // A single byte is an answer.
                81 => stream.write_all(b"x").unwrap(),
                82 => std::thread::sleep(Duration::from_millis(1_500)),
                83 => drop(std::io::Read::read(&mut stream, &mut [0])),
                _ => {}
            }
        });
    }
    world.enter('c');
    for to in [spoken, late, left, wordless] {
        let mut stream = TcpStream::connect(to).unwrap();
        // Whoever closes first was not closed by his peer.
        if to != left {
            std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
        }
    }
    let ends = |w: &World, to| {
        let end = |s: &&Signal| matches!(s, Signal::Closed { .. });
        w.about(to).iter().filter(|s| end(s)).count()
    };
    world.until("the end", |w| ends(w, wordless) == 1);
    for other in [spoken, late, left] {
        assert_eq!(ends(&world, other), 0, "{other}");
    }
}

#[test]
fn closes_beyond_the_budget_are_told_in_sum_and_each_namespace_has_its_own() {
    const EACH: u64 = 200;
    let mut world = World::new("bud");
    for (side, address) in [('s', SERVER), ('c', CLIENT)] {
        world.enter(side);
        let listener = std::net::TcpListener::bind(at(address, 80)).unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    // In turns: the one's budget must not be the other's.
    let closed = |world: &World| {
        for (from, to) in [('c', SERVER), ('s', CLIENT)] {
            world.enter(from);
            let mut stream = TcpStream::connect(at(to, 80)).unwrap();
            std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
        }
    };
    let start = Instant::now();
    (0..EACH).for_each(|_| closed(&world));
    // What was not told comes with the next that may be.
    std::thread::sleep(Duration::from_millis(150));
    closed(&world);
    let earned = start.elapsed().as_millis() / 100;
    let told = |w: &World, netns| -> Vec<u64> {
        let of = |signal: &Signal| match signal {
            Signal::Closed { key, n } if key.owner.netns == netns => Some(*n),
            _ => None,
        };
        w.signals.iter().filter_map(of).collect()
    };
    let sides = [world.client, world.server];
    let all = |w: &World, netns| told(w, netns).iter().sum::<u64>() == EACH + 1;
    world.until("all", |w| sides.iter().all(|netns| all(w, *netns)));
    for netns in sides {
        let times = told(&world, netns).len() as u128;
        assert!(times <= 20 + earned + 1, "{times} times, {earned} earned");
    }
}
