//! Users whose connections a mesh leaves alone, besides its own proxy's.
//!
//! Two notations in use: a list of user ids, and rules `protocol:ports:uids` whose first parts
//! may be missing or `*`. Text to value; what is excluded is the caller's to ask.

use std::ops::RangeInclusive;

use super::ports::PortSet;

/// Ports left alone for some users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserRule {
    ports: PortSet,
    users: Vec<RangeInclusive<u32>>,
}

impl UserRule {
    /// Whether the rule leaves a TCP connection of this user to this port alone.
    pub(super) fn covers(&self, uid: u32, port: u16) -> bool {
        self.ports.contains(port) && self.users.iter().any(|users| users.contains(&uid))
    }
}

/// A list of user ids: everything these users do is left alone.
pub(super) fn parse_ids(text: &str) -> Result<Vec<UserRule>, String> {
    let users = ranges(text)?;
    Ok(match users.is_empty() {
        true => Vec::new(),
        false => vec![UserRule {
            ports: PortSet::All,
            users,
        }],
    })
}

/// Rules `protocol:ports:uids`, separated by `;`. Those for other protocols than TCP are read and left out.
pub(super) fn parse_rules(text: &str) -> Result<Vec<UserRule>, String> {
    let items = text.split(';').map(str::trim);
    let rules = items.filter(|item| !item.is_empty()).map(parse_rule);
    let rules: Result<Vec<_>, _> = rules.collect();
    Ok(rules?.into_iter().flatten().collect())
}

fn parse_rule(item: &str) -> Result<Option<UserRule>, String> {
    let parts: Vec<&str> = item.split(':').map(str::trim).collect();
    let (protocols, ports, users) = match parts[..] {
        [users] => ("*", "*", users),
        [ports, users] => ("*", ports, users),
        [protocols, ports, users] => (protocols, ports, users),
        _ => return Err(format!("{item:?} is not of the form protocol:ports:uids")),
    };
    let mut tcp = false;
    for protocol in protocols.split(',').map(str::trim) {
        match protocol {
            "*" | "" | "tcp" => tcp = true,
            "udp" => {}
            other => return Err(format!("{other:?} in {item:?} is neither tcp nor udp")),
        }
    }
    let ports: PortSet = if ports.is_empty() { "*" } else { ports }.parse()?;
    let users = ranges(users)?;
    if users.is_empty() {
        return Err(format!("{item:?} names no user"));
    }
    Ok(tcp.then_some(UserRule { ports, users }))
}

fn ranges(text: &str) -> Result<Vec<RangeInclusive<u32>>, String> {
    let items = text.split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(range).collect()
}

fn range(item: &str) -> Result<RangeInclusive<u32>, String> {
    let id = |text: &str| {
        let text = text.trim();
        let id = text.parse::<u32>();
        id.map_err(|_| format!("{text:?} is not a numeric user id"))
    };
    let (from, to) = item.split_once('-').unwrap_or((item, item));
    let (from, to) = (id(from)?, id(to)?);
    if from > to {
        return Err(format!("the range {item:?} ends before it begins"));
    }
    Ok(from..=to)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::{parse_ids, parse_rules};

    #[test]
    fn reads_what_meshes_write() {
        for (text, covered, not) in [
            ("1000", vec![(1000, 80)], vec![(1001, 80)]),
            ("53:1000", vec![(1000, 53)], vec![(1000, 54)]),
            (
                "tcp:53,3000-5000:106-108",
                vec![(106, 53), (108, 4000)],
                vec![(109, 53), (106, 54)],
            ),
            ("udp:53:106", vec![], vec![(106, 53)]),
            ("*:*:0;tcp:80:7", vec![(0, 1), (7, 80)], vec![(7, 81)]),
            ("", vec![], vec![(0, 0)]),
        ] {
            let rules = parse_rules(text).unwrap();
            let covers = |(uid, port)| rules.iter().any(|rule| rule.covers(uid, port));
            assert!(covered.into_iter().all(covers), "{text}");
            assert!(!not.into_iter().any(covers), "{text}");
        }
        let ids = parse_ids("5996, 1234").unwrap();
        assert!(ids.iter().any(|rule| rule.covers(1234, 9)));
        assert!(!ids.iter().any(|rule| rule.covers(1235, 9)));
    }

    #[test]
    fn says_what_it_cannot_read() {
        for text in [
            "root",
            "tcp:80:",
            "sctp:80:1",
            "a:b:c:d",
            "tcp:http:1",
            "9-3",
        ] {
            assert!(parse_rules(text).is_err(), "{text}");
        }
        assert!(parse_ids("nobody").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,20}|[0-9:;,*-]{0,20}") {
            let _ = (parse_ids(&text), parse_rules(&text));
        }
    }
}
