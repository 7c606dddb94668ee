//! The small values inside rules: ports, ids, marks, addresses and ranges of each.
//!
//! Numbers are decimal, hexadecimal (`0x`) or octal (`0`), as the C library reads them. What has no number here, such as a
//! user's or a service's name, is `None`: the names of *this* machine are not those of the container that wrote the rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::Family;

/// A number.
pub(crate) fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

/// `A`, `A:B`, `A:` or `:B`, with the separator that belongs to the option.
pub(super) fn range(text: &str, separator: char, most: u32) -> Option<(u32, u32)> {
    let Some((first, last)) = text.split_once(separator) else {
        let only = number(text).filter(|&only| only <= most)?;
        return Some((only, only));
    };
    let first = if first.is_empty() { 0 } else { number(first)? };
    let last = if last.is_empty() { most } else { number(last)? };
    (last <= most).then_some((first, last))
}

/// Ports, separated by commas.
pub(super) fn ports(text: &str) -> Option<Vec<(u32, u32)>> {
    text.split(',')
        .map(|part| range(part, ':', u32::from(u16::MAX)))
        .collect()
}

/// `PORT` or `PORT-PORT`, as targets write it.
pub(super) fn target_ports(text: &str) -> Option<(u16, u16)> {
    // A base port for a shifted range (`80-90/8080`) does not fit into one range.
    let (first, last) = range(text, '-', u32::from(u16::MAX))?;
    Some((u16::try_from(first).ok()?, u16::try_from(last).ok()?))
}

