//! Links, routes and namespace numbers of the calling thread's network namespace, by rtnetlink(7).
//!
//! One question, one answer: nothing is listed. Like every netlink socket of a visit it is
//! closed before the visit ends, and nothing is ever changed by it.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `RTM_GETLINK`, `RTM_GETROUTE`, `RTM_GETNSID`.
const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const GET_NSID: u16 = 90;
/// `NLM_F_REQUEST`, `NLMSG_ERROR`.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// Sizes of the headers: netlink's, and behind it a link's, a route's, a namespace's.
const HEADER: usize = 16;
const LINK: usize = 16;
const ROUTE: usize = 12;
const NSID: usize = 4;
/// The upper bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// `RTN_UNICAST`, `RTN_LOCAL`.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
const BUFFER: usize = 32 << 10;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    /// `veth`, `bridge`, …; absent for a device of hardware.
    pub(super) kind: Option<String>,
    /// What it is enslaved to.
    pub(super) master: Option<u32>,
    /// Index of its other end, and this namespace's number for the one which that is in.
    pub(super) peer: Option<(u32, u32)>,
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this namespace.
    Here,
    /// Out by the interface of this index.
    Out { index: u32, gateway: Option<IpAddr> },
    /// Nowhere.
    Nowhere,
}

/// A way to ask.
pub(super) struct Rtnl(Socket);

impl Rtnl {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// An interface by its index.
    pub(super) fn link(&self, index: u32) -> io::Result<Link> {
        let mut body = [0; LINK];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let answer = self.ask(GET_LINK, &body, &[])?;
        let attributes = answer.get(LINK..).unwrap_or_default();
        let number = |kind| attribute(attributes, kind).and_then(u32_of);
        let name = attribute(attributes, 3).map(text_of).unwrap_or_default();
        let kind = attribute(attributes, 18).and_then(|info| attribute(info, 1));
        Ok(Link {
            name,
            kind: kind.map(text_of),
            master: number(10),
            peer: number(5).zip(number(37)),
        })
    }

    /// Where packets from one address to another go; `came_in`: that come in by an interface.
    pub(super) fn route(
        &self,
        from: IpAddr,
        to: IpAddr,
        came_in: Option<u32>,
    ) -> io::Result<Route> {
        let mut body = [0; ROUTE];
        let (family, bits) = match to {
            IpAddr::V4(_) => (libc::AF_INET, 32),
            IpAddr::V6(_) => (libc::AF_INET6, 128),
        };
        body[0] = u8::try_from(family).unwrap_or_default();
        (body[1], body[2]) = (bits, bits);
        let (from, to) = (bytes_of(from), bytes_of(to));
        let index = came_in.unwrap_or_default().to_ne_bytes();
        let mut asked: Vec<(u16, &[u8])> = vec![(1, &to), (2, &from)];
        asked.extend(came_in.map(|_| (3, index.as_slice())));
        let answer = self.ask(GET_ROUTE, &body, &asked)?;
        let attributes = answer.get(ROUTE..).unwrap_or_default();
        let out = attribute(attributes, 4).and_then(u32_of);
        Ok(match (answer.get(7), out) {
            (Some(&LOCAL), _) => Route::Here,
            (Some(&UNICAST), Some(index)) => Route::Out {
                index,
                // `RTA_VIA` has a family before an address of the other one.
                gateway: attribute(attributes, 5)
                    .or_else(|| attribute(attributes, 18)?.get(2..))
                    .and_then(address_of),
            },
            _ => Route::Nowhere,
        })
    }

    /// This namespace's number for another one, if it has one.
    pub(super) fn number_of(&self, namespace: &File) -> io::Result<Option<u32>> {
        let fd = namespace.as_raw_fd().to_ne_bytes();
        let answer = self.ask(GET_NSID, &[0; NSID], &[(3, &fd)])?;
        let number = attribute(answer.get(NSID..).unwrap_or_default(), 1).and_then(u32_of);
        // None is -1.
        Ok(number.filter(|number| *number != u32::MAX))
    }

    /// Sends a question; the answer without its header.
    fn ask(&self, kind: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> io::Result<Vec<u8>> {
        let mut request = Vec::with_capacity(128);
        request.extend([0; 4]);
        request.extend(kind.to_ne_bytes());
        request.extend(REQUEST.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        for (kind, value) in attributes {
            let len = u16::try_from(value.len() + 4).unwrap_or_default();
            request.extend(len.to_ne_bytes());
            request.extend(kind.to_ne_bytes());
            request.extend(*value);
            request.resize(request.len().next_multiple_of(4), 0);
        }
        let len = u32::try_from(request.len()).unwrap_or_default();
        request[..4].copy_from_slice(&len.to_ne_bytes());
        self.0.send(&request, 0)?;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut answer = Vec::with_capacity(BUFFER);
        self.0.recv(&mut answer, 0)?;
        let body = answer.get(HEADER..).unwrap_or_default().to_vec();
        match u16_at(&answer, 4) {
            Some(ERROR) => Err(body.get(..4).and_then(u32_of).map_or_else(
                || io::ErrorKind::InvalidData.into(),
                |code| io::Error::from_raw_os_error(code.wrapping_neg().cast_signed()),
            )),
            Some(_) => Ok(body),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Value of an attribute.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = usize::from(len);
        if kind & ATTRIBUTE_TYPE == wanted {
            return rest.get(4..len);
        }
        rest = rest.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text_of(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_interface_is_as_everywhere() -> io::Result<()> {
        let rtnl = Rtnl::open()?;
        let lo = rtnl.link(1)?;
        assert_eq!((lo.name.as_str(), lo.master, lo.peer), ("lo", None, None));
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(rtnl.route(here, here, None)?, Route::Here);
        assert!(rtnl.link(u32::MAX >> 1).is_err());
        Ok(())
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..64), wanted in 0_u16..40) {
            let found = attribute(&bytes, wanted);
            prop_assert!(found.is_none_or(|value| value.len() < bytes.len()));
        }
    }
}
