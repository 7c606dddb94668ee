//! Reads what `iptables-save` and its three relatives print, with or without counters.
//!
//! Line by line, in one pass. What `iptables-restore` takes in addition (`-N`, `-P`, `-I`, a rule for a built-in chain that
//! was not named before) is read too, because people and tests write rules that way. A line that makes no sense becomes a
//! problem *and*, if it was a rule, an unknown rule in its chain: a rule that is left out would be a lie about all later ones.

mod ipset;
pub(in crate::rules) mod numbers;
pub(in crate::rules) mod options;
mod rule;
mod target;
mod words;

use super::ruleset::{
    Action, Backend, Base, Chain, ChainKind, Hook, MAX_CHAINS, MAX_RULES, MAX_TABLES, Policy, Rule,
    Ruleset, Statement, Table, TableFamily, shorten,
};
use crate::model::Family;
pub use ipset::IpSets;

/// Reads the output of one save program into the rule set. The tables it has replace native ones of the same family and
/// name: those are how `nft` shows what `iptables-nft` keeps.
///
/// Nothing is known of ipset's sets: what depends on their content is unknown.
pub fn parse_save(text: &str, backend: Backend, family: Family, into: &mut Ruleset) {
    parse_save_with(text, backend, family, &mut IpSets::default(), into);
}

/// The same, with the content of the sets that the rules name.
pub fn parse_save_with(
    text: &str,
    backend: Backend,
    family: Family,
    sets: &mut IpSets<'_>,
    into: &mut Ruleset,
) {
    let mut reader = Reader {
        backend,
        family,
        sets,
        table: None,
        chains: 0,
        rules: 0,
        into,
    };
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line.trim());
    }
    reader.finish_table();
}

struct Reader<'a, 't> {
    backend: Backend,
    family: Family,
    sets: &'a mut IpSets<'t>,
    table: Option<Open>,
    chains: usize,
    rules: usize,
    into: &'a mut Ruleset,
}

/// The table that is being read.
struct Open {
    table: Table,
    places: std::collections::HashMap<String, usize>,
}

impl Reader<'_, '_> {
    fn line(&mut self, number: usize, line: &str) {
        let result = match line.as_bytes().first() {
            None | Some(b'#') => Ok(()),
            Some(b'*') => self.begin_table(line[1..].trim()),
            Some(b':') => self.declare(&line[1..]),
            Some(b'-' | b'[') => self.command(line),
            Some(_) if line == "COMMIT" => {
                self.finish_table();
                Ok(())
            }
            Some(_) => Err("is neither a table, a chain nor a rule".to_owned()),
        };
        if let Err(what) = result {
            let what = format!("`{}` {}", shorten(line), shorten(&what));
            self.into.problem(self.backend, number, what);
        }
    }

    fn begin_table(&mut self, name: &str) -> Result<(), String> {
        self.finish_table();
        if self.into.tables.len() >= MAX_TABLES {
            return Err(format!("is beyond the {MAX_TABLES} tables that are read"));
        }
        if builtin_chains(name).is_empty() {
            return Err("is not a table of iptables".to_owned());
        }
        self.table = Some(Open {
            table: Table {
                backend: self.backend,
                family: TableFamily::from(self.family),
                name: name.to_owned(),
                chains: Vec::new(),
            },
            places: std::collections::HashMap::new(),
        });
        Ok(())
    }

    fn finish_table(&mut self) {
        let Some(Open { mut table, .. }) = self.table.take() else {
            return;
        };
        table.link();
        let same = |old: &Table| old.family == table.family && old.name == table.name;
        self.into.tables.retain(|old| {
            let shadow = self.backend == Backend::Nft && old.backend == Backend::Native;
            !(same(old) && (shadow || old.backend == self.backend))
        });
        self.into.tables.push(table);
    }

    /// `:NAME POLICY [packets:bytes]`
    fn declare(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let name = words.next().ok_or("has no name")?;
        let policy = words.next().unwrap_or("-");
        let chain = self.chain(name)?;
        set_policy(chain, policy)
    }

    /// A rule, or another command that a restore program takes.
    fn command(&mut self, line: &str) -> Result<(), String> {
        let (packets, rest) = counters(line);
        let words = words::split(rest);
        let mut words = words.iter().map(String::as_str);
        let (command, name) = (words.next().unwrap_or(""), words.next());
        let name = name.ok_or("names no chain")?;
        let words: Vec<&str> = words.collect();
        match command {
            "-N" | "--new-chain" => self.chain(name).map(|_| ()),
            "-P" | "--policy" => {
                let policy = words.first().copied().unwrap_or("");
                set_policy(self.chain(name)?, policy)
            }
            "-A" | "--append" => self.add(name, None, rest, &words, packets),
            "-I" | "--insert" => {
                let place = words.first().and_then(|word| word.parse::<usize>().ok());
                let words = if place.is_some() { &words[1..] } else { &words };
                let place = place.unwrap_or(1).saturating_sub(1);
                self.add(name, Some(place), rest, words, packets)
            }
            _ => Err("is a command that is not known".to_owned()),
        }
    }

