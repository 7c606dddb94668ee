//! The live rules of a pod's network namespace, for a person who wants to see them.
//!
//! Every backend, family and table, as read, with marks: what a typical connection of the pod passes, what decides it, what
//! redirects and is never come to. The marks are made by the same evaluation as the verdicts. Nothing is left out but
//! tables that have no rule and no policy that drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Ask, Board, PodRow, RulesChange, RulesRow, RulesSource, Why, live_in_words, why};
use crate::{
    model::{Direction, Family, PodKey, Time},
    rules::{self, Backend, Base, Chain, Problem, Protocol, Ruleset, Step, Table, TableFamily},
};

/// Peers for examples, of ranges that are nobody's (RFC 5737, RFC 3849).
const NOBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
];
/// Ports for examples: the first one that is meant to be captured is taken.
const PORTS: [u16; 3] = [8080, 80, 443];

/// How one kind of rules was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Which kind.
    pub source: RulesSource,
    /// The program that prints it.
    pub program: String,
    /// `complete`, `empty`, `no_tool`, …
    pub result: String,
    /// The same, for people.
    pub detail: String,
}

/// A typical connection of the pod, and what the rules do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Its letter in the marks.
    pub letter: char,
    /// The answer about it.
    #[serde(flatten)]
    pub why: Why,
}

/// What an example does at a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The example's letter.
    pub example: char,
    /// It is this rule that decides.
    pub decides: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// As it was read.
    pub text: String,
    /// It sends connections elsewhere.
    pub redirects: bool,
    /// Examples that it applies to.
    pub marks: Vec<Mark>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainView {
    /// Name.
    pub name: String,
    /// Hook, priority, kind and policy of a chain that the kernel calls.
    pub base: Option<Base>,
    /// It has rules, and nothing leads to it.
    pub stray: bool,
    /// In order.
    pub rules: Vec<RuleView>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableView {
    /// Who keeps it.
    pub backend: Backend,
    /// Its packets.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// Its chains.
    pub chains: Vec<ChainView>,
}

/// The live rules of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesView {
    /// The pod.
    pub pod: PodKey,
    /// Its network namespace, once known.
    pub netns: Option<u32>,
    /// When the rules were read last; `None`: not yet.
    pub read: Option<Time>,
    /// Since when they are as they are, as far as the agent looked.
    pub since: Option<Time>,
    /// How each kind of rules was read.
    pub sources: Vec<SourceView>,
    /// The last change the kernel told.
    pub changed: Option<RulesChange>,
    /// Changes it told.
    pub changes: u64,
    /// They were read before and were different.
    pub differed: bool,
    /// Typical connections of the pod.
    pub examples: Vec<Example>,
    /// Tables with rules.
    pub tables: Vec<TableView>,
    /// Tables without, left out.
    pub empty_tables: usize,
    /// What could not be understood.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub more_problems: u32,
}

/// The live rules of a pod of the board.
#[must_use]
pub fn rules_view(board: &Board, pod: &PodRow) -> RulesView {
    let row = board.rules.iter().find(|row| row.pod == pod.pod);
    let live = row.and_then(|row| row.live.as_ref());
    let nothing = Ruleset::default();
    let rules = live.map_or(&nothing, |live| &*live.rules);
    let examples = match live {
        Some(_) => examples(board, pod, rules),
        None => Vec::new(),
    };
    let shown: Vec<&Table> = rules.tables.iter().filter(|t| t.has_effect()).collect();
    RulesView {
        pod: pod.pod.clone(),
        netns: pod.netns,
        read: row.and_then(|row| row.read),
        since: live.map(|live| live.since),
        sources: row.map_or_else(Vec::new, sources),
        changed: row.and_then(|row| row.changed.clone()),
        changes: row.map_or(0, |row| row.changes),
        differed: row.is_some_and(|row| !row.earlier.is_empty()),
        tables: shown.iter().map(|t| table(rules, t, &examples)).collect(),
        empty_tables: rules.tables.len() - shown.len(),
        examples,
        problems: rules.problems.clone(),
        more_problems: rules.more_problems,
    }
}

