//! Answers where not everything is known.
//!
//! Three of them and a fourth: *never* is what a condition says that asks for something the packet does not have, and that
//! negation does not turn around. An answer is certain only if no unknown bit could change it.

use std::net::IpAddr;

use super::super::{connection::Interface, matching::Name};

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Maybe,
    /// No, and the negation does not hold either.
    Never,
}

/// A number of which some bits may not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) value: u32,
    pub(super) known: u32,
}

impl Bits {
    pub(super) const fn all(value: u32) -> Self {
        Self {
            value,
            known: u32::MAX,
        }
    }

    pub(super) const NOTHING: Self = Self { value: 0, known: 0 };

    pub(super) fn from(value: Option<u32>) -> Self {
        value.map_or(Self::NOTHING, Self::all)
    }
}

pub(super) const fn yes_or_no(holds: bool) -> Answer {
    if holds { Answer::Yes } else { Answer::No }
}

pub(super) fn either(one: Answer, other: Answer) -> Answer {
    match (one, other) {
        (Answer::Yes, _) | (_, Answer::Yes) => Answer::Yes,
        (Answer::Maybe, _) | (_, Answer::Maybe) => Answer::Maybe,
        (Answer::No, _) | (_, Answer::No) => Answer::No,
        (Answer::Never, Answer::Never) => Answer::Never,
    }
}

pub(super) fn both(one: Answer, other: Answer) -> Answer {
    match (one, other) {
        (Answer::Never, _) | (_, Answer::Never) => Answer::Never,
        (Answer::No, _) | (_, Answer::No) => Answer::No,
        (Answer::Maybe, _) | (_, Answer::Maybe) => Answer::Maybe,
        (Answer::Yes, Answer::Yes) => Answer::Yes,
    }
}

pub(super) fn number(bits: Bits, mask: u32, ranges: &[(u32, u32)]) -> Answer {
    let value = bits.value & mask;
    if mask & !bits.known == 0 {
        return yes_or_no(
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&value)),
        );
    }
    // A single value is already wrong if a bit that is known differs.
    let differs = |(first, last): &(u32, u32)| {
        first == last && ((value ^ first) & bits.known & mask != 0 || first & !mask != 0)
    };
    if ranges.iter().all(differs) {
        Answer::No
    } else {
        Answer::Maybe
    }
}

pub(super) const fn any_bit(bits: Bits, any: u32) -> Answer {
    if bits.value & bits.known & any != 0 {
        return Answer::Yes;
    }
    let open = !bits.known;
    if open & any == 0 {
        Answer::No
    } else if open & !any == 0 {
        // One of the open bits is set, and all of them are asked for.
        Answer::Yes
    } else {
        Answer::Maybe
    }
}

pub(super) fn within(address: IpAddr, (first, last): (IpAddr, IpAddr)) -> bool {
    address.is_ipv4() == first.is_ipv4() && first <= address && address <= last
}

pub(super) fn is_everything((first, last): &(IpAddr, IpAddr)) -> bool {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => first.to_bits() == 0 && last.to_bits() == u32::MAX,
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            first.to_bits() == 0 && last.to_bits() == u128::MAX
        }
        _ => false,
    }
}

pub(super) fn named(interface: &Interface, names: &[Name]) -> Answer {
    let everything = names.iter().any(|name| name.prefix && name.text.is_empty());
    match interface {
        Interface::Named(name) => yes_or_no(names.iter().any(|pattern| pattern.covers(name))),
        _ if everything => Answer::Yes,
        Interface::NotLoopback if names.iter().all(|name| !name.prefix && name.text == "lo") => {
            Answer::No
        }
        Interface::NotLoopback | Interface::Unknown => Answer::Maybe,
    }
}