    fn add(
        &mut self,
        name: &str,
        place: Option<usize>,
        text: &str,
        words: &[&str],
        packets: Option<u64>,
    ) -> Result<(), String> {
        if self.rules >= MAX_RULES {
            let cut = format!("only the first {MAX_RULES} rules are read");
            return self.cut(name, cut);
        }
        let parsed = rule::parse(words, self.family, self.sets);
        let chain = self.chain(name)?;
        let (statements, packets, problem) = match parsed {
            Ok(parsed) => (parsed.statements, packets.or(parsed.packets), None),
            Err(what) => {
                let unknown = Statement::Do(Action::Unknown(shorten(&what)));
                (vec![unknown], packets, Some(what))
            }
        };
        let rule = Rule {
            text: shorten(text),
            statements,
            packets,
        };
        let place = place.unwrap_or(usize::MAX).min(chain.rules.len());
        chain.rules.insert(place, rule);
        self.rules += 1;
        problem.map_or(Ok(()), Err)
    }

    /// Leaves one mark where rules were left out.
    fn cut(&mut self, name: &str, why: String) -> Result<(), String> {
        let chain = self.chain(name)?;
        if chain.rules.last().is_none_or(|rule| rule.text != why) {
            chain.rules.push(Rule {
                text: why.clone(),
                statements: vec![Statement::Do(Action::Unknown(why.clone()))],
                packets: None,
            });
        }
        Err(format!("is left out: {why}"))
    }

    /// The chain of this name, made if it is new.
    fn chain(&mut self, name: &str) -> Result<&mut Chain, String> {
        let open = self.table.as_mut().ok_or("comes before any table")?;
        let place = match open.places.get(name) {
            Some(&place) => place,
            None if self.chains >= MAX_CHAINS => {
                return Err(format!("is beyond the {MAX_CHAINS} chains that are read"));
            }
            None => {
                self.chains += 1;
                open.places.insert(name.to_owned(), open.table.chains.len());
                open.table.chains.push(Chain {
                    name: name.to_owned(),
                    base: builtin(&open.table.name, name),
                    rules: Vec::new(),
                });
                open.table.chains.len() - 1
            }
        };
        let chain = open.table.chains.get_mut(place);
        chain.ok_or_else(|| "is in no chain".to_owned())
    }
}

fn set_policy(chain: &mut Chain, policy: &str) -> Result<(), String> {
    match (&mut chain.base, policy) {
        (None, "-") => Ok(()),
        (Some(base), "ACCEPT") => {
            base.policy = Policy::Accept;
            Ok(())
        }
        (Some(base), "DROP") => {
            base.policy = Policy::Drop;
            Ok(())
        }
        // Ancient programs print no policy for a built-in chain that nobody touched.
        (Some(_), "-") => Ok(()),
        (Some(_), _) => Err("has a policy that is not known".to_owned()),
        (None, _) => Err("has a policy, and is not a chain that the kernel calls".to_owned()),
    }
}

/// `[packets:bytes]` before a rule, and what comes after.
fn counters(line: &str) -> (Option<u64>, &str) {
    let inner = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .and_then(|(inner, rest)| Some((inner.split_once(':')?.0.parse().ok()?, rest)));
    match inner {
        Some((packets, rest)) => (Some(packets), rest.trim_start()),
        None => (None, line),
    }
}

const fn builtin_hooks(chain: &str) -> Option<Hook> {
    Some(match chain.as_bytes() {
        b"PREROUTING" => Hook::Prerouting,
        b"INPUT" => Hook::Input,
        b"FORWARD" => Hook::Forward,
        b"OUTPUT" => Hook::Output,
        b"POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// The chains that the kernel calls, by table.
const fn builtin_chains(table: &str) -> &'static [&'static str] {
    match table.as_bytes() {
        b"raw" => &["PREROUTING", "OUTPUT"],
        b"mangle" => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        b"nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        b"filter" | b"security" => &["INPUT", "FORWARD", "OUTPUT"],
        _ => &[],
    }
}

/// What a chain of this name is in this table; the numbers are the kernel's and the same in both backends.
fn builtin(table: &str, chain: &str) -> Option<Base> {
    let hook = builtin_hooks(chain).filter(|_| builtin_chains(table).contains(&chain))?;
    let (priority, kind) = match (table, hook) {
        ("raw", _) => (-300, ChainKind::Filter),
        ("mangle", Hook::Output) => (-150, ChainKind::Route),
        ("mangle", _) => (-150, ChainKind::Filter),
        ("nat", Hook::Input | Hook::Postrouting) => (100, ChainKind::Nat),
        ("nat", _) => (-100, ChainKind::Nat),
        ("security", _) => (50, ChainKind::Filter),
        _ => (0, ChainKind::Filter),
    };
    Some(Base {
        hook,
        priority,
        kind,
        policy: Policy::Accept,
    })
}

#[cfg(test)]
mod tests;