/// `VALUE` or `VALUE/MASK`.
pub(super) fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK` as the first and last address that it covers; `None` for a mask with holes.
pub(super) fn network(text: &str, family: Family) -> Option<(IpAddr, IpAddr)> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    if Family::of(address) != family {
        return None;
    }
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match mask {
        None => bits,
        Some(mask) => match mask.parse::<u32>() {
            Ok(length) => length,
            Err(_) => mask_length(mask.parse().ok()?)?,
        },
    };
    prefix(address, length)
}

/// The first and last address of a prefix; `None` if it is longer than the address.
pub(crate) fn prefix(address: IpAddr, length: u32) -> Option<(IpAddr, IpAddr)> {
    match address {
        IpAddr::V4(address) => {
            let host = host_bits(length, 32)?;
            let host = u32::try_from(host).ok()?;
            let first = address.to_bits() & !host;
            let ends = (first.into(), (first | host).into());
            Some((IpAddr::V4(ends.0), IpAddr::V4(ends.1)))
        }
        IpAddr::V6(address) => {
            let host = host_bits(length, 128)?;
            let first = address.to_bits() & !host;
            let ends = (first.into(), (first | host).into());
            Some((IpAddr::V6(ends.0), IpAddr::V6(ends.1)))
        }
    }
}

/// Ones in the place of a network's own part.
fn host_bits(length: u32, bits: u32) -> Option<u128> {
    let host = bits.checked_sub(length)?;
    Some(1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1))
}

fn mask_length(mask: IpAddr) -> Option<u32> {
    let (ones, whole) = match mask {
        IpAddr::V4(mask) => {
            let bits = mask.to_bits();
            (
                bits.leading_ones(),
                bits.leading_ones() == bits.count_ones(),
            )
        }
        IpAddr::V6(mask) => {
            let bits = mask.to_bits();
            (
                bits.leading_ones(),
                bits.leading_ones() == bits.count_ones(),
            )
        }
    };
    whole.then_some(ones)
}

/// `FIRST-LAST`, or one address as both.
pub(crate) fn addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
        None => {
            let only: IpAddr = text.parse().ok()?;
            (only, only)
        }
    };
    (first.is_ipv4() == last.is_ipv4()).then_some((first, last))
}

/// `ADDRESS`, `FIRST-LAST`, `ADDRESS:PORTS`, `[V6]:PORTS` or `:PORTS`, as DNAT writes it.
pub(super) type Destination = (Option<(IpAddr, IpAddr)>, Option<(u16, u16)>);

pub(super) fn destination(text: &str, family: Family) -> Option<Destination> {
    let (address, ports) = match (family, text.strip_prefix('[')) {
        (Family::Ipv6, Some(rest)) => {
            let (inside, after) = rest.split_once(']')?;
            // `[a]-[b]:ports` is how a range of addresses with ports is written.
            match after
                .strip_prefix("-[")
                .and_then(|rest| rest.split_once(']'))
            {
                Some((last, after)) => (format!("{inside}-{last}"), after.strip_prefix(':')),
                None => (inside.to_owned(), after.strip_prefix(':')),
            }
        }
        (Family::Ipv6, None) => (text.to_owned(), None),
        (Family::Ipv4, _) => match text.split_once(':') {
            Some((address, ports)) => (address.to_owned(), Some(ports)),
            None => (text.to_owned(), None),
        },
    };
    let address = match address.as_str() {
        "" => None,
        address => Some(addresses(address)?),
    };
    let ports = match ports {
        None => None,
        Some(ports) => Some(target_ports(ports)?),
    };
    Some((address, ports))
}

/// The number of a transport protocol; 0 means any.
pub(crate) fn protocol(text: &str) -> Option<u32> {
    Some(match text.to_ascii_lowercase().as_str() {
        "all" | "ip" => 0,
        "icmp" => 1,
        "igmp" => 2,
        "ipencap" | "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" | "ipv6-icmp" => 58,
        "ipv6-mh" | "mh" => 135,
        "sctp" => 132,
        "udplite" => 136,
        _ => return number(text).filter(|&value| value < 256),
    })
}

/// An address that stands for "any".
pub(crate) const fn is_any(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.to_bits() == Ipv4Addr::UNSPECIFIED.to_bits(),
        IpAddr::V6(address) => address.to_bits() == Ipv6Addr::UNSPECIFIED.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ends: Option<(IpAddr, IpAddr)>) -> String {
        ends.map_or_else(
            || "-".to_owned(),
            |(first, last)| format!("{first}..{last}"),
        )
    }

    #[test]
    fn numbers_are_read_as_c_does() {
        assert_eq!(number("0x539"), Some(1337));
        assert_eq!(number("010"), Some(8));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("java"), None);
        assert_eq!(number("-1"), None);
    }

    #[test]
    fn ranges_may_be_open() {
        assert_eq!(range("1024:", ':', 65535), Some((1024, 65535)));
        assert_eq!(range(":80", ':', 65535), Some((0, 80)));
        assert_eq!(range("106-108", '-', u32::MAX), Some((106, 108)));
        assert_eq!(range("70000", ':', 65535), None);
        assert_eq!(ports("53,3000:5000"), Some(vec![(53, 53), (3000, 5000)]));
        assert_eq!(ports("53,http"), None);
    }

    #[test]
    fn networks_are_ranges() {
        let v4 = |text| shown(network(text, Family::Ipv4));
        assert_eq!(v4("10.1.2.3/8"), "10.0.0.0..10.255.255.255");
        assert_eq!(v4("10.1.2.3/255.255.0.0"), "10.1.0.0..10.1.255.255");
        assert_eq!(v4("10.1.2.3/255.0.255.0"), "-");
        assert_eq!(v4("0.0.0.0/0"), "0.0.0.0..255.255.255.255");
        assert_eq!(v4("10.1.2.3/33"), "-");
        assert_eq!(v4("::1"), "-");
        assert_eq!(shown(network("::6/128", Family::Ipv6)), "::6..::6");
        assert_eq!(
            shown(network("fd00::/8", Family::Ipv6)),
            "fd00::..fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert_eq!(
            shown(network("::/0", Family::Ipv6)),
            "::..ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
    }

    #[test]
    fn destinations_have_an_address_a_port_or_both() {
        let v4 = |text| destination(text, Family::Ipv4).map(|(ends, ports)| (shown(ends), ports));
        let v6 = |text| destination(text, Family::Ipv6).map(|(ends, ports)| (shown(ends), ports));
        let one = "10.0.0.1..10.0.0.1".to_owned();
        assert_eq!(v4("10.0.0.1"), Some((one.clone(), None)));
        assert_eq!(v4("10.0.0.1:80"), Some((one, Some((80, 80)))));
        assert_eq!(v4(":80-90"), Some(("-".to_owned(), Some((80, 90)))));
        assert_eq!(v4("10.0.0.1:http"), None);
        let six = "fd00::1..fd00::1".to_owned();
        assert_eq!(v6("[fd00::1]:80"), Some((six.clone(), Some((80, 80)))));
        assert_eq!(v6("fd00::1"), Some((six, None)));
        assert_eq!(
            v6("[fd00::1]-[fd00::2]:80"),
            Some(("fd00::1..fd00::2".to_owned(), Some((80, 80))))
        );
    }

    #[test]
    fn a_mask_is_part_of_a_mark() {
        assert_eq!(masked("0x539/0xfff"), Some((0x539, 0xfff)));
        assert_eq!(masked("1337"), Some((1337, u32::MAX)));
    }
}
