//! What a rule set could do, whatever the connection: the rules that send traffic elsewhere, and whether anything leads there.
//!
//! [`super::evaluate`] answers for one connection. A person who reads "no rule applies" asks next why not: there is no such
//! rule, it is in a chain that nothing jumps to, or it is about the other direction. That is answered here, and nothing is
//! decided by it that an evaluation could decide.

use std::collections::BTreeSet;

use super::{Action, Backend, Chain, Hook, Rule, Ruleset, Step, Table};
use crate::model::{Direction, Family};

/// A rule that sends traffic to another place than it was made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirector {
    /// The rule.
    pub step: Step,
    /// Ports it may send to, both ends included; absent: it leaves the port as it is.
    pub ports: Option<(u16, u16)>,
    /// A base chain of the direction that was asked about leads to it.
    pub reached: bool,
}

impl Redirector {
    /// Whether it may send to this port.
    #[must_use]
    pub fn sends_to(&self, port: u16) -> bool {
        self.ports
            .is_some_and(|(first, last)| (first..=last).contains(&port))
    }
}

/// A chain with rules that no base chain leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Who keeps it.
    pub backend: Backend,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Rules in it.
    pub rules: usize,
}

/// Every rule for packets of the family that sends elsewhere, in the order of the rule set.
#[must_use]
pub fn redirectors(rules: &Ruleset, direction: Direction, family: Family) -> Vec<Redirector> {
    let mut found = Vec::new();
    for table in tables(rules, family) {
        let reached = reached(table, |hook| asks(direction, hook));
        for (index, chain) in table.chains.iter().enumerate() {
            redirecting(table, chain, reached.contains(&index), &mut found);
        }
    }
    found
}

/// Chains of the family with rules in them that nothing leads to, in the order of the rule set.
#[must_use]
pub fn strays(rules: &Ruleset, family: Family) -> Vec<Stray> {
    let mut found = Vec::new();
    for table in tables(rules, family) {
        let reached = reached(table, |_| true);
        let stray =
            |(index, chain): &(usize, &Chain)| !reached.contains(index) && !chain.rules.is_empty();
        found.extend(
            table
                .chains
                .iter()
                .enumerate()
                .filter(stray)
                .map(|(_, chain)| Stray {
                    backend: table.backend,
                    table: table.name.clone(),
                    chain: chain.name.clone(),
                    rules: chain.rules.len(),
                }),
        );
    }
    found
}

impl Ruleset {
    /// The rule that a step names.
    #[must_use]
    pub fn rule_at(&self, step: &Step) -> Option<&Rule> {
        let same = |table: &&Table| {
            table.backend == step.backend && table.family == step.family && table.name == step.table
        };
        let chain = self.tables.iter().find(same)?.chain(&step.chain)?;
        let number = usize::try_from(step.number?).ok()?;
        chain.rules.get(number.checked_sub(1)?)
    }
}

fn tables(rules: &Ruleset, family: Family) -> impl Iterator<Item = &Table> {
    rules
        .tables
        .iter()
        .filter(move |table| table.family.includes(family))
}

/// Where in the kernel's path a connection of this direction may be sent elsewhere.
const fn asks(direction: Direction, hook: Hook) -> bool {
    matches!(
        (direction, hook),
        (Direction::Outbound, Hook::Output) | (Direction::Inbound, Hook::Prerouting)
    )
}

/// Chains that base chains of these hooks lead to, themselves included.
fn reached(table: &Table, hooks: impl Fn(Hook) -> bool) -> BTreeSet<usize> {
    let based = |chain: &Chain| chain.base.is_some_and(|base| hooks(base.hook));
    let mut reached = BTreeSet::new();
    let mut open: Vec<usize> = (0..table.chains.len())
        .filter(|i| based(&table.chains[*i]))
        .collect();
    while let Some(index) = open.pop() {
        let Some(chain) = table.chains.get(index).filter(|_| reached.insert(index)) else {
            continue;
        };
        for action in chain.rules.iter().flat_map(Rule::actions) {
            follow(action, &mut open);
        }
    }
    reached
}

