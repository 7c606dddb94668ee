//! Conditions of rules, as data.
//!
//! A condition is a field of the packet or its connection, and the values it may have. A condition that is not understood,
//! or that nobody can know from outside (a rate, a chance, the content of a foreign set), is kept with the reason.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Holds if the test does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negated: bool,
    /// The test.
    pub test: Test,
}

/// What a condition asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Number of the transport protocol: 6 is TCP.
    Protocol,
    /// 4 or 6.
    Family,
    /// Address the packet comes from.
    Source,
    /// Address the packet goes to, as rewritten so far.
    Destination,
    /// Address the connection was made to, before any rewriting.
    OriginalDestination,
    /// Port the packet comes from.
    SourcePort,
    /// Port the packet goes to, as rewritten so far.
    DestinationPort,
    /// Port the connection was made to, before any rewriting.
    OriginalDestinationPort,
    /// One of the two ports.
    EitherPort,
    /// Interface the packet came in by.
    InInterface,
    /// Interface the packet goes out by.
    OutInterface,
    /// User of the socket.
    Uid,
    /// Group of the socket.
    Gid,
    /// Whether there is a socket: 1.
    Socket,
    /// Sockets that wait for the packet where it goes, as bits of [`listener`].
    Listener,
    /// Whether the socket of the packet, or the one that waits for it, has all addresses: 1.
    Wildcard,
    /// Mark of the packet.
    Mark,
    /// Mark of the connection.
    ConnMark,
    /// State of the connection, as bits of [`state`].
    CtState,
    /// Direction of the packet in its connection: 0 is as it was made.
    CtDirection,
    /// Flags of the TCP header: the first packet has SYN only.
    TcpFlags,
    /// Kind of the source address, as bits of [`address_kind`].
    SourceKind,
    /// Kind of the destination address, as bits of [`address_kind`].
    DestinationKind,
}

/// Bits of [`Field::Listener`].
pub mod listener {
    /// One that listens at the very address.
    pub const AT_ADDRESS: u32 = 1;
    /// One that listens at all addresses.
    pub const ANYWHERE: u32 = 2;
}

/// Bits of [`Field::CtState`].
pub mod state {
    /// Cannot be made sense of.
    pub const INVALID: u32 = 1;
    /// An answer has been seen.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// The first packet.
    pub const NEW: u32 = 8;
    /// Source was rewritten.
    pub const SNAT: u32 = 16;
    /// Destination was rewritten.
    pub const DNAT: u32 = 32;
    /// Not tracked at all.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of [`Field::SourceKind`] and [`Field::DestinationKind`].
pub mod address_kind {
    /// Somebody else's.
    pub const UNICAST: u32 = 1;
    /// One of this namespace.
    pub const LOCAL: u32 = 2;
    /// To everybody.
    pub const BROADCAST: u32 = 4;
    /// To a group.
    pub const MULTICAST: u32 = 8;
    /// A kind that the address of a TCP or UDP connection does not have.
    pub const OTHER: u32 = 16;
}

/// An interface's name, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The name, or its beginning.
    pub text: String,
    /// Whether it is the beginning only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prefix: bool,
}

/// What a condition tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Always holds.
    Always,
    /// A number is in one of the ranges, both ends included.
    Number {
        /// Which number.
        field: Field,
        /// Bits of it that count.
        mask: u32,
        /// Ranges.
        ranges: Vec<(u32, u32)>,
    },
    /// One of the bits is set.
    Bits {
        /// Of which number.
        field: Field,
        /// The bits.
        any: u32,
    },
    /// An address is in one of the ranges, both ends included. An address of the other family never is.
    Address {
        /// Which address.
        field: Field,
        /// Ranges.
        ranges: Vec<(IpAddr, IpAddr)>,
    },
    /// An interface has one of the names.
    Interface {
        /// Which interface.
        field: Field,
        /// Names.
        names: Vec<Name>,
    },
    /// One of the rows holds, each with all of its tests: concatenations of native sets.
    Rows(Vec<Vec<Self>>),
    /// Cannot be known, and why.
    Unknown(String),
}

impl Match {
    /// A condition that holds when the test does.
    #[must_use]
    pub const fn is(test: Test) -> Self {
        Self {
            negated: false,
            test,
        }
    }

    /// A condition that nobody here can know.
    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self::is(Test::Unknown(why.into()))
    }

    /// Whether it asks about the field.
    #[must_use]
    pub fn is_about(&self, field: Field) -> bool {
        self.test.is_about(field)
    }
}

impl Test {
    /// A number is exactly this.
    #[must_use]
    pub fn number(field: Field, value: u32) -> Self {
        Self::ranges(field, vec![(value, value)])
    }

    /// A number is in one of the ranges.
    #[must_use]
    pub const fn ranges(field: Field, ranges: Vec<(u32, u32)>) -> Self {
        Self::Number {
            field,
            mask: u32::MAX,
            ranges,
        }
    }

    fn is_about(&self, asked: Field) -> bool {
        match self {
            Self::Number { field, .. }
            | Self::Bits { field, .. }
            | Self::Address { field, .. }
            | Self::Interface { field, .. } => *field == asked,
            Self::Rows(rows) => rows.iter().flatten().any(|test| test.is_about(asked)),
            Self::Always | Self::Unknown(_) => false,
        }
    }
}

impl Name {
    /// Whether an interface of this name is meant.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        if self.prefix {
            name.starts_with(&self.text)
        } else {
            name == self.text
        }
    }
}
