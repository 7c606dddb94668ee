//! Manifests: YAML or JSON text to pods.
//!
//! Takes what people have at hand: one object, several documents, `kubectl get -o yaml`
//! lists. Each document and each item of a list stands alone, so that a malformed one
//! never hides the others; what is wrong is told with its place.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Namespace, Pod as KubePod},
    serde::de::DeserializeOwned,
};
use serde_json::Value;

use super::{convert, lines};
use crate::model::Pod;

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// Pods that are not over, in the file's order. Their `namespace_labels` are still empty.
    pub pods: Vec<Pod>,
    /// Labels of the namespaces described.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// What could not be read.
    pub problems: Vec<ManifestError>,
}

/// A document that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, document {document}{}: {}{problem}", at(*.line), within(.field))]
pub struct ManifestError {
    /// The file.
    pub file: String,
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Line in the file, from 1, where known.
    pub line: Option<usize>,
    /// The field (`items[3].spec.containers[0].ports`), empty for the whole document.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}"))
        .unwrap_or_default()
}

fn within(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    }
}

/// One document of a file.
struct Document<'a> {
    file: &'a str,
    number: usize,
    /// Line of the file before its first line.
    before: usize,
    text: &'a str,
}

impl Manifests {
    /// Reads a file's text. Objects that are neither pods nor namespaces are passed over.
    #[must_use]
    pub fn parse(file: &str, text: &str) -> Self {
        let mut manifests = Self::default();
        for (number, (before, text)) in documents(text).into_iter().enumerate() {
            let document = Document {
                file,
                number: number + 1,
                before,
                text,
            };
            match value(text) {
                Ok(value) => manifests.object(&document, "", value),
                Err(problem) => {
                    let line = problem.line.map(|line| line + before);
                    manifests
                        .problems
                        .push(document.error(line, "", problem.text));
                }
            }
        }
        manifests
    }

    /// Drops all environment variables but these, which meshes' profiles ask for. The rest may be
    /// anybody's secrets: it is not kept, recorded or shown.
    #[must_use]
    pub fn keep_variables(mut self, names: &BTreeSet<String>) -> Self {
        for pod in &mut self.pods {
            keep_variables(pod, names);
        }
        self
    }

    fn object(&mut self, document: &Document<'_>, path: &str, value: Value) {
        // An empty document between two separators says nothing.
        if value.is_null() {
            return;
        }
        match value.get("kind").and_then(Value::as_str) {
            Some("Pod") => self.pod(document, path, value),
            Some("Namespace") => self.namespace(document, path, value),
            Some("List" | "PodList" | "NamespaceList") => self.list(document, path, value),
            Some(_) => {}
            None => self.problems.push(document.error(
                None,
                path,
                "has no `kind`; give it `kind: Pod` (or remove it)".to_owned(),
            )),
        }
    }

    fn list(&mut self, document: &Document<'_>, path: &str, mut value: Value) {
        let kind = value.get("kind").and_then(Value::as_str);
        // Items of a typed list carry no kind of their own.
        let implied = kind.and_then(|kind| kind.strip_suffix("List"));
        let implied = implied.filter(|kind| !kind.is_empty()).map(str::to_owned);
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
            let problem = "is missing or no list; a List has `items:`".to_owned();
            self.problems
                .push(document.error(None, &format!("{path}items"), problem));
            return;
        };
        for (at, mut item) in items.into_iter().enumerate() {
            if let (Some(kind), Some(fields)) = (&implied, item.as_object_mut()) {
                fields.entry("kind").or_insert_with(|| kind.clone().into());
            }
            self.object(document, &format!("{path}items[{at}]."), item);
        }
    }

    fn pod(&mut self, document: &Document<'_>, path: &str, value: Value) {
        match document.read::<KubePod>(path, value) {
            Err(problem) => self.problems.push(problem),
            Ok(pod) if convert::is_over(&pod) => {}
            Ok(pod) => match convert::pod(pod) {
                Some(pod) => self.pods.push(pod),
                None => self.problems.push(document.error(
                    None,
                    &format!("{path}metadata.name"),
                    "is missing; a running pod has a name".to_owned(),
                )),
            },
        }
    }

    fn namespace(&mut self, document: &Document<'_>, path: &str, value: Value) {
        match document.read::<Namespace>(path, value) {
            Err(problem) => self.problems.push(problem),
            Ok(namespace) => {
                let meta = namespace.metadata;
                let labels = meta.labels.unwrap_or_default();
                self.namespaces
                    .insert(meta.name.unwrap_or_default(), labels);
            }
        }
    }
}

/// Drops all environment variables of the pod but these.
pub(super) fn keep_variables(pod: &mut Pod, names: &BTreeSet<String>) {
    for container in &mut pod.containers {
        container.env.retain(|name, _| names.contains(name));
    }
}

impl Document<'_> {
    fn error(&self, line: Option<usize>, field: &str, problem: String) -> ManifestError {
        ManifestError {
            file: self.file.to_owned(),
            document: self.number,
            line: line.or(Some(self.before + 1)),
            field: field.trim_end_matches('.').to_owned(),
            problem,
        }
    }

    fn read<T: DeserializeOwned>(&self, path: &str, value: Value) -> Result<T, ManifestError> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let line = lines::line(self.text, &items(path), error.path());
            let line = line.map(|line| line + self.before);
            let inner = error.path().to_string();
            let inner = if inner == "." { "" } else { &inner };
            let problem = format!("{}; correct the manifest", error.inner());
            self.error(line, &format!("{path}{inner}"), problem)
        })
    }
}

/// The numbers of `items[3].items[0].`, as [`Manifests::list`] writes it.
fn items(path: &str) -> Vec<usize> {
    let number = |step: &str| step.strip_prefix("items[")?.strip_suffix(']')?.parse().ok();
    path.split('.').filter_map(number).collect()
}

struct Unreadable {
    line: Option<usize>,
    text: String,
}

fn value(text: &str) -> Result<Value, Unreadable> {
    // YAML would take it too, but not JSON's tabs.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.starts_with('#'))
    {
        return Ok(Value::Null);
    }
    // As Kubernetes reads it: `namespace: n` is a name, not a truth value.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error
            .location()
            .and_then(|l| usize::try_from(l.line()).ok());
        let told = error.without_snippet().to_string();
        Unreadable {
            line: line.filter(|line| *line > 0),
            text: format!("not YAML: {}; correct the manifest", told.trim_end()),
        }
    })
}

/// Documents with the number of lines before each. A separator is at the start of a line,
/// where a block scalar can never have it.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = at + line.len();
        let word = line.trim_end();
        if word == "---" || word.starts_with("--- ") {
            found.push((begin_line, begin..at));
            (begin, begin_line) = (end, number + 1);
        }
        at = end;
    }
    found.push((begin_line, begin..at));
    found
        .into_iter()
        .filter_map(|(line, range)| Some((line, text.get(range)?)))
        .filter(|(_, text)| !text.trim().is_empty())
        .collect()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
