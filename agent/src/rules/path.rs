//! The answer: where a connection goes, which rule decided, and by which way it was reached.
//!
//! A rule is quoted with its place, so that a person finds it again in what the tools print. "Unknown" always says what was
//! missing; an answer must never be more certain than what was read.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Backend, Chain, ChainKind, Hook, Table, TableFamily};

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To another place than it was made to.
    Redirected {
        /// How.
        by: Redirection,
        /// The address it comes to; absent: the interface's own, which is not known.
        address: Option<IpAddr>,
        /// The port it comes to.
        port: u16,
    },
    /// Where it was made to.
    Direct,
    /// Nowhere, and nobody is told.
    Dropped,
    /// Nowhere, and its sender is told.
    Rejected,
    /// It depends on what is not known.
    Unknown,
}

/// How a connection comes to another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redirection {
    /// Its destination is rewritten.
    Nat,
    /// It is given to a local socket as it is.
    Tproxy,
}

/// A rule, or a chain's policy, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Who keeps it.
    pub backend: Backend,
    /// Family of its table.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The hook under which it was reached.
    pub hook: Option<Hook>,
    /// The kind of the base chain it was reached from.
    pub kind: Option<ChainKind>,
    /// Place in the chain, from 1; absent: the policy.
    pub number: Option<u32>,
    /// The rule as it was read, or `policy drop`.
    pub text: String,
}

/// Where a connection goes, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Where.
    pub outcome: Outcome,
    /// The rule but for which it would have been otherwise. Absent for `Direct`: no rule had anything to say.
    pub decided_by: Option<Step>,
    /// Rules that applied, in order.
    pub trail: Vec<Step>,
    /// What is not known, where the outcome is unknown.
    pub because: Vec<String>,
}

impl Path {
    /// The port of the proxy's listener it comes to, if it is redirected.
    #[must_use]
    pub const fn redirected_to(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Redirected { port, .. } => Some(port),
            _ => None,
        }
    }

    /// The whole way in lines that a person can follow.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for step in &self.trail {
            let mark = if self.decided_by.as_ref() == Some(step) {
                "▶"
            } else {
                " "
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{mark} {step}");
        }
        let why = match (&self.decided_by, self.outcome) {
            (_, Outcome::Unknown) => format!(": {}", self.because.join("; ")),
            (None, Outcome::Direct) => ": no rule applies".to_owned(),
            (Some(step), _) if !self.trail.contains(step) => format!(" by {step}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "= {}{why}", self.outcome);
        text
    }
}

impl Step {
    /// A rule by its place from 0, or the policy of a chain; `None` if there is no such rule.
    pub(super) fn of(
        table: &Table,
        chain: &Chain,
        rule: Option<usize>,
        base: Option<(Hook, ChainKind)>,
    ) -> Option<Self> {
        let text = match rule {
            Some(rule) => chain.rules.get(rule)?.text.clone(),
            None => "policy drop".to_owned(),
        };
        Some(Self {
            backend: table.backend,
            family: table.family,
            table: table.name.clone(),
            chain: chain.name.clone(),
            hook: base.map(|(hook, _)| hook),
            kind: base.map(|(_, kind)| kind),
            number: rule.and_then(|rule| u32::try_from(rule + 1).ok()),
            text,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirected { by, address, port } => {
                let how = match by {
                    Redirection::Nat => "redirected",
                    Redirection::Tproxy => "given (tproxy)",
                };
                match address {
                    Some(IpAddr::V6(address)) => write!(f, "{how} to [{address}]:{port}"),
                    Some(IpAddr::V4(address)) => write!(f, "{how} to {address}:{port}"),
                    None => write!(f, "{how} to port {port}"),
                }
            }
            Self::Direct => f.write_str("direct"),
            Self::Dropped => f.write_str("dropped"),
            Self::Rejected => f.write_str("rejected"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table, chain, text, ..
        } = self;
        write!(
            f,
            "{} {} {table} {chain}",
            self.backend.as_str(),
            self.family.as_str()
        )?;
        match self.number {
            Some(number) => write!(f, " rule {number}: {text}"),
            None => write!(f, ": {text}"),
        }
    }
}

impl Backend {
    /// Name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
            Self::Native => "nftables",
        }
    }
}

impl TableFamily {
    /// Name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Inet => "inet",
        }
    }
}
