//! The kernel's table of TCP sockets of the calling thread's network namespace, by sock_diag(7).
//!
//! The kernel answers from the namespace in which the netlink socket was made. It is made,
//! used and closed within one visit: kept open, it would keep the namespace alive.
//!
//! A look walks the table of the whole machine, whoever asks: its size and everything that
//! waits for its time to pass (`TIME_WAIT`) is what it costs. So it is walked once for both
//! families, which only the older of the two requests can ask for. Records are read where they lie.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use netlink_sys::{Socket, SocketAddr as Port, protocols::NETLINK_SOCK_DIAG};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
/// The kernel fills at most this much at once (`NLMSG_GOODSIZE` and above).
const BUFFER: usize = 32 << 10;

/// TCP states as the kernel numbers them.
pub(super) mod state {
    pub(in super::super) const ESTABLISHED: u8 = 1;
    pub(in super::super) const SYN_SENT: u8 = 2;
    pub(in super::super) const FIN_WAIT1: u8 = 4;
    pub(in super::super) const FIN_WAIT2: u8 = 5;
    pub(in super::super) const TIME_WAIT: u8 = 6;
    pub(in super::super) const CLOSE_WAIT: u8 = 8;
    pub(in super::super) const LAST_ACK: u8 = 9;
    pub(in super::super) const LISTEN: u8 = 10;
    pub(in super::super) const CLOSING: u8 = 11;
}

/// `INET_DIAG_INFO`: `struct tcp_info`.
pub(super) const INFO: u8 = 2;
/// `INET_DIAG_SKV6ONLY`: one byte.
pub(super) const V6_ONLY: u8 = 11;

