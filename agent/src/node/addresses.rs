//! Addresses of a network namespace, from three files of procfs.
//!
//! `fib_trie` is the only file with IPv4 addresses; its local table lists each of them as
//! a host route. It names no interface: that is the one by which the address's neighbours
//! are reached, as `route` has it. Loopback is left out: every namespace has it. So are link-local ones: they
//! are not unique, and nobody's identity.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// A router's table of routes is not worth reading to its end.
const MAX_BYTES: u64 = 8 << 20;

/// Addresses and the interface of each, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Sorted.
    pub(super) addresses: Vec<IpAddr>,
    /// The interface an address is on.
    pub(super) interfaces: Vec<(IpAddr, String)>,
}

/// Addresses in a `net` directory of procfs (`/proc/PID/net`).
///
/// # Errors
/// The IPv4 file cannot be read. A kernel without IPv6 has no file for it.
pub(super) fn read(net: &Path) -> io::Result<Found> {
    let four = v4(&text(&net.join("fib_trie"))?);
    let six = v6(&text(&net.join("if_inet6")).unwrap_or_default());
    let routes = text(&net.join("route")).unwrap_or_default();
    let on = |ip: &IpAddr| Some((*ip, interface(&routes, *ip)?));
    let interfaces = four.iter().filter_map(on).chain(six.clone()).collect();
    Ok(Found {
        addresses: four.into_iter().chain(six.into_keys()).collect(),
        interfaces,
    })
}

/// The interface of the narrowest route that an address is in. Lines: interface, network,
/// gateway, flags, three numbers, mask; addresses are words as memory has them.
fn interface(routes: &str, ip: IpAddr) -> Option<String> {
    let IpAddr::V4(ip) = ip else { return None };
    let ip = u32::from_ne_bytes(ip.octets());
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (network, mask) = (word(1)?, word(7)?);
        let name = (*fields.first()?).to_owned();
        (ip & mask == network).then_some((mask.count_ones(), name))
    };
    let routes = routes.lines().filter_map(route);
    routes
        .max_by_key(|(length, _)| *length)
        .map(|(_, name)| name)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Leaves are two lines: `|-- 10.0.0.5`, then `/32 host LOCAL` below it.
fn v4(fib_trie: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if let Some(address) = leaf
            && line.starts_with("/32 host LOCAL")
            && !address.is_loopback()
            && !address.is_link_local()
        {
            found.insert(IpAddr::V4(address));
        }
    }
    found
}

/// Lines of 32 hexadecimal digits, index, prefix length, scope, flags, interface.
fn v6(if_inet6: &str) -> BTreeMap<IpAddr, String> {
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let digits = u128::from_str_radix(fields.next()?, 16).ok()?;
        Some((Ipv6Addr::from(digits), fields.nth(4)?.to_owned()))
    };
    let all = if_inet6.lines().filter_map(address);
    let useful = all.filter(|(ip, _)| !ip.is_loopback() && !ip.is_unicast_link_local());
    useful.map(|(ip, on)| (IpAddr::V6(ip), on)).collect()
}

#[cfg(test)]
mod tests {
    use super::{interface, v4, v6};

    const FIB_TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.244.1.0/24 2 0 2
        |-- 10.244.1.0
           /24 link UNICAST
Local:
  +-- 10.244.1.0/24 2 0 2
     |-- 10.244.1.5
        /32 host LOCAL
     |-- 10.244.1.255
        /32 link BROADCAST
  +-- 127.0.0.0/8 2 0 2
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
";
    const ROUTES: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101FEA9\t0003\t0\t0\t0\t00000000\t0\t0\t0
net1\t0000FA0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t0101FEA9\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";
    const IF_INET6: &str = "00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
garbage
";

    #[test]
    fn own_addresses_are_found_and_nothing_else() {
        let shown = |ips: std::collections::BTreeSet<std::net::IpAddr>| {
            ips.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(v4(FIB_TRIE)), ["10.244.1.5"]);
        assert_eq!(shown(v4("")), Vec::<String>::new());
        let six = v6(IF_INET6);
        let one = (
            &std::net::IpAddr::from(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
            &"eth0".to_owned(),
        );
        assert_eq!(six.iter().collect::<Vec<_>>(), [one]);
    }

    #[test]
    fn an_address_is_on_the_interface_of_its_neighbours() {
        let on = |ip: [u8; 4]| interface(ROUTES, ip.into());
        assert_eq!(on([10, 250, 0, 5]).as_deref(), Some("net1"));
        // Routed with a host address, as some plugins do: only the default route is left.
        assert_eq!(on([10, 244, 1, 5]).as_deref(), Some("eth0"));
        assert_eq!(interface("", [10, 244, 1, 5].into()), None);
    }
}
