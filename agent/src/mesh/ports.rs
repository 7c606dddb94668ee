//! A set of TCP ports, as meshes write it: `80,443,4567-4570`, `*`, or nothing.
//!
//! Pure text to value. What an *empty* set means (nothing captured, nothing excluded) is
//! for the caller to know; here it is just empty.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSet {
    /// All of them (`*`).
    All,
    /// These ranges.
    Only(Vec<RangeInclusive<u16>>),
}

impl Default for PortSet {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl PortSet {
    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ranges) => ranges.iter().any(|range| range.contains(&port)),
        }
    }

    /// Whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Only(ranges) if ranges.is_empty())
    }

    /// Adds the ports of another set.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Only(mut mine), Self::Only(theirs)) => {
                mine.extend(theirs.iter().cloned());
                Self::Only(mine)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

impl FromStr for PortSet {
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
            .map(parse_range)
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }
}

fn parse_range(item: &str) -> Result<RangeInclusive<u16>, String> {
    match item.split_once('-') {
        None => parse_port(item).map(|port| port..=port),
        Some((from, to)) => {
            let (from, to) = (parse_port(from)?, parse_port(to)?);
            if from > to {
                return Err(format!("the range {item:?} ends before it begins"));
            }
            Ok(from..=to)
        }
    }
}

/// A single port, 1 to 65535.
pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port (1 to 65535)")),
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(ranges) => {
                for (at, range) in ranges.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    let (from, to) = (range.start(), range.end());
                    if from == to {
                        write!(f, "{comma}{from}")?;
                    } else {
                        write!(f, "{comma}{from}-{to}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::PortSet;

    #[test]
    fn reads_what_meshes_write() {
        for (text, shown, inside, outside) in [
            ("80", "80", vec![80], vec![79, 81]),
            ("80, 443 ,", "80,443", vec![80, 443], vec![81]),
            (
                "4567-4570,25",
                "4567-4570,25",
                vec![4567, 4570, 25],
                vec![4571],
            ),
            ("*", "*", vec![1, 65535], vec![]),
            ("", "", vec![], vec![1, 80]),
        ] {
            let set: PortSet = text.parse().unwrap();
            assert_eq!(set.to_string(), shown);
            assert!(inside.iter().all(|p| set.contains(*p)), "{text}");
            assert!(!outside.iter().any(|p| set.contains(*p)), "{text}");
        }
    }

    #[test]
    fn says_what_it_cannot_read() {
        for text in ["http", "70000", "0", "-1", "80-", "90-80", "1-2-3", "*,80"] {
            assert!(text.parse::<PortSet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_itself(text in "[0-9,* a-]{0,20}") {
            if let Ok(set) = text.parse::<PortSet>() {
                prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
            }
        }
    }
}
