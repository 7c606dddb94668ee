//! Reads the rules of the namespace the calling thread is in.
//!
//! First what costs nothing: two files of procfs and two netlink messages say which kinds
//! of rules there are. Only for those a program is started. Looking must change nothing:
//! the programs make tables that are not there, and the kernel loads modules that are not,
//! so neither is ever asked about what the cheap look did not show.

use std::{fs, io, sync::atomic::AtomicBool, time::Instant};

use nix::{
    errno::Errno,
    sys::{
        resource::{Usage, UsageWho, getrusage},
        time::TimeValLike,
    },
};

use super::{
    child::{self, Ended, Limits},
    tables::{self, Table},
    tools::Tools,
};
use crate::{
    engine::{RulesRead, RulesSource},
    rules::{Backend, IpSets, Ruleset, parse_nft, parse_save_with},
};

/// How nft prints everything: as JSON, and without its counters, so that packets are no news.
const LIST: [&str; 4] = ["-s", "-j", "list", "ruleset"];
/// How `iptables-nft-save` says that a table, or a part of it, is not its own.
const NOT_ITS_OWN: &str = "use 'nft' tool";

/// What to go by.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) tools: &'a Tools,
    pub(super) limits: Limits,
    /// Set when the agent ends.
    pub(super) stop: &'a AtomicBool,
    /// Whether the kernel has nftables.
    pub(super) nftables: bool,
    /// The generation up to which everything is known, if nothing but nftables was there.
    pub(super) known: Option<u32>,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sources: Vec<(RulesSource, RulesRead)>,
    /// What was read, in parts as printed.
    texts: Vec<(RulesSource, String)>,
    /// What was read.
    pub(super) ruleset: Ruleset,
    /// By which the next look can tell that nothing changed.
    pub(super) generation: Option<u32>,
    /// Nothing changed since [`Look::known`]; nothing was read.
    pub(super) unchanged: bool,
    /// Processor time it took, microseconds.
    pub(super) took_us: u64,
    /// Time it took, microseconds.
    pub(super) lasted_us: u64,
}

/// Looks at the namespace the calling thread is in; the thread must have been made for it.
pub(super) fn look(at: &Look<'_>) -> Found {
    let began = Instant::now();
    let children = cpu_us(UsageWho::RUSAGE_CHILDREN);
    let mut found = Found::default();
    legacy(at, &mut found);
    nftables(at, &mut found);
    let sets = sets(at, &mut found);
    understand(&mut found, sets.as_deref());
    found.took_us = cpu_us(UsageWho::RUSAGE_THREAD)
        + cpu_us(UsageWho::RUSAGE_CHILDREN).saturating_sub(children);
    found.lasted_us = began.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    found
}

/// What is in the sets that rules name, if they do and it can be read.
fn sets(at: &Look<'_>, found: &mut Found) -> Option<String> {
    if found.unchanged || !found.texts.iter().any(|(_, text)| IpSets::asks(text)) {
        return None;
    }
    // No generation tells of their changes.
    found.generation = None;
    let read = print(at, RulesSource::Ipset, &["save"], found);
    let is_read = read == RulesRead::Complete;
    found.sources.push((RulesSource::Ipset, read));
    let text = found.texts.pop_if(|_| is_read);
    text.map(|(_, text)| text)
}

/// Makes one rule set of what was printed.
fn understand(found: &mut Found, sets: Option<&str>) {
    let texts = std::mem::take(&mut found.texts);
    let rules: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let mut sets = sets.map_or_else(IpSets::default, |saved| IpSets::read(saved, &rules));
    for (source, text) in &texts {
        let backend = match source {
            RulesSource::IptablesLegacy | RulesSource::Ip6tablesLegacy => Backend::Legacy,
            _ => Backend::Nft,
        };
        if let Some(family) = source.family() {
            parse_save_with(text, backend, family, &mut sets, &mut found.ruleset);
        } else if let Err(error) = parse_nft(text, &mut found.ruleset) {
            let read = found.sources.iter_mut().filter(|(one, _)| one == source);
            read.for_each(|(_, read)| *read = RulesRead::Failed(error.to_string()));
            found.generation = None;
        }
    }
}

fn legacy(at: &Look<'_>, found: &mut Found) {
    for (source, file) in [
        (RulesSource::IptablesLegacy, "ip_tables_names"),
        (RulesSource::Ip6tablesLegacy, "ip6_tables_names"),
    ] {
        let read = match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(names) if names.trim().is_empty() => RulesRead::Empty,
            Ok(_) => print(at, source, &[], found),
            Err(error) => without(&error),
        };
        found.sources.push((source, read));
    }
}

/// Why a file or an answer of the kernel is not to be had.
fn without(error: &io::Error) -> RulesRead {
    match error.kind() {
        // The module that has rules is not loaded.
        io::ErrorKind::NotFound => RulesRead::Empty,
        io::ErrorKind::PermissionDenied => RulesRead::Denied,
        _ => RulesRead::Failed(error.to_string()),
    }
}

