//! Multipath TCP: a socket of that kind is two to the kernel, and one connection to everybody else.
//!
//! Go's listeners are of this kind unless told otherwise, so that most of those who accept on one
//! never asked for it. `cargo test -p sidestep-tests --test kernel_mptcp` as root, here or in a VM of
//! the matrix; see `kernel_probes.rs`. A kernel without it is skipped by name.
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
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use kernel::{PROXY, SERVER, World, at, serve};
use nix::unistd::{Uid, setfsuid};
use sidestep::model::{Arrival, EdgeDelta, NetnsId};
use socket2::{Domain, Protocol, Socket, Type};

const IPPROTO_MPTCP: i32 = 262;

/// A socket, or `None` where the kernel has none of this kind.
fn socket() -> Option<Socket> {
    Socket::new(
        Domain::IPV4,
        Type::STREAM,
        Some(Protocol::from(IPPROTO_MPTCP)),
    )
    .inspect_err(|error| println!("SKIPPED: this kernel has no MPTCP: {error}"))
    .ok()
}

/// Listens, and says back a byte to everybody, from a thread of its own.
fn answer(addr: SocketAddr) {
    let listener = socket().unwrap();
    listener.bind(&addr.into()).unwrap();
    listener.listen(16).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut accepted, _)) = listener.accept() {
            let mut byte = [0];
            if accepted.read_exact(&mut byte).is_ok() {
                drop(accepted.write_all(&byte));
            }
        }
    });
}

fn talk(mut stream: impl std::io::Read + std::io::Write) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn accepted(world: &World, netns: NetnsId, port: u16) -> u64 {
    let inbound: Vec<&EdgeDelta> = world.inbound(netns, port);
    inbound.iter().map(|d| d.counts.established).sum()
}

/// Looks often enough for anything counted twice to show.
fn settle(world: &mut World) {
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(200));
        world.listen();
    }
}

#[test]
fn between_two_that_speak_it_a_connection_is_one_and_its_owners() {
    if socket().is_none() {
        return;
    }
    let mut world = World::new("mpa");
    world.enter('s');
    answer(at(SERVER, 80));
    world.enter('c');
    let to = at(SERVER, 80);
    setfsuid(Uid::from_raw(1_234));
    let client = socket().unwrap();
    setfsuid(Uid::from_raw(0));
    client.connect(&to.into()).unwrap();
    talk(&client);
    drop(client);
    world.until("it", |w| w.established(to) >= 1);
    settle(&mut world);
    let edges = world.outbound(to);
    assert_eq!(edges.len(), 1, "{edges:?}");
    assert_eq!((edges[0].0, edges[0].1.established), (Arrival::Nowhere, 1));
    assert_eq!(accepted(&world, world.server, 80), 1);
    let mut deltas = world.deltas.iter();
    let owner = deltas.find(|d| d.key.remote == to).unwrap().key.owner;
    assert_eq!(owner.uid, 1_234, "{owner:?}");
    world.assert_no_loss();
}

#[test]
fn redirected_to_a_proxy_that_listens_for_both_it_arrives_there() {
    if socket().is_none() {
        return;
    }
    let mut world = World::new("mpr");
    world.redirect(80, PROXY);
    world.enter('c');
    answer(at("127.0.0.1", PROXY));
    let to = at(SERVER, 80);
    talk(TcpStream::connect(to).unwrap());
    let both = socket().unwrap();
    both.connect(&to.into()).unwrap();
    talk(&both);
    drop(both);
    world.until("both", |w| w.established(to) >= 2);
    settle(&mut world);
    let arrived: Vec<_> = world.outbound(to);
    let arrived: Vec<_> = arrived.iter().map(|(a, c)| (*a, c.established)).collect();
    assert_eq!(arrived, [(Arrival::Port(PROXY), 2)]);
    assert_eq!(accepted(&world, world.client, PROXY), 2);
    world.assert_no_loss();
}

#[test]
fn one_who_does_not_answer_in_it_is_counted_once() {
    if socket().is_none() {
        return;
    }
    let mut world = World::new("mpf");
    world.enter('s');
    serve(at(SERVER, 80));
    world.enter('c');
    let to = at(SERVER, 80);
    let client = socket().unwrap();
    client.connect(&to.into()).unwrap();
    drop(client);
    let refused = at(SERVER, 81);
    assert!(socket().unwrap().connect(&refused.into()).is_err());
    world.until("both", |w| {
        w.established(to) >= 1 && w.outbound(refused).iter().any(|(_, c)| c.refused > 0)
    });
    settle(&mut world);
    assert_eq!(world.established(to), 1);
    let failed = world.outbound(refused);
    assert_eq!(
        failed.iter().map(|(_, c)| c.refused).sum::<u64>(),
        1,
        "{failed:?}"
    );
    assert_eq!(accepted(&world, world.server, 80), 1);
    world.assert_no_loss();
}
