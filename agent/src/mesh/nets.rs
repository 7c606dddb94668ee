//! A set of addresses, as meshes write it: `10.0.0.0/8,fd00::/8`, `*`, or nothing.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSet {
    /// All of them, both families (`*`).
    All,
    /// These ranges.
    Only(Vec<IpNet>),
}

impl Default for NetSet {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl NetSet {
    /// Whether the address is in the set.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Only(nets) => nets.iter().any(|net| net.contains(&ip)),
        }
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(nets) if nets.is_empty())
    }
}

impl FromStr for NetSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::All);
        }
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items
            .map(parse_net)
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }
}

/// A range, or a single address as the range of itself.
fn parse_net(item: &str) -> Result<IpNet, String> {
    let single = || item.parse::<IpAddr>().map(IpNet::from);
    item.parse::<IpNet>()
        .or_else(|_| single())
        .map(|net| net.trunc())
        .map_err(|_| format!("{item:?} is not an address range (10.0.0.0/8, fd00::/8)"))
}

impl fmt::Display for NetSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(nets) => {
                for (at, net) in nets.iter().enumerate() {
                    write!(f, "{}{net}", if at == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl<'de> Deserialize<'de> for NetSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::NetSet;

    #[test]
    fn reads_what_meshes_write() {
        for (text, shown, inside, outside) in [
            (
                "10.0.0.0/8",
                "10.0.0.0/8",
                vec!["10.1.2.3"],
                vec!["11.0.0.1", "::1"],
            ),
            (
                "10.1.2.3/8, fd00::/8",
                "10.0.0.0/8,fd00::/8",
                vec!["10.9.9.9", "fd00::1"],
                vec!["fe80::1"],
            ),
            (
                "192.0.2.7",
                "192.0.2.7/32",
                vec!["192.0.2.7"],
                vec!["192.0.2.8"],
            ),
            ("*", "*", vec!["192.0.2.7", "2001:db8::1"], vec![]),
            ("", "", vec![], vec!["192.0.2.7", "::1"]),
        ] {
            let set: NetSet = text.parse().unwrap();
            assert_eq!(set.to_string(), shown);
            assert!(
                inside.iter().all(|ip| set.contains(ip.parse().unwrap())),
                "{text}"
            );
            assert!(
                !outside.iter().any(|ip| set.contains(ip.parse().unwrap())),
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_it_cannot_read() {
        for text in ["10.0.0.0/33", "localhost", "10.0.0", "/8", "*,10.0.0.0/8"] {
            assert!(text.parse::<NetSet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _ = text.parse::<NetSet>();
        }
    }
}
