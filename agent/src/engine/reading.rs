//! One reading of the rules of a network namespace, as the node hands it in.
//!
//! It says for each kind of rules how the reading went: rules that could not be read must
//! never be taken for rules that are not there.

use serde::{Deserialize, Serialize};

use crate::{
    model::{Family, NetnsId},
    rules::Ruleset,
};

/// A kind of rules, by the program that prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulesSource {
    /// x_tables, IPv4.
    IptablesLegacy,
    /// x_tables, IPv6.
    Ip6tablesLegacy,
    /// Tables that iptables-nft keeps in nftables, IPv4.
    IptablesNft,
    /// Tables that iptables-nft keeps in nftables, IPv6.
    Ip6tablesNft,
    /// nftables' own, of all families.
    Nft,
    /// Sets of ipset that rules of the others name: no rules of its own.
    Ipset,
}

impl RulesSource {
    /// Those of rules, in the order in which they are read.
    pub const RULES: [Self; 5] = [
        Self::IptablesLegacy,
        Self::Ip6tablesLegacy,
        Self::IptablesNft,
        Self::Ip6tablesNft,
        Self::Nft,
    ];
    /// All, in the order in which they are read.
    pub const ALL: [Self; 6] = [
        Self::IptablesLegacy,
        Self::Ip6tablesLegacy,
        Self::IptablesNft,
        Self::Ip6tablesNft,
        Self::Nft,
        Self::Ipset,
    ];

    /// The program that prints it.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::IptablesLegacy => "iptables-legacy-save",
            Self::Ip6tablesLegacy => "ip6tables-legacy-save",
            Self::IptablesNft => "iptables-nft-save",
            Self::Ip6tablesNft => "ip6tables-nft-save",
            Self::Nft => "nft",
            Self::Ipset => "ipset",
        }
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it has rules: without a set, what asks about it is unknown, and no rule is missing.
    #[must_use]
    pub const fn has_rules(self) -> bool {
        !matches!(self, Self::Ipset)
    }

    /// The family it is about, `None` for all.
    #[must_use]
    pub const fn family(self) -> Option<Family> {
        match self {
            Self::IptablesLegacy | Self::IptablesNft => Some(Family::Ipv4),
            Self::Ip6tablesLegacy | Self::Ip6tablesNft => Some(Family::Ipv6),
            Self::Nft | Self::Ipset => None,
        }
    }
}

/// How the reading of one kind of rules went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulesRead {
    /// There is none; the kernel said so without a program.
    Empty,
    /// Read in full.
    Complete,
    /// There is some, and no program to read it.
    NoTool,
    /// The kernel does not let the agent look.
    Denied,
    /// The program did not end in time.
    TimedOut,
    /// The program printed more than is taken; nothing of it is used.
    TooBig,
    /// Something else, in the program's own words.
    Failed(String),
}

impl RulesRead {
    /// Name in metrics and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Complete => "complete",
            Self::NoTool => "no_tool",
            Self::Denied => "denied",
            Self::TimedOut => "timed_out",
            Self::TooBig => "too_big",
            Self::Failed(_) => "failed",
        }
    }

    /// From nothing to say to nothing known.
    const fn rank(&self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Complete => 1,
            Self::Failed(_) => 2,
            Self::TooBig => 3,
            Self::TimedOut => 4,
            Self::NoTool => 5,
            Self::Denied => 6,
        }
    }

    /// Whether everything there is of it is known.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        matches!(self, Self::Empty | Self::Complete)
    }
}

/// The rules of a namespace at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesReading {
    /// The namespace.
    pub netns: NetnsId,
    /// How each kind of rules was read, all of [`RulesSource::RULES`] in that order; behind them the sets, if a rule
    /// names one.
    pub sources: Vec<(RulesSource, RulesRead)>,
    /// What was read.
    pub ruleset: Ruleset,
    /// Processor time it took, microseconds.
    pub took_us: u64,
    /// Time from its begin to its end, microseconds; 0 in recordings from before it was known.
    #[serde(default)]
    pub lasted_us: u64,
}

impl RulesReading {
    /// How this kind of rules was read.
    #[must_use]
    pub fn of(&self, source: RulesSource) -> Option<&RulesRead> {
        let found = self.sources.iter().find(|(one, _)| *one == source);
        found.map(|(_, read)| read)
    }

    /// All of it in one word, the worst first: its name in metrics.
    #[must_use]
    pub fn result(&self) -> &'static str {
        let worst = self.sources.iter().map(|(_, read)| read);
        let worst = worst.max_by_key(|read| read.rank());
        worst.map_or("empty", RulesRead::as_str)
    }

    /// Whether all rules there are in the namespace are known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let known =
            |(source, read): &(RulesSource, RulesRead)| !source.has_rules() || read.is_known();
        self.sources.iter().all(known)
    }
}
