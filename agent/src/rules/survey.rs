//! What a rule set could do, whatever the connection: the rules that send traffic elsewhere, and whether anything leads there.
//!
//! [`super::evaluate`] answers for one connection. A person who reads "no rule applies" asks next why not: there is no such
//! rule, it is in a chain that nothing jumps to, or it is about the other direction or family. That is answered here, and
//! nothing is decided by it that an evaluation could decide.

use super::{
    Action, Backend, Base, Chain, Field, Hook, Match, Protocol, Rule, Ruleset, Statement, Step,
    Table, Test, state,
};
use crate::model::{Direction, Family};

/// A rule that sends traffic to another place than it was made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirector {
    /// The rule, and the hook that leads to it.
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

/// What kind of packets is asked about: the family and the protocol.
type Kind = (Family, Protocol);

/// Every rule for packets of the family and protocol that sends elsewhere, in the order of the
/// rule set. Whether it is reached is asked for these packets, too.
#[must_use]
pub fn redirectors(
    rules: &Ruleset,
    direction: Direction,
    family: Family,
    protocol: Protocol,
) -> Vec<Redirector> {
    let kind = (family, protocol);
    let mut found = Vec::new();
    for table in tables(rules, family) {
        let reached = reached(table, Some(kind), |hook| asks(direction, hook));
        for (chain, from) in table.chains.iter().zip(reached) {
            redirecting(table, chain, kind, from, &mut found);
        }
    }
    found
}

/// The first rule that drops packets which conntrack calls INVALID, for being that: itself, or in a chain of its own.
#[must_use]
pub fn drops_invalid(rules: &Ruleset) -> Option<String> {
    let asks = |rule: &Rule| {
        rule.statements.iter().any(|statement| match statement {
            Statement::When(Match {
                negated: false,
                test: Test::Bits { field, any },
            }) => *field == Field::CtState && *any == state::INVALID,
            _ => false,
        })
    };
    let drops = |rule: &Rule, table: &Table| {
        rule.statements.iter().any(|statement| match statement {
            Statement::Do(Action::Drop | Action::Reject) => true,
            Statement::Do(Action::Jump(to) | Action::Goto(to)) => {
                let chain = to.index.and_then(|index| table.chains.get(index));
                let mut rules = chain.into_iter().flat_map(|chain| &chain.rules);
                rules
                    .any(|rule| matches!(rule.statements.as_slice(), [Statement::Do(Action::Drop)]))
            }
            _ => false,
        })
    };
    rules.tables.iter().find_map(|table| {
        let mut all = table.chains.iter().flat_map(|chain| &chain.rules);
        let found = all.find(|rule| asks(rule) && drops(rule, table))?;
        Some(found.text.clone())
    })
}

