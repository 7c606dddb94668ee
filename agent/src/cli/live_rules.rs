//! `sidestep rules`: the live netfilter rules of a pod, from every backend, with the rules that matter marked.
//!
//! Lines are not wrapped: a rule is to be found again in what the tools print, and pasted.

use clap::{ArgGroup, Args};

use super::{
    Exit,
    client::AgentUrl,
    findings::json,
    pod_name::PodName,
    text::{self, Style, count, printable},
    why::{Reading, reading},
};
use crate::{
    engine::{ChainView, Example, Mark, RuleView, RulesView, TableView, Way},
    model::{Direction, Time},
    output::api::pod::{self, RulesPage},
    rules::{Base, ChainKind, Hook, Policy},
};

/// Options of `sidestep rules`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json"]))]
pub struct Options {
    #[command(flatten)]
    pod: PodName,
    #[command(flatten)]
    agent: AgentUrl,
    /// The agent's answer as JSON, for machines.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let key = options.pod.resolve(&options.agent)?;
    let page: RulesPage = options.agent.get(&pod::path(&key, "/rules"), &[])?;
    if options.json {
        text::print(&json(&page)?)?;
    } else {
        text::print(&report(&page, Style::of_stdout(true)))?;
    }
    Ok(Exit::Ok)
}

/// The rules, with what is to be known about them before.
pub(super) fn report(page: &RulesPage, style: Style) -> String {
    let (rules, now) = (&page.rules, page.head.at);
    let mut out = head(rules, page.head.total, now, style);
    if rules.read.is_none() {
        return out;
    }
    if !rules.examples.is_empty() {
        let facts: Vec<_> = rules.examples.iter().map(example).collect();
        out.push_str(
            "\nTypical connections of the pod, marked below; ▶ is the rule that decides:\n",
        );
        out.push_str(&style.facts(2, &facts));
    }
    if rules.tables.is_empty() {
        out.push_str("\nThere are no rules, in any backend and family.\n");
    }
    for one in &rules.tables {
        out.push_str(&table(one));
    }
    out.push_str(&problems(rules, style));
    out
}

fn head(rules: &RulesView, total: usize, now: Time, style: Style) -> String {
    let netns = match rules.netns {
        Some(netns) => format!("network namespace {netns}"),
        None => "network namespace not known (yet)".to_owned(),
    };
    let mut out = style.paragraph(
        0,
        &format!(
            "Live rules of {}, {netns}: {}.",
            rules.pod,
            count(total as u64, "rule")
        ),
    );
    if rules.read.is_none() {
        out.push_str("Not read: the pod's namespace is not known yet, was not looked at yet, or is the node's own (host network).\n");
        return out;
    }
    let mut facts = vec![(
        "read".to_owned(),
        reading(&Reading {
            read: rules.read,
            since: rules.since,
            changed: rules.changed.as_ref(),
            differed: rules.differed,
            now,
        }),
    )];
    if rules.changes > 1 {
        facts.push(("changes".to_owned(), format!("{} seen", rules.changes)));
    }
    let (empty, some): (Vec<_>, Vec<_>) = rules.sources.iter().partition(|s| s.result == "empty");
    for source in some {
        facts.push((source.program.clone(), source.detail.clone()));
    }
    if !empty.is_empty() {
        let names: Vec<&str> = empty.iter().map(|source| source.program.as_str()).collect();
        facts.push(("nothing in".to_owned(), names.join(", ")));
    }
    out.push_str(&style.facts(2, &facts));
    out
}

fn example(example: &Example) -> (String, String) {
    let why = &example.why;
    let what = match why.ask.direction {
        Direction::Outbound => {
            let by = why.by.map_or_else(String::new, |by| {
                format!(" by user {} and group {}", by.uid, by.gid)
            });
            format!("out to {}{by}", why.ask.remote)
        }
        Direction::Inbound => format!("in from {} to port {}", why.ask.remote.ip(), why.ask.port),
    };
    let path = why.live.path.as_ref();
    let went = path.map_or_else(|| "not known".to_owned(), |path| path.outcome.to_string());
    let redirected = path.and_then(crate::rules::Path::redirected_to);
    let as_meant = match (why.wanted.way, redirected) {
        (Way::Captured { port }, to) if to == Some(port) => ", as the spec wants".to_owned(),
        (Way::Captured { port }, _) => format!(" — the spec wants it captured at port {port}"),
        (Way::Direct, None) => ", as the spec wants".to_owned(),
        (Way::Direct, Some(_)) => " — the spec wants it left alone".to_owned(),
        (Way::NoMesh | Way::Unclear, _) => String::new(),
    };
    (
        example.letter.to_string(),
        format!("{what}: {went}{as_meant}"),
    )
}

fn table(table: &TableView) -> String {
    let mut out = format!(
        "\n{} {} table {}\n",
        table.backend.as_str(),
        table.family.as_str(),
        printable(&table.name)
    );
    for chain in &table.chains {
        out.push_str(&chain_lines(chain));
    }
    out
}

fn chain_lines(chain: &ChainView) -> String {
    let name = printable(&chain.name);
    let what = match (chain.base, chain.stray) {
        (Some(base), _) => format!(" ({})", base_words(base)),
        (None, true) => " — nothing leads here".to_owned(),
        (None, false) => String::new(),
    };
    let mut out = format!("  chain {name}{what}\n");
    if chain.rules.is_empty() {
        out.push_str("              (empty)\n");
    }
    for (number, rule) in (1_u32..).zip(&chain.rules) {
        let note = if rule.redirects && chain.stray {
            "   ← redirects, and is never come to"
        } else {
            ""
        };
        out.push_str(&format!(
            "  {:>5} {number:>4}  {}{note}\n",
            marks(rule),
            printable(&rule.text)
        ));
    }
    out
}

/// `▶a b`: decides example a, and b passes.
fn marks(rule: &RuleView) -> String {
    let one = |mark: &Mark| {
        let decides = if mark.decides { "▶" } else { "" };
        format!("{decides}{}", mark.example)
    };
    rule.marks.iter().map(one).collect()
}

fn base_words(base: Base) -> String {
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    };
    let policy = match base.policy {
        Policy::Accept => "accept",
        Policy::Drop => "drop",
    };
    format!(
        "{kind} at {hook}, priority {}, policy {policy}",
        base.priority
    )
}

fn problems(rules: &RulesView, style: Style) -> String {
    if rules.problems.is_empty() {
        return String::new();
    }
    let all = rules.problems.len() as u64 + u64::from(rules.more_problems);
    let mut out = format!("\nNot understood ({}):\n", count(all, "problem"));
    let line = |problem: &crate::rules::Problem| {
        let place = match problem.line {
            0 => problem.backend.as_str().to_owned(),
            line => format!("{} line {line}", problem.backend.as_str()),
        };
        (place, problem.what.clone())
    };
    let facts: Vec<_> = rules.problems.iter().map(line).collect();
    out.push_str(&style.facts(2, &facts));
    out
}
