//! The toy proxy: a sidecar as small as it can be and still be one.
//!
//! It listens on the mesh's capture ports, asks netfilter where the connection wanted to go, and dials there itself; on
//! the inbound side with the mesh's own source address (127.0.0.6), because the rules know it by that. It exists for
//! speed: it starts in milliseconds where Envoy needs a tenth of a second and 65 MB.
//!
//! It must never dial its own capture port: a connection that was not redirected is answered as one to itself, or closed.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::counters::Counters;
use super::{ready, serve, sock};

/// How the sidecar behaves.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Outbound capture port
    #[arg(long)]
    outbound: Option<u16>,
    /// Inbound capture port
    #[arg(long)]
    inbound: Option<u16>,
    /// Other ports of the sidecar (health, metrics), answered by itself
    #[arg(long)]
    own: Vec<u16>,
    /// Other ports of the sidecar on 127.0.0.1 only (admin)
    #[arg(long)]
    admin: Vec<u16>,
    /// Port of its resolver, over UDP
    #[arg(long)]
    dns: Option<u16>,
    /// Addresses to listen on
    #[arg(long = "listen")]
    listen: Vec<IpAddr>,
    /// An IPv6 listener takes IPv4 too
    #[arg(long)]
    dual: bool,
    /// Source addresses for connections to the own app
    #[arg(long)]
    inbound_source: Vec<IpAddr>,
    /// Mark on its own packets (`SO_MARK`), by which the rules know them
    #[arg(long)]
    mark: Option<u32>,
    /// Dials the app from the address of the peer
    #[arg(long)]
    keep_source: bool,
    /// What arrives inbound kept its destination (TPROXY): the local address is the original one
    #[arg(long)]
    transparent: bool,
    /// Dials the app at this address and not at the one the peer asked for
    #[arg(long)]
    app_address: Option<IpAddr>,
    /// Length of the accept queues
    #[arg(long, default_value_t = 1024)]
    backlog: u32,
    /// Listeners per capture port
    #[arg(long, default_value_t = 1)]
    workers: u16,
    /// Never accepts on the capture ports
    #[arg(long)]
    no_accept: bool,
    /// Never reads what it accepted on the capture ports
    #[arg(long)]
    no_read: bool,
    /// Reads what it accepted on the capture ports and dials nowhere
    #[arg(long)]
    no_dial: bool,
    /// Never closes a connection that its peer has closed
    #[arg(long)]
    no_close: bool,
    /// Seconds it takes to accept one connection on the capture ports
    #[arg(long, default_value_t = 0.0)]
    accept_takes: f64,
    /// MiB of memory that it keeps of each connection on the capture ports, for good
    #[arg(long, default_value_t = 0)]
    keeps: usize,
    /// One connection at a time, without threads
    #[arg(long)]
    serial: bool,
    /// File for counters
    #[arg(long)]
    pub(crate) counters: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outbound,
    Inbound,
    Own,
}

struct Shared {
    options: Options,
    counters: Counters,
}

/// Proxies until it is killed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let shared = Arc::new(Shared {
        options: options.clone(),
        counters: Counters::open(options.counters.as_deref())?,
    });
    let mut listeners = Vec::new();
    for (port, side) in sides(options) {
        for &addr in &options.listen {
            for _ in 0..options.workers {
                let at = sock::ListenAt {
                    addr: (addr, port).into(),
                    dual: options.dual,
                    backlog: options.backlog,
                    reuse_port: options.workers > 1,
                    transparent: options.transparent && side == Side::Inbound,
                };
                listeners.push((side, sock::listen(at)?));
            }
        }
    }
    for addr in &options.listen {
        // Where the redirected queries arrive; an answer from anywhere else is nobody's.
        let addr: IpAddr = match addr {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        if let Some(port) = options.dns {
            let shared = Arc::clone(&shared);
            let each = move || shared.counters.add(&shared.counters.served);
            sock::echo((addr, port).into(), each)?;
        }
    }
    for &port in &options.admin {
        listeners.push((Side::Own, serve::local(port)?));
    }
    ready()?;
    for (side, listener) in listeners {
        let shared = Arc::clone(&shared);
        thread::spawn(move || accept(&shared, side, &listener));
    }
    super::forever()
}

fn sides(options: &Options) -> Vec<(u16, Side)> {
    let outbound = options.outbound.iter().map(|port| (*port, Side::Outbound));
    let inbound = options.inbound.iter().map(|port| (*port, Side::Inbound));
    let own = options.own.iter().map(|port| (*port, Side::Own));
    outbound.chain(inbound).chain(own).collect()
}

fn accept(shared: &Arc<Shared>, side: Side, listener: &TcpListener) {
    if shared.options.no_accept && side != Side::Own {
        super::forever();
    }
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if side != Side::Own {
            thread::sleep(Duration::from_secs_f64(shared.options.accept_takes));
            // Written to, or the kernel would not give it.
            std::mem::forget(vec![1_u8; shared.options.keeps << 20]);
        }
        if shared.options.serial {
            handle(shared, side, &stream);
        } else {
            let shared = Arc::clone(shared);
            thread::spawn(move || handle(&shared, side, &stream));
        }
    }
}

fn handle(shared: &Shared, side: Side, downstream: &TcpStream) {
    let counters = &shared.counters;
    let mut from = sock::From::default();
    if !shared.options.transparent || side == Side::Inbound {
        from.mark = shared.options.mark;
    }
    match side {
        Side::Own => {
            counters.add(&counters.served);
            serve::answer(downstream);
            return;
        }
        Side::Outbound => {
            counters.add(&counters.outbound);
        }
        Side::Inbound => {
            counters.add(&counters.inbound);
            from.source.clone_from(&shared.options.inbound_source);
            if shared.options.keep_source {
                let peer = downstream.peer_addr().map(sock::plain);
                from.source.extend(peer.map(|peer| peer.ip()));
                from.foreign = true;
            }
        }
    }
    let Some(to) = wanted(shared, side, downstream) else {
        if side == Side::Outbound {
            // Nobody redirected it: it is the proxy itself that is meant.
            serve::answer(downstream);
        }
        return;
    };
    if shared.options.no_read || shared.options.no_dial {
        swallow(downstream, !shared.options.no_read);
        super::forever();
    }
    match sock::dial(target(shared, side, to), &from, Duration::from_secs(5)) {
        Ok(upstream) => {
            counters.add(&counters.dialed);
            // Either end may reset; what it came to is the ends' business.
            let _ = sock::relay(downstream, &upstream);
            if shared.options.no_close {
                super::forever();
            }
        }
        Err(error) => {
            counters.add(&counters.dial_failed);
            let _ = writeln!(std::io::stderr(), "cannot dial {to}: {error}");
        }
    }
}

/// Where the peer wanted to go; `None` if it was the proxy itself.
fn wanted(shared: &Shared, side: Side, downstream: &TcpStream) -> Option<SocketAddr> {
    if side != Side::Inbound || !shared.options.transparent {
        return sock::original_destination(downstream);
    }
    let local = sock::plain(downstream.local_addr().ok()?);
    (Some(local.port()) != shared.options.inbound).then_some(local)
}

/// Takes what comes, if it reads at all, and does nothing with it.
fn swallow(mut downstream: &TcpStream, reads: bool) {
    let mut buffer = [0_u8; 4096];
    while reads && downstream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

fn target(shared: &Shared, side: Side, to: SocketAddr) -> SocketAddr {
    match (side, shared.options.app_address) {
        (Side::Inbound, Some(ip)) => SocketAddr::new(ip, to.port()),
        _ => to,
    }
}