/// Chains of the family with rules in them that nothing leads to, in the order of the rule set.
#[must_use]
pub fn strays(rules: &Ruleset, family: Family) -> Vec<Stray> {
    let mut found = Vec::new();
    for table in tables(rules, family) {
        let reached = reached(table, None, |_| true);
        let lost = table.chains.iter().zip(reached);
        let lost = lost.filter(|(chain, from)| from.is_none() && !chain.rules.is_empty());
        found.extend(lost.map(|(chain, _)| Stray {
            backend: table.backend,
            table: table.name.clone(),
            chain: chain.name.clone(),
            rules: chain.rules.len(),
        }));
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

    /// Whether its conditions leave packets of the kind in; only tables of both families ask
    /// for the family.
    fn is_for(&self, (family, protocol): Kind) -> bool {
        let family = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        };
        self.matches().all(|condition| {
            let Test::Number { field, ranges, .. } = &condition.test else {
                return true;
            };
            let number = match field {
                Field::Family => family,
                Field::Protocol => protocol.number(),
                _ => return true,
            };
            let within = |(first, last): &(u32, u32)| (*first..=*last).contains(&number);
            ranges.iter().any(within) != condition.negated
        })
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

/// For every chain the base chain of these hooks that leads to it, by rules for packets of the kind if one is given.
fn reached(table: &Table, kind: Option<Kind>, hooks: impl Fn(Hook) -> bool) -> Vec<Option<Base>> {
    let base = |chain: &Chain| chain.base.filter(|base| hooks(base.hook));
    let mut reached: Vec<Option<Base>> = table.chains.iter().map(base).collect();
    let mut open: Vec<usize> = (0..reached.len())
        .filter(|&at| reached[at].is_some())
        .collect();
    while let Some(at) = open.pop() {
        let from = reached[at];
        let rules = table.chains[at].rules.iter();
        let rules = rules.filter(|rule| kind.is_none_or(|kind| rule.is_for(kind)));
        for next in rules.flat_map(Rule::actions).flat_map(Action::targets) {
            if let Some(place @ None) = reached.get_mut(next) {
                *place = from;
                open.push(next);
            }
        }
    }
    reached
}

fn redirecting(
    table: &Table,
    chain: &Chain,
    kind: Kind,
    from: Option<Base>,
    found: &mut Vec<Redirector>,
) {
    let way = from.map(|base| (base.hook, base.kind));
    for (at, rule) in chain.rules.iter().enumerate() {
        if !rule.is_for(kind) {
            continue;
        }
        let mut ports = Vec::new();
        rule.actions().for_each(|action| sent(action, &mut ports));
        found.extend(ports.into_iter().filter_map(|ports| {
            Some(Redirector {
                step: Step::of(table, chain, Some(at), way)?,
                ports,
                reached: from.is_some(),
            })
        }));
    }
}

/// The ports that an action sends to.
fn sent(action: &Action, ports: &mut Vec<Option<(u16, u16)>>) {
    match action {
        Action::Redirect { ports: to } | Action::Dnat { ports: to, .. } => ports.push(*to),
        Action::Tproxy { port, .. } => ports.push(Some((*port, *port))),
        Action::Cases(cases) => cases.iter().for_each(|(_, action)| sent(action, ports)),
        _ => {}
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::rules::{ChainKind, parse_nft, parse_save};

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
        redirectors(rules, direction, Family::Ipv4, Protocol::Tcp)
            .iter()
            .any(|r| r.reached && r.sends_to(port))
    }

    #[test]
    fn who_drops_what_is_invalid_is_found_also_behind_a_chain() {
        let found = |rules: &str| {
            let text =
                format!("*mangle\n:PREROUTING ACCEPT [0:0]\n:GONE - [0:0]\n{rules}\nCOMMIT\n");
            drops_invalid(&read(&text))
        };
        let invalid = "-A PREROUTING -m conntrack --ctstate INVALID";
        assert!(found(&format!("{invalid} -j DROP")).is_some());
        assert!(found(&format!("{invalid} -j GONE\n-A GONE -j DROP")).is_some());
        for other in [
            format!("{invalid} -j GONE\n-A GONE -p udp -j DROP"),
            format!("{invalid} -j ACCEPT"),
            "-A PREROUTING -m conntrack --ctstate INVALID,NEW -j DROP".to_owned(),
            "-A PREROUTING -m conntrack ! --ctstate INVALID -j DROP".to_owned(),
            "-A PREROUTING -p tcp -j DROP".to_owned(),
        ] {
            assert_eq!(found(&other), None, "{other}");
        }
    }

    #[test]
    fn each_direction_has_its_own() {
        let rules = read(COMPLETE);
        assert!(reached(&rules, Direction::Outbound, 15001));
        assert!(!reached(&rules, Direction::Outbound, 15006));
        assert!(reached(&rules, Direction::Inbound, 15006));
        assert!(!reached(&rules, Direction::Inbound, 15001));
        assert_eq!(strays(&rules, Family::Ipv4), []);
        assert_eq!(
            redirectors(&rules, Direction::Outbound, Family::Ipv6, Protocol::Tcp),
            []
        );
    }

    #[test]
    fn a_missing_jump_strands_all_that_is_behind_it() {
        let rules = read(&COMPLETE.replace("-A OUTPUT -j OUT\n", ""));
        assert!(!reached(&rules, Direction::Outbound, 15001));
        let strays = strays(&rules, Family::Ipv4);
        let names: Vec<&str> = strays.iter().map(|s| s.chain.as_str()).collect();
        assert_eq!(names, ["OUT", "TO"]);
        let all = redirectors(&rules, Direction::Outbound, Family::Ipv4, Protocol::Tcp);
        let one = all.iter().find(|r| r.sends_to(15001)).unwrap();
        assert_eq!((one.reached, one.step.number), (false, Some(1)));
        assert!(one.step.text.contains("15001"));
        assert_eq!(one.step.hook, None);
    }

    #[test]
    fn each_protocol_has_its_own() {
        let rules = read(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:DNS - [0:0]\n:OUT - [0:0]\n-A OUTPUT -p udp -j DNS\n-A OUTPUT ! -p udp -j OUT\n\
             -A DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053\n-A DNS -j REDIRECT --to-ports 15054\n\
             -A OUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n",
        );
        let ports = |protocol, reached| {
            let all = redirectors(&rules, Direction::Outbound, Family::Ipv4, protocol);
            let all = all.iter().filter(|r| r.reached == reached);
            all.filter_map(|r| Some(r.ports?.0)).collect::<Vec<_>>()
        };
        assert_eq!(ports(Protocol::Tcp, true), [15001]);
        assert_eq!(ports(Protocol::Tcp, false), [15054]);
        assert_eq!(ports(Protocol::Udp, true), [15053, 15054]);
        assert!(ports(Protocol::Udp, false).is_empty());
    }

    #[test]
    fn chains_in_a_circle_end() {
        let rules = read(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\nCOMMIT\n",
        );
        assert!(!reached(&rules, Direction::Outbound, 15001));
        assert_eq!(strays(&rules, Family::Ipv4), []);
    }

    #[test]
    fn a_rule_is_told_with_the_hook_that_leads_to_it() {
        let rules = read(COMPLETE);
        let all = redirectors(&rules, Direction::Outbound, Family::Ipv4, Protocol::Tcp);
        let one = all.iter().find(|r| r.reached).unwrap();
        assert_eq!(one.step.hook, Some(Hook::Output));
        assert_eq!(one.step.kind, Some(ChainKind::Nat));
    }

    #[test]
    fn the_same_redirect_in_two_backends_is_seen() {
        let mut rules = read(COMPLETE);
        parse_save(COMPLETE, Backend::Nft, Family::Ipv4, &mut rules);
        let all = redirectors(&rules, Direction::Outbound, Family::Ipv4, Protocol::Tcp);
        let both = all.iter().filter(|r| r.reached && r.sends_to(15001));
        let both: Vec<Backend> = both.map(|r| r.step.backend).collect();
        assert_eq!(both, [Backend::Legacy, Backend::Nft]);
    }

    #[test]
    fn a_rule_for_one_family_in_a_table_of_both_counts_for_that_one() {
        let json = r#"{"nftables":[{"table":{"family":"inet","name":"t"}},
            {"chain":{"family":"inet","table":"t","name":"o","type":"nat","hook":"output","prio":-100,"policy":"accept"}},
            {"chain":{"family":"inet","table":"t","name":"six"}},
            {"rule":{"family":"inet","table":"t","chain":"o","expr":[
              {"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"127.0.0.1"}},
              {"redirect":{"port":15001}}]}},
            {"rule":{"family":"inet","table":"t","chain":"o","expr":[
              {"match":{"op":"==","left":{"meta":{"key":"nfproto"}},"right":"ipv6"}},{"jump":{"target":"six"}}]}},
            {"rule":{"family":"inet","table":"t","chain":"six","expr":[{"redirect":{"port":15002}}]}}]}"#;
        let mut rules = Ruleset::default();
        parse_nft(json, &mut rules).unwrap();
        let ports = |family| {
            let all = redirectors(&rules, Direction::Outbound, family, Protocol::Tcp);
            let reached = all.iter().filter(|r| r.reached);
            reached.filter_map(|r| r.ports).collect::<Vec<_>>()
        };
        assert_eq!(ports(Family::Ipv4), [(15001, 15001)]);
        assert_eq!(ports(Family::Ipv6), [(15002, 15002)]);
        assert_eq!(strays(&rules, Family::Ipv4), []);
    }
}
