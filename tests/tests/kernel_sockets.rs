//! The probes and what programs do with sockets: other owners, full queues, listeners.
//!
//! `cargo test -p sidestep-tests --test kernel_sockets` as root, here or in a VM of the
//! matrix; see `kernel_probes.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use kernel::{PROXY, SERVER, World, at, serve};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use sidestep::model::{Arrival, Signal};
use socket2::{Domain, Socket, Type};

#[test]
fn a_full_accept_queue_is_never_called_direct() {
    let mut world = World::new("ful");
    world.redirect(80, PROXY);
    world.enter('c');
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&at("127.0.0.1", PROXY).into()).unwrap();
    listener.listen(1).unwrap();
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
    // This thread's filesystem ids only, as a socket's creator has them.
    setfsgid(Gid::from_raw(4_321));
    setfsuid(Uid::from_raw(1_234));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    let to = at(SERVER, 80);
    socket.connect(&to.into()).unwrap();
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
