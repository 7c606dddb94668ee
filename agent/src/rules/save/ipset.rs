//! Sets of ipset, as `ipset save` prints them, for the rules of `iptables` that ask about their content.
//!
//! Only sets that a rule names are kept, and what a rule uses is copied into it, as with nftables' own; the number of
//! elements handed out is bounded for a whole rule set. A set that time empties or that rules fill says nothing about a
//! connection by what was in it when it was read, and an exception (`nomatch`) would need the order of its networks: such
//! sets stay unknown, and so does every type but those of addresses, networks, protocols and ports.

use std::collections::HashMap;
use std::net::IpAddr;

use super::numbers::{network, number, prefix, protocol, range};
use super::words;
use crate::model::Family;
use crate::rules::matching::{Field, Test};

/// Elements that are handed out to the rules of one rule set.
const MAX_ELEMENTS: usize = 50_000;
/// Most parts of an element, as in `hash:ip,port,net`.
const MAX_PARTS: usize = 3;

/// The sets that some rules name.
#[derive(Debug)]
pub struct IpSets<'t> {
    sets: HashMap<&'t str, Set<'t>>,
    left: usize,
}

/// A set; without parts, why nothing can be said of its content.
#[derive(Debug)]
struct Set<'t> {
    parts: Result<Vec<Part>, String>,
    /// Bits of an address that count, where not all do.
    mask: Option<u32>,
    elements: Vec<&'t str>,
}

/// A part of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Address,
    /// A protocol and a port.
    Service,
    /// A port, of TCP and of UDP.
    Port,
}

impl Default for IpSets<'_> {
    fn default() -> Self {
        Self {
            sets: HashMap::new(),
            left: MAX_ELEMENTS,
        }
    }
}

impl<'t> IpSets<'t> {
    /// Whether rules ask about the content of a set: there is nothing to read otherwise.
    #[must_use]
    pub fn asks(rules: &str) -> bool {
        values(rules, &["--match-set"]).next().is_some()
    }

    /// Reads the sets that these rules, of all save programs, name.
    #[must_use]
    pub fn read(saved: &'t str, rules: &[&'t str]) -> Self {
        let all = |options| rules.iter().flat_map(move |text| values(text, options));
        let mut sets: HashMap<&str, Set<'_>> = all(&["--match-set"])
            .map(|name| (name, Set::without(format!("there is no set `{name}`"))))
            .collect();
        for line in saved.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(command), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let rest = words.next().unwrap_or("");
            match (command, sets.get_mut(name)) {
                ("create", Some(set)) => *set = Set::create(name, rest),
                ("add", Some(set)) => set.add(name, rest),
                _ => {}
            }
        }
        for name in all(&["--add-set", "--del-set"]) {
            if let Some(set) = sets.get_mut(name) {
                set.parts = Err(changes(name));
            }
        }
        // In the order of the kernel's table equal sets would seem to differ.
        let lists = sets.values_mut().map(|set| &mut set.elements);
        lists.for_each(|elements| elements.sort_unstable());
        Self {
            sets,
            left: MAX_ELEMENTS,
        }
    }

    /// What `--match-set NAME SIDES` asks, with the set's content in it.
    pub(super) fn test(&mut self, name: &str, sides: &str) -> Result<Test, String> {
        let set = self.sets.get(name);
        let set = set.ok_or_else(|| format!("what is in the set `{name}` is not known"))?;
        let parts = set.parts.as_deref().map_err(String::clone)?;
        let sides: Vec<&str> = sides.split(',').collect();
        if sides.iter().any(|side| !matches!(*side, "src" | "dst")) {
            return Err(format!("`--match-set {name}` has sides that are not known"));
        }
        if sides.len() < parts.len() {
            // The kernel asks a set about no less than it holds.
            return Ok(Test::Rows(Vec::new()));
        }
        self.left = (self.left.checked_sub(set.elements.len()))
            .ok_or_else(|| format!("the set `{name}` is one of too many elements"))?;
        let rows = set.elements.iter().map(|element| set.row(element, &sides));
        let rows: Option<Vec<Vec<Test>>> = rows.collect();
        rows.map(joined)
            .ok_or_else(|| format!("the set `{name}` has an element that is not understood"))
    }
}

impl<'t> Set<'t> {
    const fn without(why: String) -> Self {
        Self {
            parts: Err(why),
            mask: None,
            elements: Vec::new(),
        }
    }

    /// `TYPE OPTIONS`
    fn create(name: &str, text: &str) -> Self {
        let mut words = text.split_whitespace();
        let kind = words.next().unwrap_or("");
        let mut set = Self::without(format!("the set `{name}` is of the type `{kind}`"));
        if let Some(parts) = parts(kind) {
            set.parts = Ok(parts);
        }
        while let Some(option) = words.next() {
            match option {
                "counters" | "comment" | "skbinfo" | "forceadd" => {}
                "family" | "hashsize" | "maxelem" | "bucketsize" | "initval" | "range" => {
                    words.next();
                }
                "netmask" if set.parts.as_deref() == Ok(&[Part::Address]) => {
                    set.mask = words.next().and_then(number);
                }
                "timeout" => set.parts = Err(changes(name)),
                _ if set.parts.is_ok() => {
                    let why = format!("the set `{name}` has the option `{option}`");
                    set.parts = Err(why);
                }
                _ => {}
            }
        }
        set
    }

