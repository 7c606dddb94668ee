//! Small questions that a diagnosis asks of a rule set, besides where one connection goes.
//!
//! They are about what *could* happen under the rules, for any connection; [`super::evaluate`] is about one of them.

use super::{
    matching::{Field, Match, Test},
    path::Step,
    ruleset::{Action, Backend, Base, Chain, Hook, Rule, Ruleset, Statement, Table},
};
use crate::model::{Direction, Family};

impl Ruleset {
    /// Whether no table of the backend has a rule for the family, or a policy other than to accept.
    #[must_use]
    pub fn is_empty_for(&self, backend: Backend, family: Family) -> bool {
        let mut tables = self.tables.iter();
        !tables.any(|table| {
            table.backend == backend && table.family.includes(family) && table.has_effect()
        })
    }

    /// Whether any connection of the family and direction could be redirected.
    #[must_use]
    pub fn has_redirect(&self, family: Family, direction: Direction) -> bool {
        !self.redirects(family, direction).is_empty()
    }

    /// Rules that redirect connections of the family and direction, as far as the kernel can come to them.
    #[must_use]
    pub fn redirects(&self, family: Family, direction: Direction) -> Vec<Step> {
        self.reached(family, direction, |rule| rule.redirects())
    }

    /// The same, to this port only. Several backends among them: the same redirect is installed twice.
    #[must_use]
    pub fn redirects_to(&self, port: u16, family: Family, direction: Direction) -> Vec<Step> {
        self.reached(family, direction, |rule| {
            rule.actions().any(|action| action.redirects_to(port))
        })
    }

    fn reached(
        &self,
        family: Family,
        direction: Direction,
        wanted: impl Fn(&Rule) -> bool,
    ) -> Vec<Step> {
        let hook = match direction {
            Direction::Outbound => Hook::Output,
            Direction::Inbound => Hook::Prerouting,
        };
        let mut all = Vec::new();
        for table in self
            .tables
            .iter()
            .filter(|table| table.family.includes(family))
        {
            let is_meant = |base: &Base| base.hook == hook;
            for (chain, base) in reachable(table, Some(family), is_meant)
                .into_iter()
                .zip(&table.chains)
            {
                let Some(reached_from) = chain else { continue };
                let rules = base.rules.iter().enumerate();
                let rules = rules.filter(|(_, rule)| wanted(rule) && rule.is_for(family));
                let way = Some((reached_from.hook, reached_from.kind));
                all.extend(rules.filter_map(|(at, _)| Step::of(table, base, Some(at), way)));
            }
        }
        all
    }

    /// Rules that redirect, in chains that nothing leads to: the jump to them is missing. For tables that have packets of
    /// the family.
    #[must_use]
    pub fn orphans(&self, family: Family) -> Vec<Step> {
        let mut all = Vec::new();
        for table in self
            .tables
            .iter()
            .filter(|table| table.family.includes(family))
        {
            let reached = reachable(table, None, |_| true);
            let lost = (table.chains.iter().zip(reached)).filter(|(_, reached)| reached.is_none());
            for (chain, _) in lost {
                let rules = chain.rules.iter().enumerate();
                let rules = rules.filter(|(_, rule)| rule.redirects() && rule.is_for(family));
                all.extend(rules.filter_map(|(at, _)| Step::of(table, chain, Some(at), None)));
            }
        }
        all
    }
}

/// For every chain of a table the base chain it is reached from, if any.
fn reachable(
    table: &Table,
    family: Option<Family>,
    is_meant: impl Fn(&Base) -> bool,
) -> Vec<Option<Base>> {
    let base = |chain: &Chain| chain.base.filter(&is_meant);
    let mut reached: Vec<Option<Base>> = table.chains.iter().map(base).collect();
    let mut open: Vec<usize> = (0..reached.len())
        .filter(|&at| reached[at].is_some())
        .collect();
    while let Some(at) = open.pop() {
        let from = reached[at];
        let rules = table.chains[at].rules.iter();
        let rules = rules.filter(|rule| family.is_none_or(|family| rule.is_for(family)));
        for next in rules.flat_map(Rule::actions).flat_map(Action::targets) {
            if let Some(place @ None) = reached.get_mut(next) {
                *place = from;
                open.push(next);
            }
        }
    }
    reached
}

impl Action {
    fn redirects_to(&self, asked: u16) -> bool {
        match self {
            Self::Redirect { ports } | Self::Dnat { ports, .. } => {
                ports.is_some_and(|(first, last)| (first..=last).contains(&asked))
            }
            Self::Tproxy { port, .. } => *port == asked,
            Self::Cases(cases) => cases.iter().any(|(_, action)| action.redirects_to(asked)),
            _ => false,
        }
    }
}

