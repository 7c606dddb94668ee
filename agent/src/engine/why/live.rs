//! What the live rules do with a connection, rule by rule, and what is missing where they do nothing.
//!
//! Rules that were not read are told as that, and never as absent. Where the rules let a connection go that should be
//! captured, the next question is always the same, and answered here: is there no such rule, does nothing lead to it, is it
//! in the other family, or was it there a moment ago.

use super::{Before, Connection, Known, Live, LiveRules, PodRow, RulesRow, Wanted, Way, wanted};
use crate::{
    engine::{RulesRead, RulesSource, explain},
    model::{Direction, Family},
    rules::{self, Outcome, Path, Protocol, Redirector, Ruleset},
};

/// Hints of one kind that are given.
const MOST: usize = 3;

pub(super) fn live(
    row: Option<&RulesRow>,
    pod: &PodRow,
    wanted: &Wanted,
    connection: &Connection,
) -> Live {
    let family = connection.family();
    let Some((row, live)) = row.and_then(|row| Some((row, row.live.as_ref()?))) else {
        return not_read(row, pod);
    };
    let unread = unread(row, family);
    let path = rules::evaluate(&live.rules, connection);
    let (mut missing, mut before) = (Vec::new(), None);
    if let Way::Captured { port } = wanted.way
        && path.redirected_to() != Some(port)
        && unread.is_empty()
    {
        missing = lacking(&live.rules, connection.direction, family, port, &path);
        before = earlier(row, live, connection, port);
    }
    Live {
        known: if unread.is_empty() {
            Known::Fully
        } else {
            Known::Partly
        },
        unread,
        read: row.read,
        since: Some(live.since),
        changed: row.changed.clone(),
        differed: !row.earlier.is_empty(),
        path: Some(path),
        missing,
        before,
    }
}

fn not_read(row: Option<&RulesRow>, pod: &PodRow) -> Live {
    let why = match (pod.netns, row) {
        (None, _) => "the pod's network namespace is not known (yet)",
        (Some(_), _) => {
            "the rules of the pod's network namespace have not been read (yet); a host network pod's never are"
        }
    };
    Live {
        known: Known::NotRead,
        unread: vec![why.to_owned()],
        read: None,
        since: None,
        changed: row.and_then(|row| row.changed.clone()),
        differed: false,
        path: None,
        missing: Vec::new(),
        before: None,
    }
}

/// Sources that matter for the family and were not read, in words.
fn unread(row: &RulesRow, family: Family) -> Vec<String> {
    let matters = row
        .sources
        .iter()
        .filter(|(source, read)| source.family().is_none_or(|f| f == family) && !read.is_known());
    matters
        .map(|(source, read)| format!("{}: {}", source.program(), in_words(*source, read)))
        .collect()
}

/// How a reading went, for people.
pub(in crate::engine) fn in_words(source: RulesSource, read: &RulesRead) -> String {
    match read {
        RulesRead::NoTool if !source.has_rules() => {
            "rules ask about sets, and there is no program on this node to read them".to_owned()
        }
        RulesRead::Empty => "there are none".to_owned(),
        RulesRead::Complete => "read in full".to_owned(),
        RulesRead::NoTool => "there are rules, and no program on this node to read them".to_owned(),
        RulesRead::Denied => "the kernel does not let the agent look".to_owned(),
        RulesRead::TimedOut => "the program did not end in time".to_owned(),
        RulesRead::TooBig => "the program printed more than is taken".to_owned(),
        RulesRead::Failed(words) => format!("the program failed: {words}"),
    }
}

/// What is there and does not send it to the proxy.
fn lacking(
    rules: &Ruleset,
    direction: Direction,
    family: Family,
    port: u16,
    path: &Path,
) -> Vec<String> {
    let all = rules::redirectors(rules, direction, family, Protocol::Tcp);
    let ours: Vec<&Redirector> = all.iter().filter(|rule| rule.sends_to(port)).collect();
    let mut lines = Vec::new();
    for stray in rules::strays(rules, family).iter().take(MOST) {
        lines.push(format!(
            "nothing leads to chain {} of {} {} ({} rules)",
            stray.chain,
            stray.backend.as_str(),
            stray.table,
            stray.rules
        ));
    }
    let unreached = ours.iter().filter(|rule| !rule.reached);
    lines.extend(unreached.take(MOST).map(|rule| {
        format!(
            "{} traffic never comes to {}",
            direction.as_str(),
            rule.step
        )
    }));
    if ours.is_empty() && path.outcome != Outcome::Unknown {
        lines.push(format!(
            "no rule redirects {} traffic of {} to port {port}",
            direction.as_str(),
            wanted::name(family)
        ));
        lines.push(format!("what is there: {}", explain::seen(rules)));
    }
    lines
}

/// The latest rules before these that sent it to the proxy, and until when.
fn earlier(row: &RulesRow, live: &LiveRules, connection: &Connection, port: u16) -> Option<Before> {
    // Each ended when the next one was read first.
    let mut until = live.since;
    for was in &row.earlier {
        let path = rules::evaluate(&was.rules, connection);
        if path.redirected_to() == Some(port) {
            return Some(Before { until, path });
        }
        until = was.since;
    }
    None
}
