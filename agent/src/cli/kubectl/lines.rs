//! One line per finding or pod with its node, and what changed since the last look.
//!
//! For `-o wide` and `--watch`: lines are never wrapped, so that they can be cut, sorted and followed. A pod of a node that
//! does not answer is neither gone nor resolved.

use std::collections::BTreeMap;

use super::gather::{Node, node_of};
use crate::{
    cli::{
        pods,
        text::{self, printable},
    },
    engine::{Finding, FindingState, PodRow},
    output::api::{FindingsPage, PodsPage},
};

/// Parts of a line; all but the last are set in columns.
type Parts = Vec<String>;

const FINDINGS: [&str; 6] = ["SEVERITY", "CODE", "POD", "NODE", "SINCE", "SUMMARY"];
const PODS: [&str; 8] = [
    "POD",
    "NODE",
    "MESH",
    "INTERCEPTED",
    "BYPASSED",
    "EXCLUDED",
    "FAILED",
    "FINDINGS",
];

/// Findings, wide.
pub(super) fn findings(page: &FindingsPage, nodes: &[Node]) -> String {
    let rows = page.findings.iter().map(|f| finding(f, page, nodes));
    table(&FINDINGS, rows.collect())
}

/// Pods, wide.
pub(super) fn pods(page: &PodsPage, nodes: &[Node]) -> String {
    table(&PODS, page.pods.iter().map(|row| pod(row, nodes)).collect())
}

/// Nodes that are not in the answer.
pub(super) fn missing(nodes: &[Node]) -> String {
    let told = nodes.iter().filter_map(|node| {
        let error = node.error.as_deref()?;
        let line = format!(
            "{} is missing here: its agent {}: {error}",
            node.node, node.agent
        );
        Some(printable(&line).replace('\n', " ") + "\n")
    });
    told.collect()
}

fn finding(finding: &Finding, page: &FindingsPage, nodes: &[Node]) -> Parts {
    let state = match finding.state {
        FindingState::Open => finding.severity.as_str(),
        FindingState::Resolved { .. } => "resolved",
    };
    let pod = finding.pod.as_ref();
    vec![
        state.to_owned(),
        finding.code.as_str().to_owned(),
        pod.map_or_else(|| "(agent)".to_owned(), ToString::to_string),
        pod.map_or("", |pod| node_of(nodes, pod)).to_owned(),
        text::duration(page.head.at.micros_since(finding.first_seen)),
        finding.summary.clone(),
    ]
}

fn pod(row: &PodRow, nodes: &[Node]) -> Parts {
    vec![
        row.pod.to_string(),
        node_of(nodes, &row.pod).to_owned(),
        row.mesh.clone().unwrap_or_else(|| "-".to_owned()),
        row.intercepted.to_string(),
        row.bypassed.to_string(),
        row.excluded.to_string(),
        row.failed.to_string(),
        pods::codes(row),
    ]
}

fn table(header: &[&str], rows: Vec<Parts>) -> String {
    let mut all = vec![owned(header)];
    all.extend(rows);
    aligned(&all)
}

/// Lines in columns.
pub(super) fn aligned(rows: &[Parts]) -> String {
    let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
    rows.iter().for_each(|row| widen(&mut widths, row));
    rows.iter().map(|row| line(&widths, row)).collect()
}

fn owned(header: &[&str]) -> Parts {
    header.iter().map(|name| (*name).to_owned()).collect()
}

fn widen(widths: &mut [usize], parts: &Parts) {
    for (width, part) in widths.iter_mut().zip(parts) {
        *width = (*width).max(part.chars().count());
    }
}

fn line(widths: &[usize], parts: &Parts) -> String {
    let mut out = String::new();
    for (width, part) in widths.iter().zip(parts) {
        let part = printable(part).replace('\n', " ");
        out.push_str(&format!("{part:width$}  "));
    }
    out.trim_end().to_owned() + "\n"
}

/// What was printed, so that only what changed is printed again.
#[derive(Debug, Default)]
pub(super) struct Shown {
    rows: BTreeMap<String, Parts>,
    widths: Vec<usize>,
    missing: String,
}