impl Rule {
    /// What it does, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::Do(action) => Some(action),
                Statement::When(_) => None,
            })
    }

    /// Its conditions, in order.
    pub fn matches(&self) -> impl Iterator<Item = &Match> {
        self.statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::When(condition) => Some(condition),
                Statement::Do(_) => None,
            })
    }

    /// Whether one of its conditions is about the field: tells *why* a rule let a connection go.
    #[must_use]
    pub fn asks_for(&self, field: Field) -> bool {
        self.matches().any(|condition| condition.is_about(field))
    }

    /// Whether it redirects itself.
    #[must_use]
    pub fn redirects(&self) -> bool {
        self.actions().any(Action::redirects)
    }

    /// Whether its conditions leave packets of the family in.
    #[must_use]
    pub fn is_for(&self, family: Family) -> bool {
        let number = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        };
        self.matches().all(|condition| match &condition.test {
            Test::Number {
                field: Field::Family,
                ranges,
                ..
            } => {
                let within = |(first, last): &(u32, u32)| (*first..=*last).contains(&number);
                ranges.iter().any(within) != condition.negated
            }
            _ => true,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::rules::{parse_nft, parse_save};

    const RULES: &str = "*nat\n-N OUT\n-N LOST\n-A OUTPUT -p tcp -j OUT\n-A OUT -p tcp -j REDIRECT --to-ports 15001\n\
                         -A LOST -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n";

    fn places(steps: &[Step]) -> Vec<String> {
        let place = |step: &Step| {
            format!(
                "{} {} {}",
                step.backend.as_str(),
                step.chain,
                step.number.unwrap_or(0)
            )
        };
        steps.iter().map(place).collect()
    }

    fn legacy() -> Ruleset {
        let mut rules = Ruleset::default();
        parse_save(RULES, Backend::Legacy, Family::Ipv4, &mut rules);
        rules
    }

    #[test]
    fn a_redirect_counts_where_the_kernel_comes_to_it() {
        let rules = legacy();
        let out = rules.redirects(Family::Ipv4, Direction::Outbound);
        assert_eq!(places(&out), ["iptables-legacy OUT 1"]);
        assert!(!rules.has_redirect(Family::Ipv4, Direction::Inbound));
        assert!(!rules.has_redirect(Family::Ipv6, Direction::Outbound));
    }

    #[test]
    fn a_chain_without_a_jump_to_it_is_an_orphan() {
        let rules = legacy();
        assert_eq!(
            places(&rules.orphans(Family::Ipv4)),
            ["iptables-legacy LOST 1"]
        );
        assert_eq!(rules.orphans(Family::Ipv6), []);
        let mut joined = Ruleset::default();
        let text = RULES.replace("COMMIT", "-A PREROUTING -j LOST\nCOMMIT");
        parse_save(&text, Backend::Legacy, Family::Ipv4, &mut joined);
        assert_eq!(joined.orphans(Family::Ipv4), []);
    }

    #[test]
    fn the_same_redirect_in_two_backends_is_seen() {
        let mut rules = legacy();
        parse_save(RULES, Backend::Nft, Family::Ipv4, &mut rules);
        let both = rules.redirects_to(15001, Family::Ipv4, Direction::Outbound);
        assert_eq!(
            places(&both),
            ["iptables-legacy OUT 1", "iptables-nft OUT 1"]
        );
        assert_eq!(
            rules.redirects_to(15006, Family::Ipv4, Direction::Outbound),
            []
        );
    }

    #[test]
    fn empty_is_asked_by_backend_and_family() {
        let rules = legacy();
        assert!(!rules.is_empty_for(Backend::Legacy, Family::Ipv4));
        assert!(rules.is_empty_for(Backend::Legacy, Family::Ipv6));
        assert!(rules.is_empty_for(Backend::Nft, Family::Ipv4));
        let mut untouched = Ruleset::default();
        parse_save(
            "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n",
            Backend::Nft,
            Family::Ipv4,
            &mut untouched,
        );
        assert!(untouched.is_empty_for(Backend::Nft, Family::Ipv4));
    }

    #[test]
    fn a_rule_for_one_family_in_a_table_of_both_counts_for_that_one() {
        let json = include_str!("../../tests/rules/native-strangers/nft.json");
        let mut rules = Ruleset::default();
        parse_nft(json, &mut rules).unwrap();
        assert_eq!(
            rules
                .redirects_to(15001, Family::Ipv4, Direction::Outbound)
                .len(),
            1
        );
        let inet = r#"{"nftables":[{"table":{"family":"inet","name":"t"}},
            {"chain":{"family":"inet","table":"t","name":"o","type":"nat","hook":"output","prio":-100,"policy":"accept"}},
            {"rule":{"family":"inet","table":"t","chain":"o","expr":[
              {"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"127.0.0.1"}},
              {"redirect":{"port":15001}}]}}]}"#;
        parse_nft(inet, &mut rules).unwrap();
        assert!(rules.has_redirect(Family::Ipv4, Direction::Outbound));
        assert!(!rules.has_redirect(Family::Ipv6, Direction::Outbound));
    }
}
