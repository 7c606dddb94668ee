//! The findings report: what a person reads when something is wrong.
//!
//! First one line that says how bad it is and what was watched, then a table of one line
//! per finding, then each finding with its evidence and what to do. A pure function of the
//! page, so that its exact text is tested.

use comfy_table::{Cell, Color, Row};

use super::text::{self, Style, count};
use crate::{
    engine::{Finding, FindingState, Severity},
    model::{Direction, Time},
    output::api::{FindingsPage, Watched},
};

/// How much to show of each finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// The table alone.
    Brief,
    /// The table, then evidence and remedy of each.
    Full,
}

/// The report.
pub(super) fn findings(
    page: &FindingsPage,
    style: Style,
    detail: Detail,
    filtered: bool,
) -> String {
    if page.findings.is_empty() {
        return nothing(page, style, filtered);
    }
    let mut out = style.paragraph(0, &headline(page));
    out.push_str(&limits(&page.watched, style));
    out.push('\n');
    out.push_str(&table(page, style, detail));
    if detail == Detail::Full {
        for finding in &page.findings {
            out.push('\n');
            out.push_str(&block(finding, page.head.at, style));
        }
        out.push_str("\n`sidestep explain CODE` tells more about a code.\n");
    }
    out
}

fn nothing(page: &FindingsPage, style: Style, filtered: bool) -> String {
    let what = if filtered {
        "no findings match the filter"
    } else {
        "no findings"
    };
    let mut out = style.paragraph(0, &format!("{what}: {}", watched(&page.watched)));
    if page.watched.pods == 0 {
        out.push_str(&style.paragraph(0, "No pod is known yet. On a host without a cluster, name them with `sidestep agent --pods DIR`."));
    } else if page.watched.meshes.is_empty() {
        out.push_str(&style.paragraph(0, "No pod belongs to a known mesh, so nothing has to be captured. `sidestep pods` shows them."));
    }
    out.push_str(&limits(&page.watched, style));
    out
}

fn headline(page: &FindingsPage) -> String {
    let by = |severity| {
        page.findings
            .iter()
            .filter(|f| is_open(f) && f.severity == severity)
            .count()
    };
    let parts: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Info]
        .into_iter()
        .filter(|severity| by(*severity) > 0)
        .map(|severity| format!("{} {}", by(severity), severity.as_str()))
        .collect();
    let open = page
        .findings
        .iter()
        .filter(|finding| is_open(finding))
        .count();
    let mut line = count(open as u64, "open finding");
    line = match parts.len() {
        0 => line,
        _ => format!("{line} ({})", parts.join(", ")),
    };
    let node = if page.head.node.is_empty() {
        "this node"
    } else {
        &page.head.node
    };
    line = format!("{line} on {node}: {}.", watched(&page.watched));
    if page.findings.len() < page.head.total {
        line = format!(
            "{line} Showing {} of {}.",
            page.findings.len(),
            page.head.total
        );
    }
    line
}

/// `5 pods in 2 meshes watched (and 1 in none), 120 connections judged`.
fn watched(watched: &Watched) -> String {
    let judged = count(watched.connections, "connection");
    let in_mesh: usize = watched.meshes.values().sum();
    if in_mesh == 0 {
        let pods = count(watched.pods as u64, "pod");
        return format!("{pods} watched, none in a mesh, {judged} judged");
    }
    let meshes = watched.meshes.len();
    let es = if meshes == 1 { "" } else { "es" };
    let rest = match watched.pods.saturating_sub(in_mesh) {
        0 => String::new(),
        rest => format!(" (and {rest} in none)"),
    };
    let pods = count(in_mesh as u64, "pod");
    format!("{pods} in {meshes} mesh{es} watched{rest}, {judged} judged")
}

/// What may be missing from the picture, one line each.
fn limits(watched: &Watched, style: Style) -> String {
    let mut out = String::new();
    if watched.missing_signals > 0 {
        let signals = count(watched.missing_signals as u64, "signal");
        let line = format!(
            "{signals} of the kernel missing here: /v1/coverage tells what is not seen for lack of it."
        );
        out.push_str(&style.paragraph(0, &line));
    }
    for (source, trouble) in &watched.sources {
        out.push_str(&style.paragraph(0, &format!("In trouble: {source}: {trouble}")));
    }
    out
}

/// Columns that the summary must have to be worth showing.
const LEAST_SUMMARY: usize = 20;

