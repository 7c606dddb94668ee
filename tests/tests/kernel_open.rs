//! Connections that wait, found without a walk: real sockets, and what the probes say of their namespaces.
//!
//! `cargo test -p sidestep-tests --test kernel_open` as root, here or in a VM of the matrix; see
//! `kernel_probes.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use kernel::{SERVER, SERVER6, World, at};
use sidestep::model::NetnsId;

/// Longer than what is called waiting, and as long as two rounds of the agent.
const LONG: Duration = Duration::from_millis(2_500);
/// Between two rounds.
const ROUND: Duration = Duration::from_millis(500);

/// What was found in client and server in some rounds.
fn found(world: &mut World, time: Duration) -> [bool; 2] {
    let end = Instant::now() + time;
    let mut found = [false; 2];
    while Instant::now() < end {
        thread::sleep(ROUND);
        let waiting = world.probes.as_mut().unwrap().waiting();
        let waiting = waiting.expect("looks work wherever the probes do");
        for (found, netns) in found.iter_mut().zip(sides(world)) {
            *found |= waiting.contains(&netns);
        }
    }
    found
}

fn sides(world: &World) -> [NetnsId; 2] {
    [world.client, world.server]
}

/// A connection between the two, both ends of it.
fn pair(world: &World, to: SocketAddr) -> (TcpStream, TcpStream, TcpListener) {
    world.enter('s');
    let listener = TcpListener::bind(to).unwrap();
    world.enter('c');
    let client = TcpStream::connect(to).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server, listener)
}

fn say(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").unwrap();
    to.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn what_is_not_read_waits_on_both_ends_and_no_longer_once_it_is_answered() {
    for (to, name) in [(at(SERVER, 81), "op4"), (at(SERVER6, 81), "op6")] {
        let mut world = World::new(name);
        assert!(world.has("open_connections"));
        let (mut client, mut server, _listener) = pair(&world, to);
        client.write_all(b"hello").unwrap();
        assert_eq!(found(&mut world, LONG), [true, true], "{to}");
        server.read_exact(&mut [0; 5]).unwrap();
        say(&mut server, &mut client);
        found(&mut world, ROUND);
        assert_eq!(found(&mut world, LONG), [false, false], "{to}: idle");
        world.assert_no_loss();
    }
}

#[test]
fn what_is_not_accepted_waits_where_nobody_takes_it() {
    let mut world = World::new("opa");
    world.enter('s');
    let _listener = TcpListener::bind(at(SERVER, 81)).unwrap();
    world.enter('c');
    let mut client = TcpStream::connect(at(SERVER, 81)).unwrap();
    assert_eq!(found(&mut world, LONG), [false, true], "nobody spoke");
    client.write_all(b"hello").unwrap();
    assert_eq!(found(&mut world, LONG), [true, true]);
}

#[test]
fn a_peer_that_is_silent_and_one_that_is_not_there_are_waited_for() {
    let mut world = World::new("ops");
    let (mut client, mut server, _listener) = pair(&world, at(SERVER, 81));
    say(&mut client, &mut server);
    assert_eq!(found(&mut world, LONG), [true, true], "no answer");
    say(&mut server, &mut client);
    world.run('s', "iptables -A INPUT -p tcp --dport 82 -j DROP");
    let dialling = thread::spawn(|| {
        // It times out: that is what is waited for.
        let _ = TcpStream::connect_timeout(&at(SERVER, 82), Duration::from_secs(4));
    });
    found(&mut world, ROUND);
    assert_eq!(found(&mut world, LONG), [true, false], "no SYN-ACK");
    dialling.join().unwrap();
    found(&mut world, ROUND);
    assert_eq!(found(&mut world, LONG), [false, false], "given up");
}

#[test]
fn whoever_keeps_a_closed_connection_open_waits() {
    let mut world = World::new("oph");
    let (mut client, mut server, _listener) = pair(&world, at(SERVER, 81));
    say(&mut client, &mut server);
    say(&mut server, &mut client);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(found(&mut world, LONG), [false, true], "half closed");
    drop(server);
    drop(client);
    found(&mut world, ROUND);
    assert_eq!(found(&mut world, LONG), [false, false], "closed");
}

#[test]
fn whoever_is_being_told_something_does_not_wait() {
    let mut world = World::new("opp");
    let (mut client, mut server, _listener) = pair(&world, at(SERVER, 81));
    let telling = thread::spawn(move || {
        for _ in 0..20 {
            say(&mut client, &mut server);
            thread::sleep(Duration::from_millis(200));
        }
        say(&mut server, &mut client);
        (client, server)
    });
    // The first look knows of nothing but its age.
    found(&mut world, Duration::from_secs(2));
    assert_eq!(
        found(&mut world, Duration::from_millis(1_500)),
        [false, false]
    );
    telling.join().unwrap();
}
