//! Walks a rule set as the kernel would for the first packet of one connection.
//!
//! Where a condition cannot be known, the walk divides and goes both ways; if all ways end alike, that is the answer, with
//! nothing unknown about it. The number of ways, of rules looked at and of chains inside chains is bounded: beyond a bound
//! the answer is unknown, never a guess and never a loop.
//!
//! What the kernel does between the rules is here too: translation is asked once per connection and the first table to
//! answer wins; a connection to the namespace itself comes in again by `lo`; raw comes before connection tracking.

mod answer;
mod order;
mod packet;
mod steps;
mod trail;
mod walk;

use super::{
    connection::Connection,
    path::{Outcome, Path},
    ruleset::Ruleset,
};
use walk::{End, Walk};

/// Where a connection goes under these rules, and which rule decides.
#[must_use]
pub fn evaluate(rules: &Ruleset, connection: &Connection) -> Path {
    let walk = Walk::new(rules, connection, false);
    let tied = walk.is_tied();
    let first = combine(walk);
    if !tied {
        return first;
    }
    let second = combine(Walk::new(rules, connection, true));
    if first.outcome == second.outcome {
        return first;
    }
    Path {
        outcome: Outcome::Unknown,
        decided_by: None,
        trail: first.trail,
        because: vec![format!(
            "two tables have the same priority and which of them comes first is not told: {} or {}",
            first.outcome, second.outcome
        )],
    }
}

/// The one answer of all ways.
fn combine(mut walk: Walk<'_>) -> Path {
    let Some(first) = walk.next_end() else {
        return walk.path(None, Outcome::Unknown);
    };
    while let Some(other) = walk.next_end() {
        if other.outcome != first.outcome {
            return differ(&walk, &first, &other);
        }
    }
    // The ways that were not walked may end otherwise.
    let outcome = if walk.is_exhausted() {
        Outcome::Unknown
    } else {
        first.outcome
    };
    walk.path(Some(&first), outcome)
}

fn differ(walk: &Walk<'_>, first: &End, other: &End) -> Path {
    let mut path = walk.path(Some(first), Outcome::Unknown);
    let both = format!("{} or {}", first.outcome, other.outcome);
    path.because.insert(0, both);
    path
}
