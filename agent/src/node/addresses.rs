//! Addresses of a network namespace, from two files of procfs.
//!
//! `fib_trie` is the only file with IPv4 addresses; its local table lists each of them as
//! a host route. Loopback is left out: every namespace has it. So are link-local ones: they
//! are not unique, and nobody's identity.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// A router's table of routes is not worth reading to its end.
const MAX_BYTES: u64 = 8 << 20;

/// Addresses in a `net` directory of procfs (`/proc/PID/net`), sorted.
///
/// # Errors
/// The IPv4 file cannot be read. A kernel without IPv6 has no file for it.
pub(super) fn read(net: &Path) -> io::Result<Vec<IpAddr>> {
    let mut found = v4(&text(&net.join("fib_trie"))?);
    found.extend(v6(&text(&net.join("if_inet6")).unwrap_or_default()));
    Ok(found.into_iter().collect())
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
fn v6(if_inet6: &str) -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from)
    };
    let all = if_inet6.lines().filter_map(address);
    let useful = all.filter(|ip| !ip.is_loopback() && !ip.is_unicast_link_local());
    useful.map(IpAddr::V6).collect()
}

#[cfg(test)]
mod tests {
    use super::{v4, v6};

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
        assert_eq!(shown(v6(IF_INET6)), ["fd00::2"]);
        assert_eq!(shown(v4("")), Vec::<String>::new());
    }
}