impl Shown {
    /// Lines of findings that are new or other than before; one that went is told as resolved.
    pub(super) fn findings(&mut self, page: &FindingsPage, nodes: &[Node]) -> String {
        let rows: Vec<(String, Parts)> = page
            .findings
            .iter()
            .map(|f| {
                let parts = finding(f, page, nodes);
                (format!("{} {}", f.code.as_str(), parts[2]), parts)
            })
            .collect();
        // Its age changes all the time, and so does the number in its summary.
        self.changed(
            &FINDINGS,
            rows,
            nodes,
            |parts| parts[..4].to_vec(),
            |parts| {
                "resolved".clone_into(&mut parts[0]);
            },
        )
    }

    /// Lines of pods that are new or whose counts moved; one that went is told as gone.
    pub(super) fn pods(&mut self, page: &PodsPage, nodes: &[Node]) -> String {
        let rows = page.pods.iter().map(|row| {
            let parts = pod(row, nodes);
            (parts[0].clone(), parts)
        });
        let rows = rows.collect();
        self.changed(&PODS, rows, nodes, Clone::clone, |parts| {
            if let Some(last) = parts.last_mut() {
                "(gone)".clone_into(last);
            }
        })
    }

    fn changed(
        &mut self,
        header: &[&str],
        rows: Vec<(String, Parts)>,
        nodes: &[Node],
        matters: impl Fn(&Parts) -> Parts,
        went: impl Fn(&mut Parts),
    ) -> String {
        let mut out = String::new();
        let first = self.widths.is_empty();
        if first {
            self.widths = vec![0; header.len()];
            widen(&mut self.widths, &owned(header));
        }
        rows.iter()
            .for_each(|(_, row)| widen(&mut self.widths, row));
        if first {
            out.push_str(&line(&self.widths, &owned(header)));
        }
        let silent = nodes.iter().any(|node| node.error.is_some());
        let mut before = std::mem::take(&mut self.rows);
        for (key, parts) in rows {
            let old = before.remove(&key);
            if old.is_none_or(|old| matters(&old) != matters(&parts)) {
                out.push_str(&line(&self.widths, &parts));
            }
            self.rows.insert(key, parts);
        }
        for (key, mut parts) in before {
            // A node that does not answer has not lost its pods.
            if silent {
                self.rows.insert(key, parts);
                continue;
            }
            went(&mut parts);
            out.push_str(&line(&self.widths, &parts));
        }
        let missing = missing(nodes);
        if missing != self.missing {
            out.push_str(&missing);
            self.missing = missing;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{
        api::{self, FindingFilter},
        fixture,
    };

    fn page() -> FindingsPage {
        api::findings(&fixture::board(), &FindingFilter::default())
    }

    fn node(error: Option<&str>) -> Node {
        Node {
            node: "n1".to_owned(),
            agent: "mon/agent".to_owned(),
            error: error.map(str::to_owned),
            pods: page().findings.into_iter().filter_map(|f| f.pod).collect(),
        }
    }

    #[test]
    fn columns_stand_under_their_names() {
        let text = findings(&page(), &[node(None)]);
        let mut lines = text.lines();
        let at = lines.next().and_then(|head| head.find("NODE"));
        let under = lines
            .next()
            .zip(at)
            .map(|(line, at)| line[at..].starts_with("n1"));
        assert_eq!(under, Some(true), "{text}");
    }

    #[test]
    fn a_watch_tells_only_what_changed() {
        let (mut shown, mut page) = (Shown::default(), page());
        let all = shown.findings(&page, &[node(None)]);
        assert_eq!(all.lines().count(), page.findings.len() + 1);
        assert_eq!(shown.findings(&page, &[node(None)]), "");
        let Some(gone) = page.findings.pop() else {
            return assert!(!page.findings.is_empty());
        };
        let silent = shown.findings(&page, &[node(Some("away"))]);
        assert!(silent.starts_with("n1 is missing here") && silent.lines().count() == 1);
        let text = shown.findings(&page, &[node(None)]);
        assert!(
            text.starts_with("resolved") && text.contains(gone.code.as_str()),
            "{text}"
        );
    }
}
