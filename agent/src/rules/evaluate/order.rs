//! The base chains of a hook, in the order in which the kernel calls them.
//!
//! All address translation of a hook happens at one place, wherever its chains were registered: among themselves they keep
//! their own priorities. Chains of equal priority are called in an order that no tool tells (the latest first), so the
//! caller asks for both.

use super::super::ruleset::{ChainKind, Hook, Policy, Ruleset};
use crate::model::Family;

/// A chain by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainAt {
    pub(super) table: usize,
    pub(super) chain: usize,
}

/// A base chain of a hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called {
    pub(super) at: ChainAt,
    pub(super) hook: Hook,
    pub(super) kind: ChainKind,
    pub(super) policy: Policy,
    /// Connection tracking has seen the packet before this chain.
    pub(super) tracked: bool,
    place: (i32, i32),
}

/// Where tracking sits among the priorities.
const TRACKING: i32 = -200;

/// Chains that have something to say to packets of the family, in order.
pub(super) fn called(rules: &Ruleset, family: Family, hook: Hook, reversed: bool) -> Vec<Called> {
    let mut all = Vec::new();
    for (table_at, table) in rules.tables.iter().enumerate() {
        if !table.family.includes(family) {
            continue;
        }
        for (chain_at, chain) in table.chains.iter().enumerate() {
            let Some(base) = chain.base.filter(|base| base.hook == hook) else {
                continue;
            };
            if !chain.has_effect() {
                continue;
            }
            all.push(Called {
                at: ChainAt {
                    table: table_at,
                    chain: chain_at,
                },
                hook,
                kind: base.kind,
                policy: base.policy,
                tracked: base.priority > TRACKING || base.kind == ChainKind::Nat,
                place: match base.kind {
                    ChainKind::Nat => (nat_place(hook), base.priority),
                    ChainKind::Filter | ChainKind::Route => (base.priority, 0),
                },
            });
        }
    }
    if reversed {
        all.reverse();
    }
    all.sort_by_key(|called| called.place);
    all
}

/// Whether the order is not certain.
pub(super) fn is_tied(all: &[Called]) -> bool {
    all.windows(2)
        .any(|pair| matches!(pair, [one, other] if one.place == other.place))
}

/// Where the kernel asks for translation.
const fn nat_place(hook: Hook) -> i32 {
    match hook {
        Hook::Prerouting | Hook::Output | Hook::Forward => -100,
        Hook::Input | Hook::Postrouting => 100,
    }
}
