//! The live rules of one network namespace as plain data, whichever backend they came from.
//!
//! Both netfilter dialects are brought to one form: a rule is a list of statements, each a condition or an action, done in
//! order. What could not be understood stays in its place as *unknown*, so that the evaluation knows that it does not know;
//! nothing is silently left out. Everything is bounded here, because a namespace's owner decides how much is in it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::matching::Match;
use crate::model::Family;

/// Rules that are kept of a namespace. A node's own namespace has some ten thousand, a pod's some dozen.
pub const MAX_RULES: usize = 100_000;
/// Chains that are kept of a namespace.
pub const MAX_CHAINS: usize = 50_000;
/// Tables that are kept of a namespace.
pub const MAX_TABLES: usize = 256;
/// Problems that are kept; what is beyond is counted in [`Ruleset::more_problems`].
pub const MAX_PROBLEMS: usize = 32;
/// Bytes of a rule's text that are kept.
pub const MAX_TEXT: usize = 1024;

/// Who keeps the rules: three places in the kernel's user interface, all live at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The `ip_tables` modules, seen by `iptables-legacy-save`.
    Legacy,
    /// Tables that `iptables-nft` keeps in nftables, seen by `iptables-nft-save`.
    Nft,
    /// nftables proper, seen by `nft list ruleset`.
    Native,
}

/// The packets that a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableFamily {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Inet,
}

/// Where in the kernel's path of a packet a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Came in, not routed yet.
    Prerouting,
    /// Is for this namespace.
    Input,
    /// Is passed on.
    Forward,
    /// Was made here.
    Output,
    /// Is about to go out.
    Postrouting,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Address translation: asked for the first packet of a connection only.
    Nat,
    /// As filter, and the packet is routed again if it was changed.
    Route,
}

/// What happens to a packet that comes to the end of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
}

/// What makes a chain one that the kernel calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// In which order, smaller first.
    pub priority: i32,
    /// What it may do.
    pub kind: ChainKind,
    /// What the end of it means.
    pub policy: Policy,
}

/// Everything that was read in one network namespace, from however many sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// In the order in which they were read.
    pub tables: Vec<Table>,
    /// What could not be understood, and where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Problems beyond [`MAX_PROBLEMS`].
    #[serde(default)]
    pub more_problems: u32,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Who keeps it.
    pub backend: Backend,
    /// The packets that it is about.
    pub family: TableFamily,
    /// `nat`, `mangle`, … or whatever a native table is called.
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Name, unique in its table.
    pub name: String,
    /// Absent: only rules lead here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As it was read, in one line.
    pub text: String,
    /// Conditions and actions; the first condition that does not hold ends the rule.
    pub statements: Vec<Statement>,
    /// How many packets it has seen, where the source told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// A piece of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// Go on only if.
    When(Match),
    /// Do.
    Do(Action),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing that decides where a packet goes: counts, logs, sets a zone, changes options.
    Nothing,
    /// This base chain is done, the packet goes on.
    Accept,
    /// The packet is gone.
    Drop,
    /// The packet is gone and its sender is told.
    Reject,
    /// Back to the chain that led here.
    Return,
    /// To another chain, and back.
    Jump(Target),
    /// To another chain, not back to this one.
    Goto(Target),
    /// To this namespace itself.
    Redirect {
        /// To one of these ports; absent: the port stays.
        ports: Option<(u16, u16)>,
    },
    /// To another address, another port, or both.
    Dnat {
        /// One of these addresses; absent: the address stays.
        addresses: Option<(IpAddr, IpAddr)>,
        /// One of these ports; absent: the port stays.
        ports: Option<(u16, u16)>,
    },
    /// The source becomes another.
    SourceNat,
    /// To a local socket, with the destination as it is.
    Tproxy {
        /// The listener's address; absent or unspecified: that of the interface.
        address: Option<IpAddr>,
        /// The listener's port; 0: the packet's own.
        port: u16,
        /// Whether this base chain is done with the packet.
        ends: bool,
    },
    /// A mark changes.
    SetMark(SetMark),
    /// The connection will not be tracked, hence not translated.
    Notrack,
    /// The first case that holds is done, if any.
    Cases(Vec<(Match, Self)>),
    /// Not understood: may do anything.
    Unknown(String),
}

