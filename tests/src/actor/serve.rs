//! A small HTTP server: one request, one answer, closed.
//!
//! It speaks just enough HTTP for a real Envoy and for curl. A request `GET /BYTES` is answered with that many bytes.
//! It must never answer before a request came: the client tells the difference between "connected" and "served".

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::counters::Counters;
use super::{ready, sock};

/// What to serve where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Port
    #[arg(long)]
    port: u16,
    /// Addresses to listen on
    #[arg(long = "listen")]
    listen: Vec<IpAddr>,
    /// An IPv6 listener takes IPv4 too
    #[arg(long)]
    dual: bool,
    /// Length of the accept queue
    #[arg(long, default_value_t = 1024)]
    backlog: u32,
    /// Listeners
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// Never accepts
    #[arg(long)]
    no_accept: bool,
    /// One connection at a time, without threads
    #[arg(long)]
    serial: bool,
    /// Closes every connection at once, without an answer
    #[arg(long)]
    hang_up: bool,
    /// Seconds until it answers
    #[arg(long, default_value_t = 0.0)]
    delay: f64,
    /// Answers datagrams over UDP and no connections
    #[arg(long)]
    udp: bool,
    /// Resets every connection once a request came, without an answer
    #[arg(long)]
    reset: bool,
    /// Closes every connection once a request came, without an answer
    #[arg(long)]
    wordless: bool,
    /// File for counters
    #[arg(long)]
    pub(crate) counters: Option<PathBuf>,
}

/// Serves until it is killed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let counters = Arc::new(Counters::open(options.counters.as_deref())?);
    let mut listeners = Vec::new();
    for &addr in &options.listen {
        if options.udp {
            let counters = Arc::clone(&counters);
            let each = move || counters.add(&counters.served);
            sock::echo((addr, options.port).into(), each)?;
            continue;
        }
        for _ in 0..options.workers {
            listeners.push(sock::listen(sock::ListenAt {
                addr: (addr, options.port).into(),
                dual: options.dual,
                backlog: options.backlog,
                reuse_port: options.workers > 1,
                transparent: false,
            })?);
        }
    }
    ready()?;
    for listener in listeners {
        let counters = Arc::clone(&counters);
        let options = options.clone();
        thread::spawn(move || accept(&options, &counters, &listener));
    }
    super::forever()
}

fn accept(options: &Options, counters: &Counters, listener: &TcpListener) {
    if options.no_accept {
        super::forever();
    }
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        counters.add(&counters.served);
        if options.hang_up {
            continue;
        }
        if options.reset || options.wordless {
            let resets = options.reset;
            thread::spawn(move || end(&stream, resets));
            continue;
        }
        let delay = Duration::from_secs_f64(options.delay);
        if options.serial {
            answer_after(&stream, delay);
        } else {
            thread::spawn(move || answer_after(&stream, delay));
        }
    }
}

/// A listener of the sidecar that only its own pod reaches.
pub(crate) fn local(port: u16) -> Result<TcpListener> {
    sock::listen(sock::ListenAt {
        addr: (Ipv4Addr::LOCALHOST, port).into(),
        dual: false,
        backlog: 128,
        reuse_port: false,
        transparent: false,
    })
}

/// Reads something and closes, by a reset if it is to be one.
fn end(mut stream: &TcpStream, resets: bool) {
    let _ = stream.read(&mut [0_u8; 1024]);
    if resets {
        // Without lingering, close(2) sends a reset. A socket that cannot be set so is closed as others are.
        let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Answers one request.
pub(crate) fn answer(stream: &TcpStream) {
    answer_after(stream, Duration::ZERO);
}

fn answer_after(mut stream: &TcpStream, delay: Duration) {
    let mut request = Vec::with_capacity(256);
    let mut buffer = [0_u8; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
        if request.len() > 16_384 {
            return;
        }
    }
    thread::sleep(delay);
    let length = wanted(&request);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // A client that left early is no error of the server.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| body(stream, length));
}

fn wanted(request: &[u8]) -> usize {
    String::from_utf8_lossy(request)
        .split_whitespace()
        .nth(1)
        .and_then(|path| path.trim_start_matches('/').parse().ok())
        .unwrap_or(2)
}

fn body(mut stream: &TcpStream, length: usize) -> std::io::Result<()> {
    let block = [b'.'; 65_536];
    let mut left = length;
    while left > 0 {
        let part = block.get(..left.min(block.len())).unwrap_or_default();
        stream.write_all(part)?;
        left -= part.len();
    }
    Ok(())
}
