//! The pages of all agents made into one. Pure.
//!
//! What the reports for one agent can draw is drawn from the merged page, so that a finding looks the same from everywhere.
//! Beside it stands which node said what, and which nodes said nothing and why: that must never get lost.

use std::cmp::Reverse;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    cluster::Answer,
    engine::{Finding, FindingState, PodRow},
    model::{PodKey, Time},
    output::api::{FindingsPage, Head, PodsPage, Watched},
};

/// What one node's agent said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    /// The node.
    pub(super) node: String,
    /// Its agent's pod.
    pub(super) agent: String,
    /// Why it is not in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// Pods whose rows came from there.
    #[serde(skip)]
    pub(super) pods: Vec<PodKey>,
}

/// Pages by node, and all nodes.
#[derive(Debug)]
pub(super) struct Gathered<T> {
    /// The pages, with their nodes' names.
    pub(super) pages: Vec<(String, T)>,
    /// All nodes that were asked.
    pub(super) nodes: Vec<Node>,
}

/// Reads the agents' answers; an error with the reasons if there is not one page.
pub(super) fn read<T: DeserializeOwned>(answers: Vec<Answer>) -> Result<Gathered<T>, String> {
    let mut gathered = Gathered {
        pages: Vec::new(),
        nodes: Vec::new(),
    };
    for answer in answers {
        let page = answer.page.and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .map_err(|error| format!("not the answer of an agent of this version: {error}"))
        });
        let error = match page {
            Ok(page) => {
                gathered.pages.push((answer.agent.node.clone(), page));
                None
            }
            Err(error) => Some(error),
        };
        gathered.nodes.push(Node {
            node: answer.agent.node,
            agent: answer.agent.pod.to_string(),
            error,
            pods: Vec::new(),
        });
    }
    if gathered.pages.is_empty() {
        let why = gathered.nodes.iter().filter_map(|node| {
            let error = node.error.as_ref()?;
            Some(format!("{} on {}: {error}", node.agent, node.node))
        });
        return Err(why.take(5).collect::<Vec<_>>().join("\n"));
    }
    Ok(gathered)
}

/// All findings that are wanted, worst first.
pub(super) fn findings(
    gathered: Gathered<FindingsPage>,
    wanted: impl Fn(Option<&PodKey>) -> bool,
) -> (FindingsPage, Vec<Node>) {
    let mut nodes = gathered.nodes;
    let mut heads = Vec::new();
    let mut watched = Watched::default();
    let mut all: Vec<Finding> = Vec::new();
    for (name, page) in gathered.pages {
        add(&mut watched, page.watched, &name);
        heads.push(page.head);
        let mut kept: Vec<Finding> = page.findings;
        kept.retain(|finding| wanted(finding.pod.as_ref()));
        remember(&mut nodes, &name, kept.iter().filter_map(|f| f.pod.clone()));
        all.extend(kept);
    }
    all.sort_by_key(|finding| {
        let open = matches!(finding.state, FindingState::Open);
        (!open, Reverse(finding.severity), Reverse(finding.last_seen))
    });
    let page = FindingsPage {
        head: head(&heads, all.len()),
        watched,
        findings: all,
    };
    (page, nodes)
}

/// All pods that are wanted, by name.
pub(super) fn pods(
    gathered: Gathered<PodsPage>,
    wanted: impl Fn(&PodKey) -> bool,
) -> (PodsPage, Vec<Node>) {
    let mut nodes = gathered.nodes;
    let mut heads = Vec::new();
    let mut all: Vec<PodRow> = Vec::new();
    for (name, page) in gathered.pages {
        heads.push(page.head);
        let mut kept = page.pods;
        kept.retain(|row| wanted(&row.pod));
        remember(&mut nodes, &name, kept.iter().map(|row| row.pod.clone()));
        all.extend(kept);
    }
    all.sort_by(|a, b| a.pod.cmp(&b.pod));
    let page = PodsPage {
        head: head(&heads, all.len()),
        pods: all,
    };
    (page, nodes)
}

fn remember(nodes: &mut [Node], name: &str, pods: impl Iterator<Item = PodKey>) {
    if let Some(node) = nodes.iter_mut().find(|node| node.node == name) {
        node.pods.extend(pods);
    }
}

/// The node a pod's row came from.
pub(super) fn node_of<'n>(nodes: &'n [Node], pod: &PodKey) -> &'n str {
    let found = nodes.iter().find(|node| node.pods.contains(pod));
    found.map_or("", |node| &node.node)
}