fn nftables(at: &Look<'_>, found: &mut Found) {
    let listed = if at.nftables {
        tables::tables()
    } else {
        Ok((0, Vec::new()))
    };
    let (generation, tables) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            let read = match error.raw_os_error().map(Errno::from_raw) {
                // nftables went away since it was looked for.
                Some(Errno::EINVAL | Errno::EOPNOTSUPP) => RulesRead::Empty,
                _ => without(&error),
            };
            let all = [
                RulesSource::IptablesNft,
                RulesSource::Ip6tablesNft,
                RulesSource::Nft,
            ];
            found.sources.extend(all.map(|one| (one, read.clone())));
            return;
        }
    };
    let only = found.texts.is_empty() && found.sources.iter().all(|(_, read)| read.is_known());
    found.generation = Some(generation).filter(|_| only);
    if only && at.known == Some(generation) {
        found.unchanged = true;
        return;
    }
    read_tables(at, &tables, found);
    if !found.sources.iter().all(|(_, read)| read.is_known()) {
        found.generation = None;
    }
}

fn read_tables(at: &Look<'_>, tables: &[Table], found: &mut Found) {
    // Tables that a program of iptables has read need not be read again as nftables' own;
    // nft would show them all the same, and its parser leaves them out.
    let mut done: Vec<&Table> = Vec::new();
    for source in [RulesSource::IptablesNft, RulesSource::Ip6tablesNft] {
        let fits = |table: &&Table| {
            table
                .compatible()
                .is_some_and(|f| source.family() == Some(f))
        };
        let own: Vec<&Table> = tables.iter().filter(fits).collect();
        let mut read = if own.is_empty() {
            RulesRead::Empty
        } else {
            print(at, source, &[], found)
        };
        if read == RulesRead::Complete
            && let Some((_, text)) = found.texts.last_mut()
        {
            let (foreign, mine) = own.iter().partition(|table| is_foreign(text, &table.name));
            done.extend::<Vec<&Table>>(mine);
            let foreign: Vec<&Table> = foreign;
            *text = without_sections(text, &foreign);
            if !text.lines().any(|line| line.starts_with('*')) {
                found.texts.pop();
                read = RulesRead::Empty;
            }
        }
        found.sources.push((source, read));
    }
    let read = if tables.iter().all(|table| done.contains(&table)) {
        RulesRead::Empty
    } else {
        print(at, RulesSource::Nft, &LIST, found)
    };
    found.sources.push((RulesSource::Nft, read));
}

/// Starts the program for a kind of rules; what it printed goes to `found`.
fn print(at: &Look<'_>, source: RulesSource, arguments: &[&str], found: &mut Found) -> RulesRead {
    let Some(program) = at.tools.of(source) else {
        return RulesRead::NoTool;
    };
    match child::run(program, arguments, at.limits, at.stop) {
        Ended::Well(text) => {
            found.texts.push((source, text));
            RulesRead::Complete
        }
        Ended::TooLong => RulesRead::TimedOut,
        Ended::TooMuch => RulesRead::TooBig,
        Ended::Badly(why) => RulesRead::Failed(format!("{}: {why}", program.display())),
        Ended::NotStarted(error) => match error.kind() {
            io::ErrorKind::NotFound => RulesRead::NoTool,
            _ => RulesRead::Failed(format!("{}: {error}", program.display())),
        },
    }
}

/// Whether iptables-nft-save says of a table that it is not, or not all, its own.
fn is_foreign(text: &str, table: &str) -> bool {
    let named = format!("`{table}'");
    let says = |line: &str| line.starts_with('#') && line.contains(NOT_ITS_OWN);
    text.lines().any(|line| says(line) && line.contains(&named))
}

/// The rules of iptables-nft-save without these tables: what it makes of chains that it does
/// not understand is not what is there.
fn without_sections(text: &str, tables: &[&Table]) -> String {
    let foreign = |section: &&str| {
        let name = section.lines().find_map(|line| line.strip_prefix('*'));
        name.is_some_and(|name| tables.iter().any(|table| table.name == name))
    };
    let sections = text.split_inclusive("COMMIT\n");
    sections.filter(|section| !foreign(section)).collect()
}

/// Processor time used so far.
fn cpu_us(who: UsageWho) -> u64 {
    let total = |usage: Usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    };
    getrusage(who).map_or(0, |usage| u64::try_from(total(usage)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_were_made_up_are_left_out() {
        let text = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n\
            # Generated\n*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n# Completed\n\
            *filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n# Completed\n";
        assert!(is_foreign(text, "nat") && !is_foreign(text, "filter"));
        let table = Table {
            family: 2,
            name: "nat".to_owned(),
        };
        let rest = without_sections(text, &[&table]);
        assert!(!rest.contains("*nat") && rest.contains("*filter"), "{rest}");
    }
}
