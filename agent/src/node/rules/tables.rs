//! Which nftables tables the calling thread's namespace has, asked of the kernel itself.
//!
//! Two netlink messages instead of a program: most namespaces have no tables, and a change
//! since the last look shows in the kernel's generation counter. The kernel would load its
//! module to answer, so it is only asked where the module is there.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    os::fd::AsFd,
    path::Path,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::model::Family;

/// `NFNL_SUBSYS_NFTABLES << 8`.
const SUBSYSTEM: u16 = 10 << 8;
/// Requests and answers of nftables.
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `NLM_F_REQUEST`, and with `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NFTA_TABLE_NAME` and `NFTA_GEN_ID`; the upper bits of a type are flags.
const FIRST_ATTRIBUTE: u16 = 1;
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// Sizes of the headers: netlink's, netfilter's behind it, an attribute's.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
const BUFFER: usize = 32 << 10;
/// Most tables told of a namespace.
const MAX_TABLES: usize = 256;
/// A function of the kernel's nftables, by which it is found where it is built in.
const FUNCTION: &str = " nf_tables_commit";

/// Tables that iptables-nft keeps, if they are its own.
const COMPATIBLE: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// A table of the calling thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// Its name.
    pub(super) name: String,
}

impl Table {
    /// The family of iptables-nft whose table this may be.
    pub(super) fn compatible(&self) -> Option<Family> {
        let named = COMPATIBLE.contains(&self.name.as_str());
        match i32::from(self.family) {
            libc::AF_INET if named => Some(Family::Ipv4),
            libc::AF_INET6 if named => Some(Family::Ipv6),
            _ => None,
        }
    }
}

/// Whether the kernel has nftables.
#[derive(Debug, Default)]
pub(super) struct Nftables {
    built_in: Option<bool>,
}

impl Nftables {
    /// Whether asking would make the kernel load nothing.
    pub(super) fn is_there(&mut self) -> bool {
        // Built in, it has no folder there, and only the kernel's list of functions shows it.
        Path::new("/sys/module/nf_tables").exists()
            || *self.built_in.get_or_insert_with(|| {
                let symbols = File::open("/proc/kallsyms").map(BufReader::new);
                let mut lines = symbols.into_iter().flat_map(|file| file.split(b'\n'));
                lines.any(|line| line.is_ok_and(|line| line.ends_with(FUNCTION.as_bytes())))
            })
    }
}

/// The kernel's count of changes in this namespace, and its tables.
///
/// # Errors
/// The kernel refuses, or netlink failed.
pub(super) fn tables() -> io::Result<(u32, Vec<Table>)> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut generation = 0;
    ask(&socket, GET_GENERATION, REQUEST, |kind, _, value| {
        if kind == NEW_GENERATION && value.len() == 4 {
            generation = value
                .iter()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        }
    })?;
    let mut found = Vec::new();
    ask(&socket, GET_TABLE, DUMP, |kind, family, value| {
        if kind == NEW_TABLE && found.len() < MAX_TABLES {
            let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            found.push(Table { family, name });
        }
    })?;
    Ok((generation, found))
}

/// Sends a request and hands over type, family and first attribute of each answer.
fn ask(
    socket: &Socket,
    kind: u16,
    flags: u16,
    mut tell: impl FnMut(u16, u8, &[u8]),
) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + NETFILTER_HEADER);
    request.extend(20_u32.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8 + NETFILTER_HEADER]);
    socket.send(&request, 0)?;
    loop {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = Vec::with_capacity(BUFFER);
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some((message, more)) = message(rest) {
            match message.kind {
                DONE => return Ok(()),
                ERROR => return error(message.body),
                kind => tell(kind, message.family(), message.first_attribute()),
            }
            rest = more;
        }
        // A single answer has no end of its own.
        if flags == REQUEST {
            return Ok(());
        }
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    /// Value of the attribute of type 1, empty if there is none.
    fn first_attribute(&self) -> &'a [u8] {
        let mut rest = self.body.get(NETFILTER_HEADER..).unwrap_or_default();
        while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let len = usize::from(len);
            if kind & ATTRIBUTE_TYPE == FIRST_ATTRIBUTE {
                return rest.get(ATTRIBUTE_HEADER..len).unwrap_or_default();
            }
            let next = len.max(ATTRIBUTE_HEADER).next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
        &[]
    }
}

/// The first message of some bytes and what follows it.
fn message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let len = usize::try_from(len).ok()?.max(HEADER);
    let message = Message {
        kind: u16_at(bytes, 4)?,
        body: bytes.get(HEADER..len)?,
    };
    let next = len.next_multiple_of(4);
    Some((message, bytes.get(next..).unwrap_or_default()))
}

/// The kernel's error, negative in the first four bytes; 0 is an acknowledgement.
fn error(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(family: u8, name: &str) -> Table {
        Table {
            family,
            name: name.to_owned(),
        }
    }

    #[test]
    fn only_some_tables_may_be_of_iptables() {
        assert_eq!(table(2, "nat").compatible(), Some(Family::Ipv4));
        assert_eq!(table(10, "raw").compatible(), Some(Family::Ipv6));
        assert_eq!(table(1, "nat").compatible(), None);
        assert_eq!(table(2, "mine").compatible(), None);
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..64), len in 0_u8..70) {
            let mut bytes = bytes;
            if let Some(first) = bytes.get_mut(..4) {
                first.copy_from_slice(&[len, 0, 0, 0]);
            }
            if let Some((message, rest)) = message(&bytes) {
                let _ = (message.family(), message.first_attribute(), error(message.body));
                prop_assert!(rest.len() < bytes.len());
            }
        }
    }
}
