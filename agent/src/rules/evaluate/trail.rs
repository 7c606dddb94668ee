//! Which rules applied, and which of them decided.
//!
//! Kept as places while walking, and told in words only at the end: most connections are asked about for one number. A
//! direct connection was decided by the rule that led it past one that redirects; where no rule did, nothing decided.

use super::super::{
    matching::{Field, Match, Test},
    path::{Outcome, Step},
    ruleset::{Action, Ruleset},
};
use super::order::{Called, ChainAt};

/// Steps that are kept.
const MAX_STEPS: usize = 64;
/// Chains that are looked into for a rule that redirects.
const MAX_CHAINS: usize = 256;

/// The place of a rule, or of a chain's policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    chain: ChainAt,
    rule: Option<usize>,
    base: Option<Called>,
}

/// What happened on one way.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    pub(super) steps: Vec<At>,
    /// The rule that redirected or stopped.
    pub(super) decided: Option<At>,
    let_go: Option<(At, usize)>,
}

impl At {
    pub(super) const fn new(chain: ChainAt, rule: usize, base: Option<Called>) -> Self {
        Self {
            chain,
            rule: Some(rule),
            base,
        }
    }

    pub(super) const fn policy(of: Called) -> Self {
        Self {
            chain: of.at,
            rule: None,
            base: Some(of),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.chain, self.rule) == (other.chain, other.rule)
    }

    /// In words.
    pub(super) fn step(&self, rules: &Ruleset) -> Option<Step> {
        let table = rules.tables.get(self.chain.table)?;
        let chain = table.chains.get(self.chain.chain)?;
        Step::of(
            table,
            chain,
            self.rule,
            self.base.map(|called| (called.hook, called.kind)),
        )
    }
}

impl Trail {
    pub(super) fn add(&mut self, at: At) {
        let again = self.steps.last().is_some_and(|last| last.is_same(&at));
        if !again && self.steps.len() < MAX_STEPS {
            self.steps.push(at);
        }
    }

    /// The last rule of the first hook that has one: later hooks only see what the first let through.
    pub(super) fn let_go(&mut self, at: At, hook: usize) {
        if self.let_go.is_none_or(|(_, before)| before == hook) {
            self.let_go = Some((at, hook));
        }
    }

    pub(super) fn decided_by(&self, outcome: Outcome) -> Option<At> {
        match outcome {
            Outcome::Direct => self.let_go.map(|(at, _)| at),
            Outcome::Unknown => None,
            _ => self.decided,
        }
    }
}

/// Whether the chain redirects, from this rule on, itself or by a chain it leads to.
pub(super) fn can_redirect(rules: &Ruleset, at: ChainAt, first: usize) -> bool {
    let Some(table) = rules.tables.get(at.table) else {
        return false;
    };
    let mut asked: Vec<usize> = Vec::new();
    let mut open = vec![(at.chain, first)];
    while let Some((chain, first)) = open.pop() {
        let all = table
            .chains
            .get(chain)
            .map_or(&[][..], |chain| &chain.rules);
        for rule in all.get(first..).unwrap_or(&[]) {
            if rule.redirects() {
                return true;
            }
            for next in rule.actions().flat_map(Action::targets) {
                if !asked.contains(&next) && asked.len() < MAX_CHAINS {
                    asked.push(next);
                    open.push((next, 0));
                }
            }
        }
    }
    false
}

/// Why nobody can know whether a condition holds.
pub(super) fn why(condition: &Match) -> String {
    match &condition.test {
        Test::Unknown(what) => what.clone(),
        Test::Number { field, .. } | Test::Bits { field, .. } => not_known(*field),
        Test::Address { field, .. } | Test::Interface { field, .. } => not_known(*field),
        Test::Rows(rows) => {
            let unknown = rows.iter().flatten().find_map(|test| match test {
                Test::Unknown(what) => Some(what.clone()),
                _ => None,
            });
            unknown.unwrap_or_else(|| "a part of it is not known".to_owned())
        }
        Test::Always => "a part of it is not known".to_owned(),
    }
}

fn not_known(field: Field) -> String {
    let what = match field {
        Field::Uid => "the user of the socket",
        Field::Gid => "the group of the socket",
        Field::Source => "the source address",
        Field::SourcePort | Field::EitherPort => "the source port",
        Field::Destination => "the destination address after rewriting",
        Field::InInterface | Field::OutInterface => "the interface",
        Field::Listener | Field::Wildcard => "who listens where the packet goes",
        Field::Mark | Field::ConnMark => "the mark",
        Field::SourceKind | Field::DestinationKind => "whether the address is one of the namespace",
        _ => "a value that the rule asks for",
    };
    format!("{what} is not known")
}
