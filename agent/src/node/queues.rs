//! Accept queues of all listening sockets of a network namespace, by sock_diag(7).
//!
//! The kernel answers from the namespace in which the netlink socket was made. It is made,
//! used and closed within one visit: kept open, it would keep the namespace alive.

use std::{io, net::IpAddr, os::fd::AsFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::{Listener, ListenerQueue};

/// Most listening sockets told of one namespace.
const MAX_LISTENERS: usize = 4_096;
/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
/// The kernel fills at most this much at once (`NLMSG_GOODSIZE` and above).
const BUFFER: usize = 32 << 10;

/// Listening TCP sockets of the calling thread's network namespace, of both families. With
/// `SO_REUSEPORT`, several with one address: each has a queue of its own.
///
/// # Errors
/// The kernel cannot say (module `tcp_diag` missing), or netlink failed.
pub fn listening() -> io::Result<Vec<ListenerQueue>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut found = dump(&socket, AF_INET)?;
    // Without IPv6 in the kernel there is nobody to ask about it.
    found.extend(dump(&socket, AF_INET6).unwrap_or_default());
    Ok(found)
}

fn dump(socket: &Socket, family: u8) -> io::Result<Vec<ListenerQueue>> {
    socket.send(&request(family), 0)?;
    let mut found = Vec::new();
    loop {
        wait(socket)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(|error| io::Error::other(error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one))
                    if found.len() < MAX_LISTENERS =>
                {
                    found.push(queue(&one));
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

fn request(family: u8) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
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

fn queue(response: &InetResponse) -> ListenerQueue {
    let header = &response.header;
    let addr = header.socket_id.source_address;
    let v6_only = response.nlas.iter().find_map(|nla| match nla {
        Nla::SkV6Only(only) => Some(*only),
        _ => None,
    });
    let any = matches!(addr, IpAddr::V6(ip) if ip.is_unspecified());
    ListenerQueue {
        listener: Listener {
            addr: addr.to_canonical(),
            port: header.socket_id.source_port,
            dual_stack: any && !v6_only.unwrap_or(false),
        },
        length: header.recv_queue,
        max: header.send_queue,
        uid: header.uid,
    }
}
