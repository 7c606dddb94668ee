//! Sockets as real programs make them: listeners of every kind, original destinations, a relay.
//!
//! It must never set an option that was not asked for: `IPV6_V6ONLY`, `SO_REUSEPORT` and backlog decide what the agent
//! has to recognise.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// A listener to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenAt {
    /// Address and port.
    pub(crate) addr: SocketAddr,
    /// Takes IPv4 on an IPv6 socket.
    pub(crate) dual: bool,
    /// Length of the accept queue.
    pub(crate) backlog: u32,
    /// `SO_REUSEPORT`.
    pub(crate) reuse_port: bool,
    /// Takes connections to any address (`IP_TRANSPARENT`).
    pub(crate) transparent: bool,
}

/// Opens a listener.
pub(crate) fn listen(at: ListenAt) -> Result<TcpListener> {
    open_listener(at).with_context(|| format!("cannot listen on {}", at.addr))
}

fn open_listener(at: ListenAt) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(at.addr),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if at.addr.is_ipv6() {
        socket.set_only_v6(!at.dual)?;
    }
    if at.reuse_port {
        socket.set_reuse_port(true)?;
    }
    match (at.transparent, at.addr.is_ipv4()) {
        (true, true) => socket.set_ip_transparent_v4(true)?,
        (true, false) => socket.set_ip_transparent_v6(true)?,
        (false, _) => {}
    }
    socket.bind(&at.addr.into())?;
    socket.listen(i32::try_from(at.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Answers every datagram to a port with itself, for ever; `each` is called for every one.
pub(crate) fn echo(addr: SocketAddr, each: impl Fn() + Send + 'static) -> Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket
        .bind(&addr.into())
        .with_context(|| format!("cannot bind UDP {addr}"))?;
    let socket: UdpSocket = socket.into();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        loop {
            // An error is some earlier peer's that is gone.
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                each();
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
        }
    });
    Ok(())
}

/// Sends a datagram and waits for its answer.
pub(crate) fn ask(socket: Socket, to: SocketAddr, timeout: Duration) -> io::Result<()> {
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(to)?;
    socket.send(b"question")?;
    socket.recv(&mut [0; 64]).map(drop)
}

/// Where the peer of an accepted connection wanted to go before it was redirected; `None` if it was not.
pub(crate) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = plain(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    // Conntrack keeps v4-mapped connections as IPv4.
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let original = original.ok()?.as_socket()?;
    (original != local).then_some(original)
}

/// `::ffff:a.b.c.d` as the IPv4 address it is.
pub(crate) fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// From where a connection is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct From {
    /// Addresses, of which the one of the destination's family is taken.
    pub(crate) source: Vec<std::net::IpAddr>,
    /// They are not addresses of this host (`IP_TRANSPARENT`).
    pub(crate) foreign: bool,
    /// `SO_MARK`.
    pub(crate) mark: Option<u32>,
}

/// Opens a connection.
pub(crate) fn dial(to: SocketAddr, from: &From, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mark) = from.mark {
        socket.set_mark(mark)?;
    }
    let mut source = from.source.iter();
    if let Some(ip) = source.find(|ip| ip.is_ipv4() == to.is_ipv4()) {
        match (from.foreign, ip.is_ipv4()) {
            (true, true) => socket.set_ip_transparent_v4(true)?,
            (true, false) => socket.set_ip_transparent_v6(true)?,
            (false, _) => {}
        }
        socket.bind(&SocketAddr::new(*ip, 0).into())?;
    }
    // SO_SNDTIMEO bounds a blocking connect(2), which is what most programs do.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&to.into())?;
    socket.set_write_timeout(None)?;
    Ok(socket.into())
}

/// Copies both ways until both ends are done.
pub(crate) fn relay(left: &TcpStream, right: &TcpStream) -> io::Result<()> {
    let mut open = [true, true];
    let mut buffer = vec![0_u8; 65_536];
    while open.contains(&true) {
        let flags = |open| {
            if open {
                PollFlags::POLLIN
            } else {
                PollFlags::empty()
            }
        };
        let mut polled = [
            PollFd::new(left.as_fd(), flags(open[0])),
            PollFd::new(right.as_fd(), flags(open[1])),
        ];
        poll(&mut polled, PollTimeout::NONE)?;
        let ready = polled.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        for (index, (from, to)) in [(left, right), (right, left)].into_iter().enumerate() {
            if open[index] && ready[index] {
                open[index] = pass_on(from, to, &mut buffer)?;
            }
        }
        // Both directions dead but one still "open": a hang-up is not readable data.
        if open == [false, true] && !ready[1] && ready[0]
            || open == [true, false] && !ready[0] && ready[1]
        {
            return Ok(());
        }
    }
    Ok(())
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream, buffer: &mut [u8]) -> io::Result<bool> {
    let length = from.read(buffer)?;
    if length == 0 {
        // The other end may be gone already; that is no error of this direction.
        let _ = to.shutdown(Shutdown::Write);
        return Ok(false);
    }
    to.write_all(buffer.get(..length).unwrap_or_default())?;
    Ok(true)
}
