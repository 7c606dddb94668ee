//! One rule of a save program: its words become conditions and an action.
//!
//! Options are known by their own name, not by the `-m` before them: `-p tcp` brings the options of tcp along silently. Only
//! where two modules share a name does the last `-m` decide. A module that is not known is an unknown condition.

use super::super::matching::{Field, Match, Name, Test, listener};
use super::super::ruleset::{Action, Statement, shorten};
use super::{ipset::IpSets, numbers, options, target};
use crate::model::Family;

/// What a rule's words say.
pub(super) struct Parsed {
    pub(super) statements: Vec<Statement>,
    /// Where the counter is written as an option.
    pub(super) packets: Option<u64>,
}

struct Reader<'a, 's, 't> {
    family: Family,
    sets: &'s mut IpSets<'t>,
    module: &'a str,
    matches: Vec<Match>,
    target: Option<(&'a str, bool)>,
    options: target::Options<'a>,
    packets: Option<u64>,
    /// A match also gives the packet the mark of a socket.
    marks: bool,
}

/// Reads what comes after the chain's name.
pub(super) fn parse(
    words: &[&str],
    family: Family,
    sets: &mut IpSets<'_>,
) -> Result<Parsed, String> {
    let mut reader = Reader {
        family,
        sets,
        module: "",
        matches: Vec::new(),
        target: None,
        options: target::Options::default(),
        packets: None,
        marks: false,
    };
    let mut rest = words;
    while let Some((&first, after)) = rest.split_first() {
        let (negated, name, after) = match (first, after.split_first()) {
            ("!", Some((&name, after))) => (true, name, after),
            ("!", None) => return Err("ends with `!`".to_owned()),
            _ => (false, first, after),
        };
        if !name.starts_with('-') {
            return Err(format!("has a word that belongs to nothing: `{name}`"));
        }
        let count = values(name, after);
        let (values, after) = after.split_at(count);
        reader.option(negated, name, values)?;
        rest = after;
    }
    Ok(reader.finish())
}

/// How many of the words are values of the option before them.
fn values(option: &str, words: &[&str]) -> usize {
    // The one value that may look like an option.
    if matches!(option, "--comment" | "--log-prefix" | "--nflog-prefix") {
        return words.len().min(1);
    }
    let is_option = |word: &str| {
        let letter = |byte: &u8| !byte.is_ascii_digit();
        word == "!" || word.starts_with('-') && word.as_bytes().get(1).is_some_and(letter)
    };
    words
        .iter()
        .position(|word| is_option(word))
        .unwrap_or(words.len())
}

