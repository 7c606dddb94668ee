//! One connection, made for real, and where it came out.
//!
//! The socket is made under the user and group that the rules shall see; what comes back is what the listeners on both
//! sides say of themselves. It must never guess: whoever connects and hears nothing is an error.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Socket, Type};

use crate::world::Place;

/// The cable has no delay: whoever is silent for so long was dropped. Less than a SYN's first retransmission.
const PATIENCE: Duration = Duration::from_millis(400);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Somebody answered: on which side, on which port.
    Reached(Place, u16),
    /// Refused, or told that it cannot be.
    Refused,
    /// Nothing came back.
    Silent,
    /// Connected, and nothing or a reset came back then: rules may let the first packet pass and not the next.
    Mute,
}

/// Connects, as a socket of this user and group, from where the calling thread is. `from` is bound as it is: the port must be
/// one that no earlier connection had, or connection tracking may still remember what became of that one.
pub(crate) fn dial(to: SocketAddr, from: SocketAddr, uid: u32, gid: u32) -> Result<Seen> {
    let socket = socket_of(Domain::for_address(to), uid, gid)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into()).context("cannot bind")?;
    match socket.connect_timeout(&to.into(), PATIENCE) {
        Ok(()) => answer(socket.into()),
        Err(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Seen::Silent),
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied => Ok(Seen::Refused),
            // What answers the first packet with a reset refuses. This one came after an answer: over loopback the next
            // packet is sent, and rejected, before connect(2) returns.
            ErrorKind::ConnectionReset => Ok(Seen::Mute),
            _ => Err(error).with_context(|| format!("connecting to {to}")),
        },
    }
}

/// What netfilter compares is what the thread was when it made the socket.
fn socket_of(domain: Domain, uid: u32, gid: u32) -> Result<Socket> {
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let socket = Socket::new(domain, Type::STREAM, None);
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    socket.context("cannot make a socket")
}

fn answer(mut stream: TcpStream) -> Result<Seen> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE * 5))?;
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(Seen::Mute);
        }
        Err(error) => return Err(error).context("connected, and nobody said who it is"),
    }
    let (side, port) = text
        .trim()
        .split_once(' ')
        .context("an answer of another kind")?;
    let place = if side == "pod" {
        Place::Pod
    } else {
        Place::Peer
    };
    Ok(Seen::Reached(place, port.parse()?))
}
