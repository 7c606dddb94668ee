//! Links, routes and namespace numbers of the calling thread's network namespace, by rtnetlink(7).
//!
//! One question, one answer; only routing rules, which are few, are listed. Like every netlink socket of a visit it is
//! closed before the visit ends, and nothing is ever changed by it.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    link::{LinkAttribute, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel answers at once; a socket that stays silent is given up.
const PATIENCE_MS: u16 = 500;
const BUFFER: usize = 32 << 10;
/// Answers to one question; a pod has a handful of routing rules.
const MAX_ANSWERS: usize = 64;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        let mut asked = LinkMessage::default();
        asked.header.index = index;
        let Message::NewLink(answer) = self.ask(Message::GetLink(asked))? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(link_of(answer.attributes))
    }

    /// Where packets from one address to another go; `came_in`: that come in by an interface.
    pub(super) fn route(
        &self,
        from: IpAddr,
        to: IpAddr,
        came_in: Option<u32>,
    ) -> io::Result<Route> {
        let mut asked = way(from, to);
        asked.attributes.extend(came_in.map(RouteAttribute::Iif));
        self.way(asked)
    }

    /// Where packets with a mark go that this namespace sends.
    pub(super) fn marked(&self, from: IpAddr, to: IpAddr, mark: u32) -> io::Result<Route> {
        let mut asked = way(from, to);
        asked.attributes.push(RouteAttribute::Mark(mark));
        self.way(asked)
    }

    fn way(&self, asked: RouteMessage) -> io::Result<Route> {
        match self.ask(Message::GetRoute(asked))? {
            Message::NewRoute(answer) => Ok(route_of(&answer)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The table that the first routing rule for packets with this mark names, if there is such a rule.
    pub(super) fn table_for(&self, mark: u32, ipv6: bool) -> io::Result<Option<u32>> {
        let mut asked = RuleMessage::default();
        asked.header.family = match ipv6 {
            false => AddressFamily::Inet,
            true => AddressFamily::Inet6,
        };
        self.send(Message::GetRule(asked), NLM_F_REQUEST | NLM_F_DUMP)?;
        for _ in 0..MAX_ANSWERS {
            let bytes = self.receive()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<Message>::deserialize(rest);
                let answer = answer.map_err(io::Error::other)?;
                match answer.payload {
                    NetlinkPayload::InnerMessage(Message::NewRule(rule)) => {
                        if let Some(table) = table_of(&rule, mark) {
                            return Ok(Some(table));
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(None),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                let length = usize::try_from(answer.header.length).map_err(io::Error::other)?;
                // Messages begin at multiples of four.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(None)
    }

    /// This namespace's number for another one, if it has one.
    pub(super) fn number_of(&self, namespace: &File) -> io::Result<Option<u32>> {
        let fd = u32::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
        let mut asked = NsidMessage::default();
        asked.attributes.push(NsidAttribute::Fd(fd));
        let Message::NewNsId(answer) = self.ask(Message::GetNsId(asked))? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // None is -1.
        Ok(answer.attributes.iter().find_map(|one| match one {
            NsidAttribute::Id(number) => u32::try_from(*number).ok(),
            _ => None,
        }))
    }

    /// Sends a question and waits for the answer.
    fn ask(&self, question: Message) -> io::Result<Message> {
        self.send(question, NLM_F_REQUEST)?;
        let answer = self.receive()?;
        let answer = NetlinkMessage::deserialize(&answer);
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::InnerMessage(message) => Ok(message),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn send(&self, question: Message, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(question);
        request.header.flags = flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(drop)
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut answer = Vec::with_capacity(BUFFER);
        self.0.recv(&mut answer, 0)?;
        Ok(answer)
    }
}

/// The question for a way.
fn way(from: IpAddr, to: IpAddr) -> RouteMessage {
    let mut asked = RouteMessage::default();
    let (family, bits) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    asked.header.address_family = family;
    asked.header.destination_prefix_length = bits;
    asked.header.source_prefix_length = bits;
    asked.attributes = vec![
        RouteAttribute::Destination(to.into()),
        RouteAttribute::Source(from.into()),
    ];
    asked
}

/// The table a routing rule names, if it asks for a mark and this is one.
fn table_of(rule: &RuleMessage, mark: u32) -> Option<u32> {
    let (mut wanted, mut mask, mut table) = (0, u32::MAX, u32::from(rule.header.table));
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => wanted = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    (wanted != 0 && mark & mask == wanted).then_some(table)
}

fn link_of(attributes: Vec<LinkAttribute>) -> Link {
    let mut link = Link::default();
    let (mut peer, mut number) = (None, None);
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => number = u32::try_from(id).ok(),
            LinkAttribute::LinkInfo(all) => {
                link.kind = all.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.peer = peer.zip(number);
    link
}

fn route_of(answer: &RouteMessage) -> Route {
    let (mut out, mut gateway) = (None, None);
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some((*v4).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some((*v6).into()),
            _ => {}
        }
    }
    match (answer.header.kind, out) {
        (RouteType::Local, _) => Route::Here,
        (RouteType::Unicast, Some(index)) => Route::Out { index, gateway },
        _ => Route::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_as_everywhere() -> io::Result<()> {
        let rtnl = Rtnl::open()?;
        let lo = rtnl.link(1)?;
        assert_eq!((lo.name.as_str(), lo.master, lo.peer), ("lo", None, None));
        let here = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(rtnl.route(here, here, None)?, Route::Here);
        assert_eq!(rtnl.marked(here, here, 0x5eed)?, Route::Here);
        assert_eq!(rtnl.table_for(0x5eed, false)?, None);
        assert!(rtnl.link(u32::MAX >> 1).is_err());
        Ok(())
    }
}