fn head(heads: &[Head], total: usize) -> Head {
    let node = match heads {
        [one] => one.node.clone(),
        many => format!("{} nodes", many.len()),
    };
    Head {
        node,
        at: heads.iter().map(|h| h.at).max().unwrap_or(Time(0)),
        started: heads.iter().map(|h| h.started).min().unwrap_or(Time(0)),
        total,
    }
}

fn add(sum: &mut Watched, one: Watched, node: &str) {
    sum.pods += one.pods;
    sum.connections = sum.connections.saturating_add(one.connections);
    sum.missing_signals = sum.missing_signals.max(one.missing_signals);
    for (mesh, pods) in one.meshes {
        *sum.meshes.entry(mesh).or_default() += pods;
    }
    let named = |(source, trouble)| (format!("{node}: {source}"), trouble);
    sum.sources.extend(one.sources.into_iter().map(named));
}

/// A row and its node.
#[derive(Debug, Serialize)]
struct Placed<'p, T> {
    node: &'p str,
    #[serde(flatten)]
    row: &'p T,
}

/// Findings for machines.
#[derive(Debug, Serialize)]
pub(super) struct FindingsList<'p> {
    nodes: &'p [Node],
    watched: &'p Watched,
    findings: Vec<Placed<'p, Finding>>,
}

impl<'p> FindingsList<'p> {
    /// The page, with the node of each finding.
    pub(super) fn new(page: &'p FindingsPage, nodes: &'p [Node]) -> Self {
        let rows = page.findings.iter().map(|row| Placed {
            node: row.pod.as_ref().map_or("", |pod| node_of(nodes, pod)),
            row,
        });
        Self {
            nodes,
            watched: &page.watched,
            findings: rows.collect(),
        }
    }
}

/// Pods for machines.
#[derive(Debug, Serialize)]
pub(super) struct PodsList<'p> {
    nodes: &'p [Node],
    pods: Vec<Placed<'p, PodRow>>,
}

impl<'p> PodsList<'p> {
    /// The page, with the node of each pod.
    pub(super) fn new(page: &'p PodsPage, nodes: &'p [Node]) -> Self {
        let rows = page.pods.iter().map(|row| Placed {
            node: node_of(nodes, &row.pod),
            row,
        });
        Self {
            nodes,
            pods: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;
    use crate::{
        cluster::AgentPod,
        output::{
            api::{self, FindingFilter},
            fixture,
        },
    };

    fn answer(node: &str, page: Result<Vec<u8>, String>) -> Answer {
        let agent = AgentPod::of_test(node);
        Answer { agent, page }
    }

    fn page() -> FindingsPage {
        api::findings(&fixture::board(), &FindingFilter::default())
    }

    #[test]
    fn a_node_that_does_not_answer_is_named() {
        let whole = serde_json::to_vec(&page()).unwrap();
        let answers = vec![
            answer("n1", Ok(whole.clone())),
            answer("n2", Err("refused".to_owned())),
            answer("n3", Ok(whole)),
        ];
        let gathered = read(answers).unwrap();
        let (all, nodes) = findings(gathered, |_| true);
        assert_eq!(all.findings.len(), 2 * page().findings.len());
        assert_eq!(all.watched.connections, 2 * page().watched.connections);
        assert_eq!(all.head.node, "2 nodes");
        let errors: Vec<_> = nodes.iter().map(|node| node.error.as_deref()).collect();
        assert_eq!(errors, [None, Some("refused"), None]);
        let worst: Vec<_> = all.findings.iter().map(|f| f.severity).collect();
        assert_eq!(worst[0], *worst.iter().max().unwrap());
    }

    #[test]
    fn without_one_answer_there_is_no_answer() {
        let answers = vec![
            answer("n1", Ok(b"{}".to_vec())),
            answer("n2", Err("refused".to_owned())),
        ];
        let error = read::<FindingsPage>(answers).unwrap_err();
        assert!(error.contains("on n2: refused"), "{error}");
        assert!(error.contains("on n1: not the answer"), "{error}");
    }

    #[test]
    fn only_what_is_wanted_is_kept_and_placed() {
        let whole = serde_json::to_vec(&page()).unwrap();
        let gathered = read(vec![answer("n1", Ok(whole))]).unwrap();
        let (all, nodes) = findings(gathered, |pod| pod.is_some());
        assert!(all.findings.iter().all(|finding| finding.pod.is_some()));
        let list = serde_json::to_value(FindingsList::new(&all, &nodes)).unwrap();
        assert_eq!(list["findings"][0]["node"], "n1");
        assert!(list["findings"][0]["code"].is_string());
    }
}