/// A chain of the same table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub chain: String,
    /// Its place in [`Table::chains`]; absent: there is no such chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// Which mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkOf {
    /// The packet's.
    Packet,
    /// The connection's.
    Connection,
}

/// `on = (on & keep) ^ (from & mask) ^ xor`: every way to set a mark that either dialect has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMark {
    /// The mark that changes.
    pub on: MarkOf,
    /// The bits of it that stay.
    pub keep: u32,
    /// Bits that come from a mark.
    pub from: Option<(MarkOf, u32)>,
    /// Bits that are turned.
    pub xor: u32,
}

/// Something that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The source it is in.
    pub backend: Backend,
    /// The line (text) or the object (JSON) of the source, counted from 1; 0: the source as a whole.
    pub line: u32,
    /// What, in plain words.
    pub what: String,
}

impl TableFamily {
    /// Whether packets of the family come to the table.
    #[must_use]
    pub const fn includes(self, family: Family) -> bool {
        matches!(
            (self, family),
            (Self::Inet, _) | (Self::Ipv4, Family::Ipv4) | (Self::Ipv6, Family::Ipv6)
        )
    }
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Ipv4,
            Family::Ipv6 => Self::Ipv6,
        }
    }
}

impl Table {
    /// The chain of this name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Lets every jump know the place of its chain. Parsers call it when the table is complete.
    pub(super) fn link(&mut self) {
        let places: std::collections::HashMap<String, usize> = (self.chains.iter().enumerate())
            .map(|(index, chain)| (chain.name.clone(), index))
            .collect();
        for rule in self.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            for statement in &mut rule.statements {
                if let Statement::Do(action) = statement {
                    action.link(&places);
                }
            }
        }
    }
}

impl Action {
    fn link(&mut self, places: &std::collections::HashMap<String, usize>) {
        match self {
            Self::Jump(target) | Self::Goto(target) => {
                target.index = places.get(&target.chain).copied();
            }
            Self::Cases(cases) => cases.iter_mut().for_each(|(_, action)| action.link(places)),
            _ => {}
        }
    }

    /// The chains it may lead to, by place.
    pub(super) fn targets(&self) -> Vec<usize> {
        match self {
            Self::Jump(target) | Self::Goto(target) => target.index.into_iter().collect(),
            Self::Cases(cases) => (cases.iter())
                .flat_map(|(_, action)| action.targets())
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it can send a connection to another place than it asked for.
    #[must_use]
    pub fn redirects(&self) -> bool {
        match self {
            Self::Redirect { .. } | Self::Dnat { .. } | Self::Tproxy { .. } => true,
            Self::Cases(cases) => cases.iter().any(|(_, action)| action.redirects()),
            _ => false,
        }
    }
}

impl Ruleset {
    /// Whether nothing at all was read that has a rule, or a policy other than to accept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.tables.iter().any(Table::has_effect)
    }

    /// Without counters, equal rules are equal.
    pub fn forget_counters(&mut self) {
        let chains = self.tables.iter_mut().flat_map(|table| &mut table.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            rule.packets = None;
        }
    }

    /// Keeps a problem, or counts it where there are too many.
    pub(super) fn problem(&mut self, backend: Backend, line: usize, what: impl Into<String>) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.more_problems = self.more_problems.saturating_add(1);
            return;
        }
        self.problems.push(Problem {
            backend,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            what: what.into(),
        });
    }
}

impl Table {
    /// Whether it has a rule, or a policy other than to accept.
    #[must_use]
    pub fn has_effect(&self) -> bool {
        self.chains.iter().any(Chain::has_effect)
    }
}

impl Chain {
    /// Whether it has a rule, or a policy other than to accept.
    #[must_use]
    pub fn has_effect(&self) -> bool {
        let drops = |base: Base| base.policy == Policy::Drop;
        !self.rules.is_empty() || self.base.is_some_and(drops)
    }
}

/// A text, cut where it is longer than anybody reads: words of a rule may be as long as what was read.
pub(super) fn shorten(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at));
    format!("{}…", &text[..end.unwrap_or(0)])
}
