//! Options of match modules that depend on the connection alone, and on nothing that only the kernel knows.
//!
//! Every name an option has is here, long forms included. What is not here is unknown: it must never be read as "always".

use super::super::matching::{Field, Test, address_kind, state};
use super::numbers::{addresses, masked, number, ports, protocol, range};

/// Whether the module adds nothing of its own: all of its meaning is in its options.
pub(super) fn is_known_module(module: &str) -> bool {
    matches!(
        module,
        "" | "tcp"
            | "udp"
            | "udplite"
            | "sctp"
            | "dccp"
            | "multiport"
            | "owner"
            | "mark"
            | "connmark"
            | "conntrack"
            | "state"
            | "addrtype"
            | "iprange"
            | "comment"
            | "nfacct"
            | "recent"
            | "set"
            // Both add what they mean by themselves, see `rule`.
            | "rpfilter"
            | "socket"
    )
}

/// The test of an option: `None` if it is not known at all, an error if its values are not.
pub(super) fn read(module: &str, name: &str, values: &[&str]) -> Option<Result<Test, String>> {
    let value = values.first().copied().unwrap_or("");
    let test = match name {
        "--comment" | "--nfacct-name" => Some(Test::Always),
        // Notes the packet, and always holds.
        "--set" if module == "recent" => Some(Test::Always),
        "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
            numeric(Field::DestinationPort, ports(value))
        }
        "--sport" | "--source-port" | "--sports" | "--source-ports" => {
            numeric(Field::SourcePort, ports(value))
        }
        "--ports" | "--port" => numeric(Field::EitherPort, ports(value)),
        "--syn" => Some(flags("SYN,RST,ACK,FIN", "SYN")),
        "--tcp-flags" => match values {
            [mask, set] if is_flags(mask) && is_flags(set) => Some(flags(mask, set)),
            _ => None,
        },
        "--uid-owner" => numeric(Field::Uid, ids(value)),
        "--gid-owner" => numeric(Field::Gid, ids(value)),
        "--socket-exists" => Some(Test::number(Field::Socket, 1)),
        "--mark" => {
            let field = if module == "connmark" {
                Field::ConnMark
            } else {
                Field::Mark
            };
            masked(value).map(|(value, mask)| Test::Number {
                field,
                mask,
                ranges: vec![(value, value)],
            })
        }
        "--ctstate" | "--state" => bits(value, state_bit).map(|any| Test::Bits {
            field: Field::CtState,
            any,
        }),
        "--ctproto" => protocol(value).map(|number| Test::number(Field::Protocol, number)),
        "--ctdir" => match value {
            "ORIGINAL" => Some(Test::number(Field::CtDirection, 0)),
            "REPLY" => Some(Test::number(Field::CtDirection, 1)),
            _ => None,
        },
        "--ctorigdst" => network(Field::OriginalDestination, value),
        "--ctorigdstport" => numeric(
            Field::OriginalDestinationPort,
            range(value, ':', 65535).map(|ends| vec![ends]),
        ),
        "--src-type" => kinds(Field::SourceKind, value),
        "--dst-type" => kinds(Field::DestinationKind, value),
        "--src-range" => addresses(value).map(|ends| address(Field::Source, ends)),
        "--dst-range" => addresses(value).map(|ends| address(Field::Destination, ends)),
        _ => return None,
    };
    Some(test.ok_or_else(|| format!("`{name} {}` is not understood", values.join(" "))))
}

fn numeric(field: Field, ranges: Option<Vec<(u32, u32)>>) -> Option<Test> {
    ranges.map(|ranges| Test::ranges(field, ranges))
}

fn ids(text: &str) -> Option<Vec<(u32, u32)>> {
    range(text, '-', u32::MAX).map(|ends| vec![ends])
}

fn address(field: Field, ends: (std::net::IpAddr, std::net::IpAddr)) -> Test {
    Test::Address {
        field,
        ranges: vec![ends],
    }
}

fn network(field: Field, text: &str) -> Option<Test> {
    let family = if text.contains(':') {
        crate::model::Family::Ipv6
    } else {
        crate::model::Family::Ipv4
    };
    super::numbers::network(text, family).map(|ends| address(field, ends))
}

fn kinds(field: Field, text: &str) -> Option<Test> {
    bits(text, kind_bit).map(|any| Test::Bits { field, any })
}

fn bits(text: &str, bit: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    text.split(',')
        .try_fold(0, |all, word| Some(all | bit(word)?))
}

/// The bit of a state's name, in capitals or not.
pub(crate) fn state_bit(name: &str) -> Option<u32> {
    Some(match name.to_ascii_uppercase().as_str() {
        "INVALID" => state::INVALID,
        "ESTABLISHED" => state::ESTABLISHED,
        "RELATED" => state::RELATED,
        "NEW" => state::NEW,
        "SNAT" => state::SNAT,
        "DNAT" => state::DNAT,
        "UNTRACKED" => state::UNTRACKED,
        _ => return None,
    })
}

/// The bit of an address kind's name, in capitals or not.
pub(crate) fn kind_bit(name: &str) -> Option<u32> {
    Some(match name.to_ascii_uppercase().as_str() {
        "UNICAST" => address_kind::UNICAST,
        "LOCAL" => address_kind::LOCAL,
        "BROADCAST" => address_kind::BROADCAST,
        "MULTICAST" => address_kind::MULTICAST,
        "ANYCAST" | "BLACKHOLE" | "UNREACHABLE" | "PROHIBIT" | "THROW" | "NAT" | "XRESOLVE"
        | "UNSPEC" => address_kind::OTHER,
        _ => return None,
    })
}

/// The bit of a TCP flag's name, in capitals or not.
pub(crate) fn flag_bit(name: &str) -> Option<u32> {
    Some(match name.to_ascii_uppercase().as_str() {
        "FIN" => 1,
        "SYN" => 2,
        "RST" => 4,
        "PSH" => 8,
        "ACK" => 16,
        "URG" => 32,
        "ECN" | "ECE" => 64,
        "CWR" => 128,
        "ALL" => 63,
        "NONE" => 0,
        _ => return None,
    })
}

fn is_flags(text: &str) -> bool {
    number(text).is_some() || bits(text, flag_bit).is_some()
}

fn flags(mask: &str, set: &str) -> Test {
    let bits = |text| number(text).or_else(|| bits(text, flag_bit)).unwrap_or(0);
    Test::Number {
        field: Field::TcpFlags,
        mask: bits(mask),
        ranges: vec![(bits(set), bits(set))],
    }
}
