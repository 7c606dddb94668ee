//! `sidestep findings`: what is wrong on a node, from its agent.

use clap::{
    ArgGroup, Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    Exit,
    client::AgentUrl,
    explain::code_parser,
    report::{self, Detail},
    text::{self, Style},
};
use crate::{
    engine::{Code, Finding, FindingState, Severity},
    output::api::FindingsPage,
};

/// Options of `sidestep findings`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json", "brief", "wide"]))]
pub struct Options {
    #[command(flatten)]
    agent: AgentUrl,
    /// Only findings of this code.
    #[arg(long, value_parser = code_parser())]
    code: Option<Code>,
    /// Only pods of this namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only the pod of this name.
    #[arg(long, short)]
    pod: Option<String>,
    /// Show findings that are resolved too.
    #[arg(long, short)]
    all: bool,
    /// Most findings to show.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: usize,
    /// The agent's answer as JSON, for machines.
    #[arg(long)]
    json: bool,
    /// One line per finding, without evidence and remedy.
    #[arg(long, short)]
    brief: bool,
    /// Do not wrap or cut lines to the terminal's width.
    #[arg(long, short)]
    wide: bool,
    /// End with exit code 1 if a finding shown is open and at least this severe.
    #[arg(long, value_name = "SEVERITY", value_parser = severity_parser())]
    fail_on: Option<Severity>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let page: FindingsPage = options.agent.get("/v1/findings", &query(options))?;
    if options.json {
        text::print(&json(&page)?)?;
    } else {
        let filtered =
            options.code.is_some() || options.namespace.is_some() || options.pod.is_some();
        let detail = if options.brief {
            Detail::Brief
        } else {
            Detail::Full
        };
        let style = Style::of_stdout(options.wide);
        text::print(&report::findings(&page, style, detail, filtered))?;
    }
    Ok(verdict(&page.findings, options.fail_on))
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
    if !options.all {
        query.push(("state", "open".to_owned()));
    }
    query
}

/// Pretty JSON with a line end.
pub(super) fn json(page: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(page).map(|text| text + "\n")
}

/// The exit code for scripts.
pub(super) fn verdict(findings: &[Finding], fail_on: Option<Severity>) -> Exit {
    let bad = |finding: &Finding| {
        matches!(finding.state, FindingState::Open)
            && fail_on.is_some_and(|least| finding.severity >= least)
    };
    if findings.iter().any(bad) {
        Exit::Findings
    } else {
        Exit::Ok
    }
}

/// Parses a severity.
pub(super) fn severity_parser() -> impl TypedValueParser<Value = Severity> {
    const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];
    PossibleValuesParser::new(ALL.map(Severity::as_str)).try_map(|name| {
        let found = ALL.into_iter().find(|severity| severity.as_str() == name);
        found.ok_or("not a severity")
    })
}