fn follow(action: &Action, open: &mut Vec<usize>) {
    match action {
        Action::Jump(target) | Action::Goto(target) => open.extend(target.index),
        Action::Cases(cases) => cases.iter().for_each(|(_, action)| follow(action, open)),
        _ => {}
    }
}

fn redirecting(table: &Table, chain: &Chain, reached: bool, found: &mut Vec<Redirector>) {
    for (number, rule) in (1_u32..).zip(&chain.rules) {
        let mut ports = Vec::new();
        rule.actions()
            .for_each(|action| targets(action, &mut ports));
        found.extend(ports.into_iter().map(|ports| Redirector {
            step: Step {
                backend: table.backend,
                family: table.family,
                table: table.name.clone(),
                chain: chain.name.clone(),
                hook: chain.base.map(|base| base.hook),
                kind: chain.base.map(|base| base.kind),
                number: Some(number),
                text: rule.text.clone(),
            },
            ports,
            reached,
        }));
    }
}

fn targets(action: &Action, ports: &mut Vec<Option<(u16, u16)>>) {
    match action {
        Action::Redirect { ports: to } | Action::Dnat { ports: to, .. } => ports.push(*to),
        Action::Tproxy { port, .. } => ports.push(Some((*port, *port))),
        Action::Cases(cases) => cases.iter().for_each(|(_, action)| targets(action, ports)),
        _ => {}
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::rules::parse_save;

    const COMPLETE: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
        :IN - [0:0]\n:OUT - [0:0]\n:TO - [0:0]\n\
        -A PREROUTING -p tcp -j IN\n-A OUTPUT -j OUT\n\
        -A IN -p tcp -j REDIRECT --to-ports 15006\n\
        -A OUT -m owner --uid-owner 1337 -j RETURN\n-A OUT -g TO\n\
        -A TO -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";

    fn read(text: &str) -> Ruleset {
        let mut rules = Ruleset::default();
        parse_save(text, Backend::Legacy, Family::Ipv4, &mut rules);
        assert!(rules.problems.is_empty(), "{:?}", rules.problems);
        rules
    }

    fn reached(rules: &Ruleset, direction: Direction, port: u16) -> bool {
        redirectors(rules, direction, Family::Ipv4)
            .iter()
            .any(|r| r.reached && r.sends_to(port))
    }

    #[test]
    fn each_direction_has_its_own() {
        let rules = read(COMPLETE);
        assert!(reached(&rules, Direction::Outbound, 15001));
        assert!(!reached(&rules, Direction::Outbound, 15006));
        assert!(reached(&rules, Direction::Inbound, 15006));
        assert!(!reached(&rules, Direction::Inbound, 15001));
        assert_eq!(strays(&rules, Family::Ipv4), []);
        assert_eq!(redirectors(&rules, Direction::Outbound, Family::Ipv6), []);
    }

    #[test]
    fn a_missing_jump_strands_all_that_is_behind_it() {
        let rules = read(&COMPLETE.replace("-A OUTPUT -j OUT\n", ""));
        assert!(!reached(&rules, Direction::Outbound, 15001));
        let strays = strays(&rules, Family::Ipv4);
        let names: Vec<&str> = strays.iter().map(|s| s.chain.as_str()).collect();
        assert_eq!(names, ["OUT", "TO"]);
        let all = redirectors(&rules, Direction::Outbound, Family::Ipv4);
        let one = all.iter().find(|r| r.sends_to(15001)).unwrap();
        assert_eq!((one.reached, one.step.number), (false, Some(1)));
        assert!(one.step.text.contains("15001"));
    }

    #[test]
    fn chains_in_a_circle_end() {
        let rules = read(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\nCOMMIT\n",
        );
        assert!(!reached(&rules, Direction::Outbound, 15001));
        assert_eq!(strays(&rules, Family::Ipv4), []);
    }
}