/// `TCPDIAG_GETSOCK`: the request that asks for both families, and the type of its answers.
const GET_SOCKETS: u16 = 18;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `struct nlmsghdr`, `struct inet_diag_req`, `struct inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 60;
const RECORD: usize = 72;
const FAMILY_V6: u8 = 10;
/// The timer that repeats what was not acknowledged, and the one that asks whether there is room
/// for more: also where the kernel itself would not let it go.
const TIMERS_REPEAT: [u8; 2] = [1, 4];

/// One socket: `struct inet_diag_msg` and the attributes after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    fixed: &'a [u8; RECORD],
    attributes: &'a [u8],
}

/// Shows `each` socket in one of these states, of both families; no more once it says no.
/// `extension` is an attribute to be told with each.
///
/// # Errors
/// The kernel cannot say (module `tcp_diag` missing), or netlink failed.
pub(super) fn sockets(
    states: &[u8],
    extension: Option<u8>,
    mut each: impl FnMut(Record<'_>) -> bool,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Port::new(0, 0))?;
    socket.send(&request(states, extension), 0)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        wait(&socket)?;
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if !messages(&buffer, &mut each)? {
            return Ok(());
        }
    }
}

/// Whether there is more to come, and more wanted.
fn messages(mut rest: &[u8], each: &mut impl FnMut(Record<'_>) -> bool) -> io::Result<bool> {
    let short = || io::Error::other("an answer of the kernel is cut short");
    while !rest.is_empty() {
        let len = u32_at(rest, 0).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| *len >= HEADER).ok_or_else(short)?;
        let body = rest.get(HEADER..len).ok_or_else(short)?;
        match u16_at(rest, 4) {
            Some(DONE) => return Ok(false),
            Some(ERROR) => {
                let code = u32_at(body, 0).ok_or_else(short)?.cast_signed();
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            Some(GET_SOCKETS) => {
                let (fixed, attributes) = body.split_first_chunk().ok_or_else(short)?;
                if !each(Record { fixed, attributes }) {
                    return Ok(false);
                }
            }
            _ => {}
        }
        // Messages start at multiples of four bytes.
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn request(states: &[u8], extension: Option<u8>) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, value: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    };
    put(0, &76_u32.to_ne_bytes());
    put(4, &GET_SOCKETS.to_ne_bytes());
    put(6, &DUMP.to_ne_bytes());
    put(HEADER + 3, &[extension.map_or(0, |one| 1 << (one - 1))]);
    let states = states.iter().fold(0_u32, |all, state| all | 1 << state);
    put(HEADER + 52, &states.to_ne_bytes());
    bytes
}

fn wait(socket: &Socket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE_MS))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

impl<'a> Record<'a> {
    /// One of [`state`].
    pub(super) fn state(&self) -> u8 {
        self.fixed[1]
    }

    /// How often what waits for an answer was sent again.
    pub(super) fn retransmits(&self) -> u8 {
        if TIMERS_REPEAT.contains(&self.fixed[2]) {
            self.fixed[3]
        } else {
            0
        }
    }

    /// Own end; an IPv4 address in IPv6's clothes is told as what it is only by
    /// [`IpAddr::to_canonical`].
    pub(super) fn local(&self) -> SocketAddr {
        self.end(4, 8)
    }

    /// The other end.
    pub(super) fn remote(&self) -> SocketAddr {
        self.end(6, 24)
    }

    fn end(&self, port: usize, address: usize) -> SocketAddr {
        let port = self.fixed.get(port..).and_then(|at| at.first_chunk());
        let port = u16::from_be_bytes(port.copied().unwrap_or_default());
        let address = self.fixed.get(address..).unwrap_or_default();
        let ip: IpAddr = if self.fixed[0] == FAMILY_V6 {
            let bytes: [u8; 16] = address.first_chunk().copied().unwrap_or_default();
            Ipv6Addr::from(bytes).into()
        } else {
            let bytes: [u8; 4] = address.first_chunk().copied().unwrap_or_default();
            Ipv4Addr::from(bytes).into()
        };
        (ip, port).into()
    }

    /// The kernel's number of the socket.
    pub(super) fn cookie(&self) -> u64 {
        let bytes = self.fixed.get(44..).and_then(|at| at.first_chunk());
        u64::from_ne_bytes(bytes.copied().unwrap_or_default())
    }

    /// Bytes not read; connections not accepted, for one that listens.
    pub(super) fn receive_queue(&self) -> u32 {
        self.word(56)
    }

    /// Bytes not acknowledged; the most that may wait, for one that listens.
    pub(super) fn send_queue(&self) -> u32 {
        self.word(60)
    }

    /// Whose it is.
    pub(super) fn uid(&self) -> u32 {
        self.word(64)
    }

    /// Inode of the socket's file, 0 without one.
    pub(super) fn inode(&self) -> u32 {
        self.word(68)
    }

    fn word(&self, at: usize) -> u32 {
        u32_at(self.fixed, at).unwrap_or_default()
    }

    /// The attribute of this kind.
    pub(super) fn attribute(&self, kind: u8) -> Option<&'a [u8]> {
        let mut rest = self.attributes;
        loop {
            let len = usize::from(u16_at(rest, 0)?);
            let value = rest.get(4..len)?;
            if u16_at(rest, 2)? == u16::from(kind) {
                return Some(value);
            }
            rest = rest.get(len.next_multiple_of(4)..)?;
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::net::{TcpListener, TcpStream};

    use super::{INFO, Record, messages, sockets, state};

    /// Ports of what is found on these two listeners.
    fn found(states: &[u8], ports: [u16; 2]) -> [usize; 2] {
        let mut found = [0; 2];
        sockets(states, Some(INFO), |one: Record<'_>| {
            for (count, port) in found.iter_mut().zip(ports) {
                if one.local().port() == port {
                    assert!(one.attribute(INFO).is_some_and(|info| info.len() > 100));
                    *count += 1;
                }
            }
            true
        })
        .unwrap();
        found
    }

    #[test]
    fn one_walk_shows_both_families() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let ports = [&four, &six].map(|one| one.local_addr().unwrap().port());
        assert_eq!(found(&[state::LISTEN], ports), [1, 1]);
        assert_eq!(found(&[state::ESTABLISHED], ports), [0, 0]);
        let clients = [&four, &six].map(|one| TcpStream::connect(one.local_addr().unwrap()));
        assert_eq!(found(&[state::ESTABLISHED], ports), [1, 1]);
        drop(clients);
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_not_a_panic() {
        let whole = super::request(&[state::LISTEN], None);
        for len in 1..whole.len() {
            assert!(messages(&whole[..len], &mut |_| true).is_err(), "{len}");
        }
    }
}
