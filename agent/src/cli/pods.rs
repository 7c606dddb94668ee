//! `sidestep pods`: every pod, what should be captured, and what was.
//!
//! One line per pod with its counts; intents are listed below, once for all pods that share
//! one, because a sentence per pod would bury the numbers on a node of 250 pods.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args};
use comfy_table::{Cell, CellAlignment, Color, Row};

use super::{
    Exit,
    client::AgentUrl,
    explain::code_parser,
    findings::json,
    text::{self, Style, count},
};
use crate::{
    engine::{Code, PodRow},
    output::api::PodsPage,
};

/// Options of `sidestep pods`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json", "wide"]))]
pub struct Options {
    #[command(flatten)]
    agent: AgentUrl,
    /// Only pods of this namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only the pod of this name.
    #[arg(long, short)]
    pod: Option<String>,
    /// Only pods with an open finding of this code.
    #[arg(long, value_parser = code_parser())]
    code: Option<Code>,
    /// Most pods to show.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: usize,
    /// The agent's answer as JSON, for machines.
    #[arg(long)]
    json: bool,
    /// Do not wrap lines to the terminal's width.
    #[arg(long, short)]
    wide: bool,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let page: PodsPage = options.agent.get("/v1/pods", &query(options))?;
    if options.json {
        text::print(&json(&page)?)?;
    } else {
        text::print(&report(&page, Style::of_stdout(options.wide)))?;
    }
    Ok(Exit::Ok)
}

fn query(options: &Options) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", options.limit.to_string())];
    let named = [("namespace", &options.namespace), ("pod", &options.pod)];
    query.extend(
        named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?))),
    );
    query.extend(options.code.map(|code| ("code", code.as_str().to_owned())));
    query
}

/// The table, then what could not be understood in the pods' specs.
pub(super) fn report(page: &PodsPage, style: Style) -> String {
    if page.pods.is_empty() {
        return "no pods match, or none is known. On a host without a cluster, name them with `sidestep agent --pods DIR`.\n".to_owned();
    }
    let header = [
        "POD",
        "MESH",
        "INTERCEPTED",
        "BYPASSED",
        "EXCLUDED",
        "FAILED",
        "FINDINGS",
    ];
    let rows = page.pods.iter().map(row).collect();
    let mut out = Style {
        width: None,
        ..style
    }
    .columns(&header, rows, &[]);
    if page.pods.len() < page.head.total {
        out.push_str(&format!(
            "\n{} of {} shown.\n",
            page.pods.len(),
            count(page.head.total as u64, "pod")
        ));
    }
    section(
        &mut out,
        "What should be captured:",
        style,
        intents(&page.pods),
    );
    let problems = page.pods.iter().flat_map(|pod| {
        pod.problems
            .iter()
            .map(|text| (pod.pod.to_string(), text.clone()))
    });
    section(&mut out, "Not understood:", style, problems.collect());
    out
}

fn section(out: &mut String, title: &str, style: Style, facts: Vec<(String, String)>) {
    if !facts.is_empty() {
        out.push_str(&format!("\n{title}\n{}", style.facts(2, &facts)));
    }
}

/// Names of pods listed for one intent; the rest is only counted.
const NAMES: usize = 3;

/// One line per distinct intent: most pods of a mesh share theirs.
fn intents(pods: &[PodRow]) -> Vec<(String, String)> {
    let mut groups: BTreeMap<(&str, &str, &[String]), Vec<&PodRow>> = BTreeMap::new();
    for pod in pods {
        if let (Some(mesh), Some(source)) = (&pod.mesh, &pod.intent_source) {
            groups
                .entry((mesh, source, &pod.intent))
                .or_default()
                .push(pod);
        }
    }
    let lines = groups.into_iter().map(|((mesh, source, intent), pods)| {
        (
            mesh.to_owned(),
            format!("{}\nby the {source} of {}", intent.join("; "), names(&pods)),
        )
    });
    lines.collect()
}

/// `a, b, c and 5 more`.
fn names(pods: &[&PodRow]) -> String {
    let shown: Vec<String> = pods
        .iter()
        .take(NAMES)
        .map(|pod| pod.pod.to_string())
        .collect();
    match pods.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        rest => format!("{} and {rest} more", shown.join(", ")),
    }
}

fn row(pod: &PodRow) -> Row {
    Row::from(vec![
        text::cell(pod.pod.to_string()),
        text::cell(pod.mesh.as_deref().unwrap_or("-")),
        number(pod.intercepted, None),
        number(pod.bypassed, Some(Color::Red)),
        number(pod.excluded, None),
        number(pod.failed, Some(Color::Yellow)),
        Cell::new(codes(pod)),
    ])
}

/// Codes of its open findings in a cell.
pub(super) fn codes(pod: &PodRow) -> String {
    if pod.findings.is_empty() {
        return "-".to_owned();
    }
    let codes: Vec<&str> = pod.findings.iter().map(|code| code.as_str()).collect();
    codes.join(" ")
}

fn number(value: u64, alarm: Option<Color>) -> Cell {
    let cell = Cell::new(value).set_alignment(CellAlignment::Right);
    match alarm {
        Some(colour) if value > 0 => cell.fg(colour),
        _ => cell,
    }
}
