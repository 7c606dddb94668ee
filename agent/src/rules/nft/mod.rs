//! Reads what `nft -j list ruleset` prints: tables of nftables proper.
//!
//! Tables that `iptables-nft` keeps are shown by nft too, with their matches as opaque `xt`; once they were read from the
//! save program they are left out here, in whichever order the two are read. Tables of other families than IP are not on the
//! way of a connection. Sets and maps are copied into the rules that use them, up to a bound; those that packets or time
//! change are unknown.

mod action;
mod expression;
mod left;
mod render;
mod sets;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::ruleset::{
    Action, Backend, Base, Chain, ChainKind, Hook, MAX_CHAINS, MAX_RULES, MAX_TABLES, Policy, Rule,
    Ruleset, Statement, Table, TableFamily, shorten,
};
use sets::Sets;

/// Why the text is not a rule set of nft.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It is no JSON.
    #[error("nft's rule set is not JSON ({0}): it must come from `nft -j list ruleset`")]
    Json(#[from] serde_json::Error),
    /// It is another JSON.
    #[error("nft's rule set has no list `nftables`: it must come from `nft -j list ruleset`")]
    Shape,
}

/// Reads the rule set into `into`; tables of nftables proper that it had are replaced.
///
/// # Errors
/// If the text is not what nft prints. What is not understood inside of it is a problem in the rule set, not an error.
pub fn parse_nft(json: &str, into: &mut Ruleset) -> Result<(), NftError> {
    let value: Value = serde_json::from_str(json)?;
    let objects = value.get("nftables").and_then(Value::as_array);
    let objects = objects.ok_or(NftError::Shape)?;
    into.tables.retain(|table| table.backend != Backend::Native);
    let mut reader = Reader::new(into);
    for (index, object) in objects.iter().enumerate() {
        reader.declare(index + 1, object);
    }
    let mut sets = Sets::new(objects);
    for (index, object) in objects.iter().enumerate() {
        reader.rule(index + 1, object, &mut sets);
    }
    let tables = reader.finish();
    into.tables.extend(tables);
    Ok(())
}

/// A table's family and name, as nft writes them.
type TableKey<'j> = (&'j str, &'j str);

struct Reader<'j, 'r> {
    into: &'r mut Ruleset,
    tables: Vec<Table>,
    places: HashMap<TableKey<'j>, usize>,
    chains: HashMap<(usize, &'j str), usize>,
    known_problems: HashSet<String>,
    room: usize,
    rules: usize,
}

impl<'j, 'r> Reader<'j, 'r> {
    fn new(into: &'r mut Ruleset) -> Self {
        let room = MAX_TABLES.saturating_sub(into.tables.len());
        Self {
            into,
            tables: Vec::new(),
            places: HashMap::new(),
            chains: HashMap::new(),
            known_problems: HashSet::new(),
            room,
            rules: 0,
        }
    }

    /// Tables and chains.
    fn declare(&mut self, line: usize, object: &'j Value) {
        if let Some(table) = object.get("table") {
            if let Some(key) = key(table, "name") {
                self.table(line, key);
            }
        } else if let Some(chain) = object.get("chain")
            && let Some(key) = key(chain, "table")
        {
            self.chain(line, key, chain);
        }
    }

    /// The place of a table, made if it is new; `None` if it is not for here.
    fn table(&mut self, line: usize, key: TableKey<'j>) -> Option<usize> {
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        let family = match key.0 {
            "ip" => TableFamily::Ipv4,
            "ip6" => TableFamily::Ipv6,
            "inet" => TableFamily::Inet,
            _ => return None,
        };
        let shadows = |table: &Table| {
            table.backend == Backend::Nft && table.family == family && table.name == key.1
        };
        if self.into.tables.iter().any(shadows) {
            return None;
        }
        if self.tables.len() >= self.room {
            self.problem(line, format!("only the first {MAX_TABLES} tables are read"));
            return None;
        }
        self.places.insert(key, self.tables.len());
        self.tables.push(Table {
            backend: Backend::Native,
            family,
            name: key.1.to_owned(),
            chains: Vec::new(),
        });
        Some(self.tables.len() - 1)
    }

    fn chain(&mut self, line: usize, key: TableKey<'j>, chain: &'j Value) -> Option<()> {
        let place = self.table(line, key)?;
        let name = chain.get("name")?.as_str()?;
        if self.chains.len() >= MAX_CHAINS {
            self.problem(line, format!("only the first {MAX_CHAINS} chains are read"));
            return None;
        }
        let base = match (chain.get("hook"), base(chain)) {
            (Some(_), None) => {
                let what = format!("the hook of chain `{name}` is not one that is followed");
                self.problem(line, what);
                None
            }
            (_, base) => base,
        };
        let table = self.tables.get_mut(place)?;
        if self.chains.contains_key(&(place, name)) {
            return None;
        }
        self.chains.insert((place, name), table.chains.len());
        table.chains.push(Chain {
            name: name.to_owned(),
            base,
            rules: Vec::new(),
        });
        Some(())
    }

    fn rule(&mut self, line: usize, object: &'j Value, sets: &mut Sets<'j>) -> Option<()> {
        let rule = object.get("rule")?;
        let key = key(rule, "table")?;
        let place = *self.places.get(&key)?;
        let name = rule.get("chain")?.as_str()?;
        let chain_place = *self.chains.get(&(place, name))?;
        self.rules += 1;
        if self.rules > MAX_RULES {
            let what = format!("only the first {MAX_RULES} rules are read");
            self.problem(line, what.clone());
            let chain = self.tables.get_mut(place)?.chains.get_mut(chain_place)?;
            if chain.rules.last().is_none_or(|rule| rule.text != what) {
                chain.rules.push(unreadable(what));
            }
            return None;
        }
        let parsed = match rule.get("expr").and_then(Value::as_array) {
            Some(expressions) => expression::rule(key, expressions, sets),
            None => unreadable("the rule has no expressions".to_owned()),
        };
        let chain = self.tables.get_mut(place)?.chains.get_mut(chain_place)?;
        chain.rules.push(parsed);
        Some(())
    }

    fn problem(&mut self, line: usize, what: String) {
        let what = shorten(&what);
        if self.known_problems.len() < MAX_RULES && self.known_problems.insert(what.clone()) {
            self.into.problem(Backend::Native, line, what);
        }
    }

    fn finish(mut self) -> Vec<Table> {
        self.tables.iter_mut().for_each(Table::link);
        self.tables
    }
}

fn unreadable(what: String) -> Rule {
    Rule {
        text: shorten(&what),
        statements: vec![Statement::Do(Action::Unknown(what))],
        packets: None,
    }
}

fn key<'j>(object: &'j Value, name: &str) -> Option<TableKey<'j>> {
    Some((object.get("family")?.as_str()?, object.get(name)?.as_str()?))
}

fn base(chain: &Value) -> Option<Base> {
    let text = |name: &str| chain.get(name).and_then(Value::as_str);
    let hook = match text("hook")? {
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    let kind = match text("type")? {
        "filter" => ChainKind::Filter,
        "nat" => ChainKind::Nat,
        "route" => ChainKind::Route,
        _ => return None,
    };
    let priority = chain.get("prio").and_then(Value::as_i64).unwrap_or(0);
    Some(Base {
        hook,
        kind,
        priority: i32::try_from(priority).ok()?,
        policy: match text("policy") {
            Some("drop") => Policy::Drop,
            _ => Policy::Accept,
        },
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests;
