//! The facts beside a reason, in words: what rules there are, which nothing leads to, who took
//! them away and when.
//!
//! Words only: nothing is decided here, and nothing is said that the rules or the kernel did not.

use super::{Facts, Question};
use crate::{
    engine::{
        rulebook::{Read, RulesChange},
        sockets::{Listens, Namespace},
    },
    model::{Direction, Family, Time},
    rules::{self, Connection, Redirector, Ruleset},
};

/// What there is, by backend and family.
pub(in crate::engine) fn seen(rules: &Ruleset) -> String {
    let line = |table: &rules::Table| {
        let n: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
        format!(
            "{} {} {} ({n} rules)",
            table.backend.as_str(),
            table.family.as_str(),
            table.name
        )
    };
    let with_rules = |table: &&rules::Table| table.has_effect();
    let tables: Vec<String> = rules.tables.iter().filter(with_rules).map(line).collect();
    if tables.is_empty() {
        "none, in any backend and family".to_owned()
    } else {
        tables.join(", ")
    }
}

pub(super) fn removed_facts(
    now: &Read,
    was: &Read,
    q: &Question<'_>,
    connection: &Connection,
    facts: &mut Facts,
) {
    facts.push(("rules_removed", ago(q.at, now.first, "counted")));
    facts.push((
        "changed_by",
        now.by.as_ref().map_or_else(
            || "not known: this kernel does not tell who changes rules".to_owned(),
            who,
        ),
    ));
    if let Some(step) = rules::evaluate(&was.rules, connection).decided_by {
        facts.push(("rule_before", step.to_string()));
    }
}

/// Who changed rules.
pub(in crate::engine) fn who(change: &RulesChange) -> String {
    let process = &change.process;
    format!(
        "process {}[{}], user {}, in {}",
        process.comm,
        process.pid,
        change.uid,
        change.backend.as_str()
    )
}

/// Chains that nothing leads to and that do lead to the proxy.
pub(super) fn strays(rules: &Ruleset, family: Family, ours: &[&Redirector], facts: &mut Facts) {
    for stray in rules::strays(rules, family).iter().take(3) {
        facts.push((
            "chain_not_reached",
            format!(
                "{} {} {}: {} rules, and no rule leads there",
                stray.backend.as_str(),
                stray.table,
                stray.chain,
                stray.rules
            ),
        ));
    }
    if let Some(rule) = ours.iter().find(|r| !r.reached) {
        facts.push(("rule_not_reached", rule.step.to_string()));
    }
}

pub(super) fn ago(at: Time, then: Time, what: &str) -> String {
    let (word, us) = if at >= then {
        ("before", at.micros_since(then))
    } else {
        ("after", then.micros_since(at))
    };
    format!("{:.1} s {word} the connection was {what}", us as f64 / 1e6)
}

pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(" ⏎ ")
}

/// The fact of what a rule gives to the proxy and nobody takes there.
pub(in crate::engine) const NOBODY_TAKES: &str = "nobody_takes";

/// A rule gives it to the proxy, nobody listens there, and what nobody takes goes on to the app.
pub(super) fn nobody_takes(q: &Question<'_>, one: &Redirector, facts: &mut Facts) {
    let (port, family) = (q.port(), q.view.family);
    let deserted = |ns: &Namespace| ns.listens(port, family) == Listens::No;
    if q.key.direction == Direction::Inbound && q.ns.is_some_and(deserted) {
        facts.push((
            NOBODY_TAKES,
            format!("port {port}: nobody listens, and nftables lets go on what nobody takes"),
        ));
        facts.push(("rule", one.step.to_string()));
    }
}
