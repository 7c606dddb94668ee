//! What the probes add to one redirected, proxied connection.
//!
//! In a machine that counts instructions (`-icount shift=0,sleep=off`) a nanosecond is an
//! instruction, and the numbers repeat. Anywhere else they are only printed. Not part of
//! `cargo test`'s verdict: `cargo xtask bench` compares with the targets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a measurement: a panic ends it"
)]

mod kernel;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use kernel::{SERVER, World, at};
use sidestep::probe::{ProbeOptions, Probes};

/// Answers every byte with a byte.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
    });
}

/// Passes one byte each way between a client and the server.
fn proxy(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut client = stream.unwrap();
            let mut server = TcpStream::connect(at(SERVER, 8080)).unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            server.write_all(&byte).unwrap();
            server.read_exact(&mut byte).unwrap();
            client.write_all(&byte).unwrap();
        }
    });
}

/// Nanoseconds per connection.
fn measure(connections: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(at(SERVER, 80)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(connections)
}

#[test]
#[ignore = "a measurement, see the top"]
fn instructions_per_connection() {
    let mut world = World::new("cost");
    world.redirect(80, 15_001);
    world.enter('s');
    echo(TcpListener::bind(at(SERVER, 8080)).unwrap());
    world.enter('c');
    proxy(TcpListener::bind(at("127.0.0.1", 15_001)).unwrap());
    // Few connections: closed ones stay in connection tracking's table, and a long chain
    // there costs more than any probe.
    for round in 0..2 {
        for kprobes in [false, true] {
            world.probes = None;
            let base = settled();
            world.probes = Some(Probes::start(&ProbeOptions { kprobes }).unwrap());
            let with = settled();
            println!(
                "round {round}: base {base:.0}, kprobes {kprobes}: {with:.0} = {:+.2} %",
                (with / base - 1.0) * 100.0
            );
        }
    }
}

/// Measures after a pause and a warm-up.
fn settled() -> f64 {
    std::thread::sleep(std::time::Duration::from_millis(500));
    measure(100);
    measure(300)
}
