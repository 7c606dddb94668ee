//! The first packet of a connection on its way, and what a condition says about it.
//!
//! Every value may be unknown, in part or whole, and every answer allows for that. What a condition says about something
//! that the packet does not have differs between the two dialects; both are here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::connection::{Connection, Interface, Protocol};
use super::super::matching::{Field, Match, Test, address_kind, listener, state};
use super::super::ruleset::{Action, Hook, MarkOf, SetMark};
use super::answer::{
    Answer, Bits, any_bit, both, either, is_everything, named, number, within, yes_or_no,
};

/// A field's value.
enum Datum {
    Bits(Bits),
    /// There is none: no test holds, its negation does.
    Missing,
    /// There is none, and neither test nor negation holds.
    Never,
}

/// How far connection tracking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    /// It has not seen the packet.
    Before,
    Tracked,
    /// A rule excluded it.
    Untracked,
}

/// The packet as it is at one point of its way.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    pub(super) connection: &'a Connection,
    /// Absent: not known, but one of the namespace.
    pub(super) destination: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) mark: Bits,
    pub(super) connection_mark: Bits,
    pub(super) tracking: Tracking,
    /// A destination was set or left alone for good.
    pub(super) destination_done: bool,
    pub(super) source_done: bool,
    pub(super) is_redirected: bool,
    pub(super) source_known: bool,
    /// A listener that took it as it is.
    pub(super) tproxy: Option<(Option<IpAddr>, u16)>,
    pub(super) came_in: Option<Interface>,
    pub(super) goes_out: Option<Interface>,
    /// Whether a socket of the namespace is attached.
    pub(super) has_socket: bool,
}

