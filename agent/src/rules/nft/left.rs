//! The left side of a comparison: which field is asked for, and what asking for it silently demands.
//!
//! `ip daddr != 10.0.0.1` is only ever asked of IPv4: nft adds that condition and does not print it. It is made visible
//! here, before the comparison, because its failing is not turned around by `!=`.

use serde_json::Value;

use super::super::{
    matching::{Field, Test, listener},
    save::numbers::{number, protocol},
    save::options::flag_bit,
};

/// What is compared.
#[derive(Clone, Debug)]
pub(super) enum Left {
    Number { field: Field, mask: u32 },
    Bits(Field),
    Address(Field),
    Interface(Field),
    Rows(Vec<Self>),
    Unknown(String),
}

/// The field of an expression, and the conditions that come with it.
pub(super) fn left(value: &Value, demands: &mut Vec<Test>) -> Left {
    let Some((kind, inner)) = only_entry(value) else {
        return Left::Unknown("a comparison without a field".to_owned());
    };
    let text = |name: &str| inner.get(name).and_then(Value::as_str).unwrap_or("");
    let found = match kind {
        "meta" => meta(text("key")),
        "ct" => connection(text("key"), text("dir")),
        "payload" => payload(text("protocol"), text("field"), demands),
        "fib" if text("result") == "type" => fib(inner),
        "socket" if text("key") == "wildcard" => whole(Field::Wildcard),
        "socket" => {
            // Without a socket the rule does not hold, whatever is asked of it.
            demands.push(Test::Bits {
                field: Field::Listener,
                any: listener::AT_ADDRESS | listener::ANYWHERE,
            });
            None
        }
        "&" => masked(inner, demands),
        "concat" => inner
            .as_array()
            .map(|parts| Left::Rows(parts.iter().map(|part| left(part, demands)).collect())),
        _ => None,
    };
    found.unwrap_or_else(|| {
        let what = super::render::expression(value);
        Left::Unknown(format!("`{what}` depends on more than the connection"))
    })
}

/// The name and value of an object with one entry.
pub(super) fn only_entry(value: &Value) -> Option<(&str, &Value)> {
    let (name, inner) = value.as_object()?.iter().next()?;
    Some((name.as_str(), inner))
}

const fn whole(field: Field) -> Option<Left> {
    Some(Left::Number {
        field,
        mask: u32::MAX,
    })
}

fn meta(key: &str) -> Option<Left> {
    match key {
        "l4proto" => whole(Field::Protocol),
        "protocol" | "nfproto" => whole(Field::Family),
        "mark" => whole(Field::Mark),
        "skuid" => whole(Field::Uid),
        "skgid" => whole(Field::Gid),
        "iif" | "iifname" => Some(Left::Interface(Field::InInterface)),
        "oif" | "oifname" => Some(Left::Interface(Field::OutInterface)),
        _ => None,
    }
}

fn connection(key: &str, direction: &str) -> Option<Left> {
    match (key, direction) {
        ("state", _) => Some(Left::Bits(Field::CtState)),
        ("mark", _) => whole(Field::ConnMark),
        ("direction", _) => whole(Field::CtDirection),
        ("status", _) => Some(Left::Bits(Field::CtState)),
        ("protocol", _) => whole(Field::Protocol),
        ("ip daddr" | "ip6 daddr", "original") => Some(Left::Address(Field::OriginalDestination)),
        ("proto-dst", "original") => whole(Field::OriginalDestinationPort),
        _ => None,
    }
}

fn payload(header: &str, field: &str, demands: &mut Vec<Test>) -> Option<Left> {
    let family = match header {
        "ip" => Some(4),
        "ip6" => Some(6),
        _ => None,
    };
    if let Some(family) = family {
        demands.push(Test::number(Field::Family, family));
        return match field {
            "saddr" => Some(Left::Address(Field::Source)),
            "daddr" => Some(Left::Address(Field::Destination)),
            "protocol" | "nexthdr" => whole(Field::Protocol),
            _ => None,
        };
    }
    if header != "th" {
        // A header below IP says nothing about the protocol above it.
        demands.push(Test::number(Field::Protocol, protocol(header)?));
    }
    match (header, field) {
        ("tcp", "flags") => whole(Field::TcpFlags),
        ("tcp" | "udp" | "th", "sport") => whole(Field::SourcePort),
        ("tcp" | "udp" | "th", "dport") => whole(Field::DestinationPort),
        _ => None,
    }
}

fn fib(inner: &Value) -> Option<Left> {
    let flags = inner.get("flags")?;
    let only = match flags.as_array() {
        Some(flags) if flags.len() == 1 => flags.first()?.as_str()?,
        Some(_) => return None,
        None => flags.as_str()?,
    };
    match only {
        "saddr" => Some(Left::Bits(Field::SourceKind)),
        "daddr" => Some(Left::Bits(Field::DestinationKind)),
        _ => None,
    }
}

/// `field & bits`
fn masked(inner: &Value, demands: &mut Vec<Test>) -> Option<Left> {
    let [of, bits] = inner.as_array()?.as_slice() else {
        return None;
    };
    match left(of, demands) {
        Left::Number { field, mask } => Some(Left::Number {
            field,
            mask: mask & bits_of(field, bits)?,
        }),
        _ => None,
    }
}

/// A number, a name, or several of them together.
pub(super) fn bits_of(field: Field, value: &Value) -> Option<u32> {
    if let Some(parts) = value.as_array() {
        let all = parts.iter().map(|part| number_of(field, part));
        return all.reduce(|all, bit| Some(all? | bit?))?;
    }
    if let Some(parts) = value.get("|").and_then(Value::as_array) {
        let all = parts.iter().map(|part| bits_of(field, part));
        return all.reduce(|all, bit| Some(all? | bit?))?;
    }
    number_of(field, value)
}

/// A value of a field; `None` for a name that only the namespace's own files explain.
pub(super) fn number_of(field: Field, value: &Value) -> Option<u32> {
    if let Some(value) = value.as_u64() {
        return u32::try_from(value).ok();
    }
    let text = value.as_str()?;
    match field {
        Field::Protocol => protocol(text),
        Field::Family => match text {
            "ip" | "ipv4" => Some(4),
            "ip6" | "ipv6" => Some(6),
            _ => None,
        },
        Field::CtDirection => match text {
            "original" => Some(0),
            "reply" => Some(1),
            _ => None,
        },
        Field::TcpFlags => flag_bit(text),
        _ => number(text),
    }
}