    /// `ELEMENT EXTENSIONS`
    fn add(&mut self, name: &str, text: &'t str) {
        let (element, more) = text.split_once(' ').unwrap_or((text, ""));
        self.elements.push(element);
        let words = if more.is_empty() {
            Vec::new()
        } else {
            words::split(more)
        };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "packets" | "bytes" | "comment" | "skbmark" | "skbprio" | "skbqueue" => {
                    words.next();
                }
                "nomatch" => self.parts = Err(format!("the set `{name}` has exceptions")),
                _ => self.parts = Err(changes(name)),
            }
        }
    }

    /// What an element asks; `None` if it is not understood.
    fn row(&self, element: &str, sides: &[&str]) -> Option<Vec<Test>> {
        let parts = self.parts.as_ref().ok()?;
        let values: Vec<&str> = element.split(',').take(MAX_PARTS + 1).collect();
        if values.len() != parts.len() {
            return None;
        }
        let mut row = Vec::with_capacity(parts.len() + 1);
        for ((part, value), side) in parts.iter().zip(values).zip(sides) {
            let is_source = *side == "src";
            let (address, port) = if is_source {
                (Field::Source, Field::SourcePort)
            } else {
                (Field::Destination, Field::DestinationPort)
            };
            match part {
                Part::Address => row.push(Test::Address {
                    field: address,
                    ranges: vec![self.addresses(value)?],
                }),
                Part::Port => row.push(Test::ranges(port, vec![a_port(value)?])),
                Part::Service => {
                    let (kind, value) = value.split_once(':')?;
                    let kind = protocol(kind)?;
                    row.push(Test::number(Field::Protocol, kind));
                    // What others have in the place of a port no connection has.
                    if matches!(kind, 6 | 17) {
                        row.push(Test::ranges(port, vec![a_port(value)?]));
                    }
                }
            }
        }
        Some(row)
    }

    fn addresses(&self, text: &str) -> Option<(IpAddr, IpAddr)> {
        let family = if text.contains(':') {
            Family::Ipv6
        } else {
            Family::Ipv4
        };
        let (first, last) = network(text, family)?;
        match self.mask {
            Some(mask) => prefix(first, mask),
            None => Some((first, last)),
        }
    }
}

fn changes(name: &str) -> String {
    format!("the set `{name}` changes with time and traffic")
}

/// What elements of a type are made of; `None` for a type that is not known.
fn parts(kind: &str) -> Option<Vec<Part>> {
    match kind.split_once(':')? {
        ("bitmap", "ip") => Some(vec![Part::Address]),
        ("bitmap", "port") => Some(vec![Part::Port]),
        ("hash", parts) => {
            let part = |name| match name {
                "ip" | "net" => Some(Part::Address),
                "port" => Some(Part::Service),
                _ => None,
            };
            let parts: Vec<Part> = parts.split(',').map(part).collect::<Option<_>>()?;
            (parts.len() <= MAX_PARTS).then_some(parts)
        }
        _ => None,
    }
}

fn a_port(text: &str) -> Option<(u32, u32)> {
    range(text, '-', u32::from(u16::MAX))
}

/// Any of the rows; where each is one range of the same field, all of the ranges.
fn joined(rows: Vec<Vec<Test>>) -> Test {
    let mut all: Option<Test> = None;
    for row in &rows {
        match (&mut all, row.as_slice()) {
            (None, [only @ (Test::Address { .. } | Test::Number { .. })]) => {
                all = Some(only.clone());
            }
            (Some(Test::Address { ranges, .. }), [Test::Address { ranges: more, .. }]) => {
                ranges.extend(more);
            }
            (Some(Test::Number { ranges, .. }), [Test::Number { ranges: more, .. }]) => {
                ranges.extend(more);
            }
            _ => return Test::Rows(rows),
        }
    }
    all.unwrap_or(Test::Rows(rows))
}

/// The words behind these options in the rules of a save program.
fn values<'a>(rules: &'a str, options: &'static [&'static str]) -> impl Iterator<Item = &'a str> {
    let lines = rules.lines().filter(|line| line.contains("-set "));
    lines.flat_map(move |line| {
        let words = line.split_whitespace();
        let next = words.clone().skip(1);
        let pairs = words.zip(next);
        pairs.filter_map(move |(option, value)| options.contains(&option).then_some(value))
    })
}

#[cfg(test)]
#[path = "ipset_tests.rs"]
mod tests;