fn sources(row: &RulesRow) -> Vec<SourceView> {
    row.sources
        .iter()
        .map(|(source, read)| SourceView {
            source: *source,
            program: source.program().to_owned(),
            result: read.as_str().to_owned(),
            detail: live_in_words(*source, read),
        })
        .collect()
}

/// One connection out and one in, of each family that has rules or an address of the pod.
fn examples(board: &Board, pod: &PodRow, rules: &Ruleset) -> Vec<Example> {
    let of = |family: Family| {
        let has_rules = rules
            .tables
            .iter()
            .any(|table| table.family.includes(family) && table.has_effect());
        has_rules
            || pod
                .ips
                .iter()
                .any(|ip| Family::of(ip.to_canonical()) == family)
    };
    let peers = NOBODY.into_iter().filter(|peer| of(Family::of(*peer)));
    let asks = peers.flat_map(|peer| {
        [Direction::Outbound, Direction::Inbound]
            .map(|direction| typical(board, pod, direction, peer))
    });
    ('a'..='d')
        .zip(asks)
        .map(|(letter, why)| Example { letter, why })
        .collect()
}

/// A connection that is meant to be captured, if any is.
fn typical(board: &Board, pod: &PodRow, direction: Direction, peer: IpAddr) -> Why {
    let ask = |port: u16| {
        let (remote, port) = match direction {
            Direction::Outbound => (port, 0),
            Direction::Inbound => (0, port),
        };
        why(
            board,
            pod,
            &Ask {
                direction,
                remote: SocketAddr::new(peer, remote),
                port,
                protocol: Protocol::Tcp,
                uid: None,
                gid: None,
            },
        )
    };
    let captured = |why: &Why| matches!(why.wanted.way, super::Way::Captured { .. });
    let mut all = PORTS.into_iter().map(ask);
    all.find(captured).unwrap_or_else(|| ask(PORTS[0]))
}

fn table(rules: &Ruleset, table: &Table, examples: &[Example]) -> TableView {
    let family = match table.family {
        TableFamily::Ipv6 => Family::Ipv6,
        TableFamily::Ipv4 | TableFamily::Inet => Family::Ipv4,
    };
    let strays = rules::strays(rules, family);
    let stray = |chain: &Chain| {
        strays.iter().any(|stray| {
            (stray.backend, &stray.table, &stray.chain) == (table.backend, &table.name, &chain.name)
        })
    };
    // What should lead to a stray chain is mostly an empty base chain: worth seeing then.
    let torn = table.chains.iter().any(&stray);
    TableView {
        backend: table.backend,
        family: table.family,
        name: table.name.clone(),
        chains: table
            .chains
            .iter()
            .filter(|chain| chain.has_effect() || (torn && chain.base.is_some()))
            .map(|one| chain(table, one, stray(one), examples))
            .collect(),
    }
}

fn chain(table: &Table, chain: &Chain, stray: bool, examples: &[Example]) -> ChainView {
    let view = |(number, rule): (u32, &rules::Rule)| {
        let is_it = |step: &Step| {
            (step.backend, step.family, step.number) == (table.backend, table.family, Some(number))
                && (&step.table, &step.chain) == (&table.name, &chain.name)
        };
        RuleView {
            text: rule.text.clone(),
            redirects: rule.redirects(),
            marks: marks(examples, &is_it),
        }
    };
    ChainView {
        name: chain.name.clone(),
        base: chain.base,
        stray,
        rules: (1_u32..).zip(&chain.rules).map(view).collect(),
    }
}

fn marks(examples: &[Example], is_it: &impl Fn(&Step) -> bool) -> Vec<Mark> {
    let mark = |example: &Example| {
        let path = example.why.live.path.as_ref()?;
        let decides = path.decided_by.as_ref().is_some_and(is_it);
        (decides || path.trail.iter().any(is_it)).then_some(Mark {
            example: example.letter,
            decides,
        })
    };
    examples.iter().filter_map(mark).collect()
}