impl<'a> Packet<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            destination: Some(connection.destination.ip()),
            port: connection.destination.port(),
            mark: Bits::from(connection.mark),
            connection_mark: Bits::all(0),
            tracking: Tracking::Before,
            destination_done: false,
            source_done: false,
            is_redirected: false,
            source_known: !connection.source.ip().is_unspecified(),
            tproxy: None,
            came_in: None,
            goes_out: None,
            has_socket: false,
        }
    }

    /// Whether it is for this namespace, if that is known.
    pub(super) fn is_local(&self) -> Option<bool> {
        self.destination
            .map_or(Some(true), |address| self.connection.is_local(address))
    }

    pub(super) fn set_mark(&mut self, set: SetMark) {
        let tracked = self.tracking == Tracking::Tracked;
        let about_connection =
            set.on == MarkOf::Connection || matches!(set.from, Some((MarkOf::Connection, _)));
        if about_connection && !tracked {
            return;
        }
        let get = |of: MarkOf| match of {
            MarkOf::Packet => self.mark,
            MarkOf::Connection => self.connection_mark,
        };
        let old = get(set.on);
        let (from, mask) = match set.from {
            Some((of, mask)) => (get(of), mask),
            None => (Bits::all(0), 0),
        };
        let new = Bits {
            value: (old.value & set.keep) ^ (from.value & mask) ^ set.xor,
            known: (old.known | !set.keep) & (from.known | !mask),
        };
        match set.on {
            MarkOf::Packet => self.mark = new,
            MarkOf::Connection => self.connection_mark = new,
        }
    }

    /// What a condition says; `native` tells the dialect.
    pub(super) fn answer(&self, condition: &Match, native: bool) -> Answer {
        match (self.test(&condition.test, native), condition.negated) {
            (Answer::Yes, true) => Answer::No,
            (Answer::No, true) => Answer::Yes,
            (answer, _) => answer,
        }
    }

    fn test(&self, test: &Test, native: bool) -> Answer {
        match test {
            Test::Always => Answer::Yes,
            Test::Unknown(_) => Answer::Maybe,
            Test::Number {
                field: Field::EitherPort,
                ranges,
                ..
            } => either(
                number(self.source_port(), u32::MAX, ranges),
                number(Bits::all(u32::from(self.port)), u32::MAX, ranges),
            ),
            Test::Number {
                field,
                mask,
                ranges,
            } => match self.datum(*field, native) {
                Datum::Bits(bits) => number(bits, *mask, ranges),
                Datum::Missing => Answer::No,
                Datum::Never => Answer::Never,
            },
            Test::Bits { field, any } => match self.datum(*field, native) {
                Datum::Bits(bits) => any_bit(bits, *any),
                Datum::Missing => Answer::No,
                Datum::Never => Answer::Never,
            },
            Test::Address { field, ranges } => self.address(*field, ranges),
            Test::Interface { field, names } => {
                let interface = match field {
                    Field::InInterface => &self.came_in,
                    _ => &self.goes_out,
                };
                (interface.as_ref()).map_or(Answer::No, |interface| named(interface, names))
            }
            Test::Rows(rows) => rows.iter().fold(Answer::No, |answer, row| {
                let row = (row.iter().map(|test| self.test(test, native))).fold(Answer::Yes, both);
                either(answer, row)
            }),
        }
    }

    fn source_port(&self) -> Bits {
        match self.connection.source.port() {
            port if port != 0 && self.source_known => Bits::all(u32::from(port)),
            _ => Bits::NOTHING,
        }
    }

    fn datum(&self, field: Field, native: bool) -> Datum {
        let known = |value: u32| Datum::Bits(Bits::all(value));
        match field {
            Field::Protocol => known(self.connection.protocol.number()),
            Field::Family => known(match self.connection.family() {
                crate::model::Family::Ipv4 => 4,
                crate::model::Family::Ipv6 => 6,
            }),
            Field::SourcePort => Datum::Bits(self.source_port()),
            Field::DestinationPort => known(u32::from(self.port)),
            Field::OriginalDestinationPort => known(u32::from(self.connection.destination.port())),
            Field::Uid => self.owner(self.connection.uid, native),
            Field::Gid => self.owner(self.connection.gid, native),
            Field::Socket => known(u32::from(self.has_socket)),
            Field::Listener => Datum::Bits(self.listener()),
            Field::Wildcard => self.wildcard(),
            Field::Mark => Datum::Bits(self.mark),
            Field::ConnMark if self.tracking != Tracking::Tracked => Datum::Never,
            Field::ConnMark => Datum::Bits(self.connection_mark),
            Field::CtState => known(self.state()),
            Field::CtDirection => known(0),
            // SYN, and nothing else.
            Field::TcpFlags => known(2),
            Field::SourceKind if !self.source_known => Datum::Bits(Bits::NOTHING),
            Field::SourceKind => self.kind(Some(self.connection.source.ip())),
            Field::DestinationKind => self.kind(self.destination),
            Field::Source
            | Field::Destination
            | Field::OriginalDestination
            | Field::EitherPort
            | Field::InInterface
            | Field::OutInterface => Datum::Bits(Bits::NOTHING),
        }
    }

    fn owner(&self, id: Option<u32>, native: bool) -> Datum {
        match (self.has_socket, native) {
            (true, _) => Datum::Bits(Bits::from(id)),
            (false, true) => Datum::Never,
            (false, false) => Datum::Missing,
        }
    }

    /// The sockets that a lookup finds for a first packet: nobody but a listener has it yet.
    fn listener(&self) -> Bits {
        let is_tcp = self.connection.protocol == Protocol::Tcp;
        let all = self.connection.listeners.as_ref();
        let (Some(to), Some(all), true, false) = (self.destination, all, is_tcp, self.has_socket)
        else {
            return Bits::NOTHING;
        };
        let of_port = all.iter().filter(|at| at.port() == self.port);
        of_port.fold(Bits::all(0), |bits, at| {
            let ip = at.ip().to_canonical();
            let everywhere = ip.is_unspecified() && ip.is_ipv4() == to.is_ipv4();
            Bits::all(match () {
                () if ip == to => bits.value | listener::AT_ADDRESS,
                () if everywhere => bits.value | listener::ANYWHERE,
                () => bits.value,
            })
        })
    }

    /// Whether nobody in the namespace listens on this port in the packet's family, as far as that is known.
    pub(super) fn is_nobodys(&self, port: u16) -> bool {
        let port = if port == 0 { self.port } else { port };
        let fits = |at: &SocketAddr| {
            let ip = at.ip().to_canonical();
            at.port() == port
                && ip.is_ipv4() == (self.connection.family() == crate::model::Family::Ipv4)
        };
        let all = self.connection.listeners.as_ref();
        all.is_some_and(|all| !all.iter().any(fits))
    }

    /// A listener at the very address comes first; a socket that dials has the address it dials from.
    fn wildcard(&self) -> Datum {
        if self.has_socket {
            return Datum::Bits(Bits::all(0));
        }
        match self.listener() {
            found if found == Bits::NOTHING => Datum::Bits(found),
            found if found.value & listener::AT_ADDRESS != 0 => Datum::Bits(Bits::all(0)),
            found if found.value & listener::ANYWHERE != 0 => Datum::Bits(Bits::all(1)),
            _ => Datum::Never,
        }
    }

    const fn state(&self) -> u32 {
        match self.tracking {
            Tracking::Before => state::INVALID,
            Tracking::Untracked => state::UNTRACKED,
            Tracking::Tracked if self.is_redirected => state::NEW | state::DNAT,
            Tracking::Tracked => state::NEW,
        }
    }

    fn kind(&self, address: Option<IpAddr>) -> Datum {
        let Some(address) = address else {
            return Datum::Bits(Bits::all(address_kind::LOCAL));
        };
        if address.is_multicast() {
            return Datum::Bits(Bits::all(address_kind::MULTICAST));
        }
        if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
            return Datum::Bits(Bits::all(address_kind::BROADCAST));
        }
        Datum::Bits(match self.connection.is_local(address) {
            Some(true) => Bits::all(address_kind::LOCAL),
            Some(false) => Bits::all(address_kind::UNICAST),
            None => Bits {
                value: 0,
                known: !(address_kind::LOCAL | address_kind::UNICAST),
            },
        })
    }

    fn address(&self, field: Field, ranges: &[(IpAddr, IpAddr)]) -> Answer {
        let address = match field {
            Field::Source => Some(self.connection.source.ip()).filter(|_| self.source_known),
            Field::OriginalDestination => Some(self.connection.destination.ip()),
            _ => self.destination,
        };
        match address {
            Some(address) => yes_or_no(ranges.iter().any(|ends| within(address, *ends))),
            None if ranges.iter().any(is_everything) => Answer::Yes,
            None => Answer::Maybe,
        }
    }

    /// Rewrites the destination; `false` if the kernel may choose.
    pub(super) fn translate(&mut self, action: &Action, hook: Hook) -> bool {
        let (address, ports) = match action {
            Action::Dnat { addresses, ports } => match addresses {
                Some((first, last)) if first == last => (Some(*first), *ports),
                Some(_) => return false,
                None => (self.destination, *ports),
            },
            Action::Redirect { ports } => (self.own_address(hook), *ports),
            _ => return true,
        };
        let port = match ports {
            None => self.port,
            Some((first, last)) if first == last => first,
            Some((first, last)) if (first..=last).contains(&self.port) => self.port,
            Some(_) => return false,
        };
        (self.destination, self.port) = (address, port);
        (self.is_redirected, self.destination_done) = (true, true);
        true
    }

    /// The address a redirect leads to: that of `lo` for what is made here, else that of the interface it came in by.
    fn own_address(&self, hook: Hook) -> Option<IpAddr> {
        let is_v4 = self.connection.destination.is_ipv4();
        let by_loopback = matches!(&self.came_in, Some(Interface::Named(name)) if name == "lo");
        if hook == Hook::Output || by_loopback {
            return Some(if is_v4 {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        let own = self.connection.local.as_ref()?.iter();
        let mut own = own
            .map(IpAddr::to_canonical)
            .filter(|address| address.is_ipv4() == is_v4 && !address.is_loopback());
        let first = own.next();
        // With several, which of them is the interface's first is not known.
        if own.next().is_some() { None } else { first }
    }

    /// The interface towards the destination as it is now.
    pub(super) fn way_out(&self) -> Interface {
        match self.is_local() {
            Some(true) => Interface::Named("lo".to_owned()),
            Some(false) => Interface::NotLoopback,
            None => Interface::Unknown,
        }
    }
}