fn table(page: &FindingsPage, style: Style, detail: Detail) -> String {
    let with_summary = room_for_summary(page, style) || detail == Detail::Brief;
    let rows = page.findings.iter().map(|finding| {
        let mut cells = vec![
            severity(finding),
            Cell::new(finding.code.as_str()),
            text::cell(subject(finding)),
            Cell::new(since(finding, page.head.at)),
        ];
        if with_summary {
            cells.push(text::cell(&finding.summary));
        }
        let mut row = Row::from(cells);
        // The whole summary stands in the block below.
        if detail == Detail::Full && style.width.is_some() {
            row.max_height(1);
        }
        row
    });
    let header = ["SEVERITY", "CODE", "POD", "SINCE", "SUMMARY"];
    let shown = if with_summary {
        &header[..]
    } else {
        &header[..4]
    };
    let style = if room_for_summary(page, style) {
        style
    } else {
        Style {
            width: None,
            ..style
        }
    };
    style.columns(shown, rows.collect(), &[0, 1, 2, 3])
}

/// Whether a summary fits beside the columns that are never wrapped.
fn room_for_summary(page: &FindingsPage, style: Style) -> bool {
    let Some(width) = style.width else {
        return true;
    };
    let widest = |text: fn(&Finding) -> String| {
        page.findings
            .iter()
            .map(|finding| text(finding).chars().count())
            .max()
            .unwrap_or(0)
    };
    // Severity and since take at most 8 columns each; four gaps of two.
    let fixed = 8 + widest(|f| f.code.as_str().to_owned()) + widest(subject) + 8 + 4 * 2;
    usize::from(width) >= fixed + LEAST_SUMMARY
}

fn severity(finding: &Finding) -> Cell {
    if !is_open(finding) {
        return Cell::new("resolved").fg(Color::Green);
    }
    let cell = Cell::new(finding.severity.as_str());
    match finding.severity {
        Severity::Critical => cell.fg(Color::Red),
        Severity::Warning => cell.fg(Color::Yellow),
        Severity::Info => cell.fg(Color::Cyan),
    }
}

fn is_open(finding: &Finding) -> bool {
    matches!(finding.state, FindingState::Open)
}

/// Whom a finding is about.
pub(super) fn subject(finding: &Finding) -> String {
    finding
        .pod
        .as_ref()
        .map_or_else(|| "(this agent)".to_owned(), ToString::to_string)
}

fn since(finding: &Finding, now: Time) -> String {
    text::duration(now.micros_since(finding.first_seen))
}

/// One finding in full.
fn block(finding: &Finding, now: Time, style: Style) -> String {
    let mut out = style.paragraph(0, &title(finding));
    out.push_str(&style.paragraph(2, &finding.summary));
    let mut facts = vec![("seen".to_owned(), seen(finding, now))];
    facts.extend(
        finding
            .evidence
            .iter()
            .map(|fact| (fact.what.clone(), fact.value.clone())),
    );
    facts.push(("what to do".to_owned(), finding.remedy.clone()));
    out.push_str(&style.facts(2, &facts));
    out
}

/// `critical: bypass-no-rules, shop/cart-1 (Deployment cart), container app`.
fn title(finding: &Finding) -> String {
    let word = if is_open(finding) {
        finding.severity.as_str()
    } else {
        "resolved"
    };
    let mut title = format!("{word}: {}, {}", finding.code.as_str(), subject(finding));
    if let Some(owner) = &finding.workload {
        title = format!("{title} ({} {})", owner.kind, owner.name);
    }
    match &finding.container {
        Some(container) => format!("{title}, container {container}"),
        None => title,
    }
}

fn seen(finding: &Finding, now: Time) -> String {
    let mut parts = Vec::new();
    if finding.connections > 0 {
        let way = match finding.direction {
            Some(Direction::Outbound) => "outbound ",
            Some(Direction::Inbound) => "inbound ",
            None => "",
        };
        parts.push(count(finding.connections, &format!("{way}connection")));
    }
    parts.push(format!("since {} UTC", text::instant(finding.first_seen)));
    parts.push(match finding.state {
        FindingState::Open => format!(
            "last {} ago",
            text::duration(now.micros_since(finding.last_seen))
        ),
        FindingState::Resolved { at } => {
            format!("resolved {} ago", text::duration(now.micros_since(at)))
        }
    });
    parts.push(finding.confidence.as_str().to_owned());
    parts.join(", ")
}
