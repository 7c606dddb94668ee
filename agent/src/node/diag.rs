//! The kernel's table of TCP sockets of the calling thread's network namespace, by sock_diag(7).
//!
//! The kernel answers from the namespace in which the netlink socket was made. It is made,
//! used and closed within one visit: kept open, it would keep the namespace alive.

use std::{io, os::fd::AsFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
/// The kernel fills at most this much at once (`NLMSG_GOODSIZE` and above).
const BUFFER: usize = 32 << 10;

/// Shows `each` socket in one of these states, of both families; no more once it says no.
///
/// # Errors
/// The kernel cannot say (module `tcp_diag` missing), or netlink failed.
pub(super) fn sockets(
    states: &StateFlags,
    extensions: &ExtensionFlags,
    mut each: impl FnMut(&InetResponse) -> bool,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let more = dump(&socket, &request(AF_INET, states, extensions), &mut each)?;
    if more {
        // Without IPv6 in the kernel there is nobody to ask about it.
        let _ = dump(&socket, &request(AF_INET6, states, extensions), &mut each);
    }
    Ok(())
}

/// Whether more is wanted.
fn dump(
    socket: &Socket,
    request: &[u8],
    each: &mut impl FnMut(&InetResponse) -> bool,
) -> io::Result<bool> {
    socket.send(request, 0)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        wait(socket)?;
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(|error| io::Error::other(error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one)) if !each(&one) => {
                    return Ok(false);
                }
                _ => {}
            }
            // Records start at multiples of four bytes.
            let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            rest = rest
                .get(len.max(1).next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}

fn request(family: u8, states: &StateFlags, extensions: &ExtensionFlags) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: extensions.clone(),
        states: states.clone(),
        socket_id: if family == AF_INET {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn wait(socket: &Socket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE_MS))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