impl<'a> Reader<'a, '_, '_> {
    fn option(&mut self, negated: bool, name: &'a str, values: &[&'a str]) -> Result<(), String> {
        let one = || match values {
            [one] => Ok(*one),
            _ => Err(format!("has {} values for `{name}`", values.len())),
        };
        let test = match name {
            "-p" | "--protocol" | "--proto" => protocol(one()?),
            "-s" | "--source" | "--src" => self.network(Field::Source, one()?),
            "-d" | "--destination" | "--dst" => self.network(Field::Destination, one()?),
            "-i" | "--in-interface" => interface(Field::InInterface, one()?),
            "-o" | "--out-interface" => interface(Field::OutInterface, one()?),
            // The first packet of a connection is whole.
            "-f" | "--fragment" => Test::number(Field::Protocol, u32::MAX),
            "-4" | "--ipv4" | "-6" | "--ipv6" => return Ok(()),
            "-c" | "--set-counters" => {
                self.packets = values.first().and_then(|value| value.parse().ok());
                return Ok(());
            }
            "-m" | "--match" => return self.begin_module(one()?),
            "-j" | "--jump" | "-g" | "--goto" => {
                if self.target.is_some() {
                    return Err("has two targets".to_owned());
                }
                self.target = Some((one()?, matches!(name, "-g" | "--goto")));
                return Ok(());
            }
            _ => return self.module_option(negated, name, values),
        };
        self.matches.push(Match { negated, test });
        Ok(())
    }

    fn network(&self, field: Field, text: &str) -> Test {
        match numbers::network(text, self.family) {
            Some(ends) => Test::Address {
                field,
                ranges: vec![ends],
            },
            None => Test::Unknown(format!("the addresses `{text}`")),
        }
    }

    fn begin_module(&mut self, module: &'a str) -> Result<(), String> {
        self.module = module;
        match module {
            "rpfilter" => self.matches.push(Match::is(way_back())),
            "socket" => self.matches.push(Match::is(socket(listener::AT_ADDRESS))),
            _ => {}
        }
        if !options::is_known_module(module) {
            let what = format!("`-m {module}` depends on more than the connection");
            self.matches.push(Match::unknown(what));
        }
        Ok(())
    }

    fn module_option(
        &mut self,
        negated: bool,
        name: &'a str,
        values: &[&'a str],
    ) -> Result<(), String> {
        if self.target.is_some() {
            self.options.add(name, values);
            return Ok(());
        }
        if name == "--suppl-groups" {
            self.any_group();
            return Ok(());
        }
        if (self.module, name) == ("set", "--match-set") {
            self.match_set(negated, values);
            return Ok(());
        }
        if self.of_last_match(name) {
            return Ok(());
        }
        match options::read(self.module, name, values) {
            Some(Ok(test)) => self.matches.push(Match { negated, test }),
            Some(Err(what)) => self.matches.push(Match::unknown(what)),
            // Its module is an unknown condition already.
            None if !self.module.is_empty() && !options::is_known_module(self.module) => {}
            None => {
                let what = format!("`{name}` is not understood");
                self.matches.push(Match::unknown(what));
            }
        }
        Ok(())
    }

    fn match_set(&mut self, negated: bool, values: &[&str]) {
        let test = match values {
            [name, sides] => self.sets.test(name, sides),
            _ => Err("`--match-set` names no set".to_owned()),
        };
        let test = test.unwrap_or_else(|what| Test::Unknown(shorten(&what)));
        self.matches.push(Match { negated, test });
    }

    /// Options that say more about the match of their module.
    fn of_last_match(&mut self, name: &str) -> bool {
        match (self.module, name) {
            ("rpfilter", "--invert") => {
                let last = self.matches.last_mut();
                last.into_iter().for_each(|last| last.negated = true);
            }
            // Routes are not known either way.
            ("rpfilter", "--loose" | "--validmark" | "--accept-local") => {}
            ("recent", "--rcheck" | "--update" | "--remove") => {
                let what = "who was here recently is not known";
                self.matches.push(Match::unknown(what));
            }
            ("recent", "--name" | "--rsource" | "--rdest" | "--mask" | "--seconds") => {}
            ("recent", "--hitcount" | "--reap" | "--rttl") => {}
            ("set", "--return-nomatch") => {
                let last = self.matches.last_mut();
                let what = "what a set says of its exceptions is not known";
                last.into_iter()
                    .for_each(|last| *last = Match::unknown(what));
            }
            // What the set counts changes nothing of what it holds.
            ("set", "--update-counters" | "--update-subcounters") => {}
            ("socket", "--nowildcard") => {
                let any = listener::AT_ADDRESS | listener::ANYWHERE;
                let found = (self.matches.iter_mut()).rfind(|m| m.is_about(Field::Listener));
                found.into_iter().for_each(|found| found.test = socket(any));
            }
            ("socket", "--transparent") => {
                let what = "whether the listener is transparent is not known";
                self.matches.push(Match::unknown(what));
            }
            ("socket", "--restore-skmark") => self.marks = true,
            _ => return false,
        }
        true
    }

    /// The group condition before it holds for any of the socket's groups, and only one of them is known.
    fn any_group(&mut self) {
        self.matches
            .retain(|condition| !condition.is_about(Field::Gid));
        let what = "the socket's supplementary groups are not known";
        self.matches.push(Match::unknown(what));
    }

    fn finish(self) -> Parsed {
        let mut statements: Vec<Statement> =
            self.matches.into_iter().map(Statement::When).collect();
        if self.marks {
            let what = "the mark of the socket is not known".to_owned();
            statements.push(Statement::Do(Action::Unknown(what)));
        }
        let actions = match self.target {
            None => vec![Action::Nothing],
            Some((name, goto)) => target::read(name, goto, &self.options, self.family),
        };
        statements.extend(actions.into_iter().map(Statement::Do));
        Parsed {
            statements,
            packets: self.packets,
        }
    }
}

/// Whether the route to the sender leads back by the interface: on loopback it does.
fn way_back() -> Test {
    let loopback = interface(Field::InInterface, "lo");
    let what = "which route leads back to the sender is not known".to_owned();
    Test::Rows(vec![vec![loopback], vec![Test::Unknown(what)]])
}

const fn socket(any: u32) -> Test {
    Test::Bits {
        field: Field::Listener,
        any,
    }
}

fn protocol(text: &str) -> Test {
    match numbers::protocol(text) {
        Some(0) => Test::Always,
        Some(number) => Test::number(Field::Protocol, number),
        None => Test::Unknown(format!("the protocol `{text}`")),
    }
}

fn interface(field: Field, text: &str) -> Test {
    let (text, prefix) = match text.strip_suffix('+') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let text = text.to_owned();
    Test::Interface {
        field,
        names: vec![Name { text, prefix }],
    }
}
