//! A directory of Pod manifests as a source of pods.
//!
//! Blocking and without a clock: [`PodsDir::scan`] looks once and says what changed. What
//! cannot be read keeps its last good state, because a file that is being edited must not
//! make its pods vanish; what is wrong is told as one [`Change::Source`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::manifest::Manifests;
use crate::{
    engine::Change,
    model::{Pod, PodKey},
};

/// Name of this source in [`Change::Source`].
const SOURCE: &str = "pods-dir";
/// Larger files are refused: a list of all pods of a large cluster is below it.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most problems told at once; the rest is counted.
const MAX_TOLD: usize = 5;

/// A directory of manifests, and what it said when last looked at.
#[derive(Debug)]
pub struct PodsDir {
    dir: PathBuf,
    variables: BTreeSet<String>,
    files: BTreeMap<PathBuf, File>,
    /// Digests of the pods told: a second copy of each would cost a kilobyte or several.
    pods: BTreeMap<PodKey, u64>,
    trouble: Option<String>,
}

/// What the files say.
#[derive(Default)]
struct Collected {
    pods: BTreeMap<PodKey, u64>,
    /// Those that were not told like this.
    changed: Vec<Pod>,
    /// Those described twice.
    twice: Vec<String>,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// The last good state.
    manifests: Manifests,
    /// What is wrong now.
    problems: Vec<String>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
}

impl PodsDir {
    /// Nothing is read yet. Of containers' environments only `variables` are kept.
    #[must_use]
    pub fn new(dir: PathBuf, variables: BTreeSet<String>) -> Self {
        Self {
            dir,
            variables,
            files: BTreeMap::new(),
            pods: BTreeMap::new(),
            trouble: None,
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Looks at the directory: what changed since the last look. Blocks on the disk.
    pub fn scan(&mut self) -> Vec<Change> {
        let unreadable = match manifest_files(&self.dir) {
            Ok(present) => {
                self.files.retain(|path, _| present.contains(path));
                for path in present {
                    let file = self.files.entry(path.clone()).or_default();
                    file.look(&path, &self.variables);
                }
                None
            }
            Err(error) => Some(format!(
                "directory {}: {error}; its last readable state is kept. Create it, or let the agent read it (option --pods)",
                self.dir.display()
            )),
        };
        let new = self.collect();
        let problems = self.files.values().flat_map(|file| &file.problems);
        let problems = unreadable.iter().chain(problems).chain(&new.twice);
        let trouble = told(&problems.map(String::as_str).collect::<Vec<_>>());
        let gone = self.pods.keys().filter(|key| !new.pods.contains_key(*key));
        let mut changes: Vec<_> = gone.cloned().map(Change::PodGone).collect();
        let changed = new.changed.into_iter().map(Box::new);
        changes.extend(changed.map(Change::Pod));
        if trouble != self.trouble {
            changes.push(Change::Source {
                source: SOURCE.to_owned(),
                trouble: trouble.clone(),
            });
        }
        self.pods = new.pods;
        self.trouble = trouble;
        changes
    }

    /// Pods of all files, each with its namespace's labels.
    fn collect(&self) -> Collected {
        let nothing = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        for file in self.files.values() {
            namespaces.extend(&file.manifests.namespaces);
        }
        let mut new = Collected::default();
        for (path, file) in &self.files {
            for pod in &file.manifests.pods {
                if new.pods.contains_key(&pod.key) {
                    new.twice.push(format!(
                        "{}: pod {} is described a second time; the first counts. Remove one",
                        path.display(),
                        pod.key
                    ));
                    continue;
                }
                let labels = namespaces.get(&pod.key.namespace).copied();
                let labels = labels.unwrap_or(&nothing);
                let digest = digest(pod, labels);
                new.pods.insert(pod.key.clone(), digest);
                if self.pods.get(&pod.key) != Some(&digest) {
                    new.changed.push(Pod {
                        namespace_labels: labels.clone(),
                        ..pod.clone()
                    });
                }
            }
        }
        new.changed.sort_by(|a, b| a.key.cmp(&b.key));
        new
    }
}

fn digest(pod: &Pod, labels: &BTreeMap<String, String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pod, labels).hash(&mut hasher);
    hasher.finish()
}

impl File {
    /// Reads the file again if it changed.
    fn look(&mut self, path: &Path, variables: &BTreeSet<String>) {
        match fs::metadata(path).and_then(|meta| Stamp::of(&meta)) {
            Ok(stamp) if self.stamp == Some(stamp) => {}
            Ok(stamp) => match fs::read_to_string(path) {
                Ok(text) => {
                    self.stamp = Some(stamp);
                    let manifests = Manifests::parse(&path.display().to_string(), &text);
                    self.take(manifests.keep_variables(variables));
                }
                Err(error) => self.fail(path, &error),
            },
            Err(error) => self.fail(path, &error),
        }
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        self.stamp = None;
        self.problems = vec![format!(
            "{}: {error}; its last readable state is kept. Let the agent read it",
            path.display()
        )];
    }

    /// While a document is malformed, pods that the file had before are kept: one of them is it.
    fn take(&mut self, mut new: Manifests) {
        self.problems = new.problems.iter().map(ToString::to_string).collect();
        if !new.problems.is_empty() {
            let known: BTreeSet<PodKey> = new.pods.iter().map(|pod| pod.key.clone()).collect();
            let old = std::mem::take(&mut self.manifests);
            new.pods
                .extend(old.pods.into_iter().filter(|pod| !known.contains(&pod.key)));
            for (name, labels) in old.namespaces {
                new.namespaces.entry(name).or_insert(labels);
            }
        }
        self.manifests = new;
    }
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> io::Result<Self> {
        if meta.len() > MAX_FILE_BYTES {
            return Err(io::Error::other(format!(
                "larger than {} MiB, split it",
                MAX_FILE_BYTES >> 20
            )));
        }
        Ok(Self {
            modified: meta.modified().ok(),
            len: meta.len(),
        })
    }
}

/// Files that are manifests by their name. Links are followed (a mounted ConfigMap is made
/// of them), names with a leading dot are not.
fn manifest_files(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().and_then(|extension| extension.to_str());
        if !hidden && matches!(manifest, Some("yaml" | "yml" | "json")) && !path.is_dir() {
            files.insert(path);
        }
    }
    Ok(files)
}

fn told(problems: &[&str]) -> Option<String> {
    let rest = problems.len().saturating_sub(MAX_TOLD);
    let mut text = problems
        .iter()
        .take(MAX_TOLD)
        .copied()
        .collect::<Vec<_>>()
        .join("\n");
    if rest > 0 {
        text.push_str(&format!("\nand {rest} more"));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::fs;

    use super::PodsDir;
    use crate::engine::Change;

    fn pod(name: &str) -> String {
        format!("kind: Pod\nmetadata: {{name: {name}, namespace: n}}\n---\n")
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let one = |change: &Change| match change {
            Change::Pod(pod) => format!("+{} {:?}", pod.key, pod.namespace_labels),
            Change::PodGone(key) => format!("-{key}"),
            Change::Source { trouble: None, .. } => "fine".to_owned(),
            Change::Source {
                trouble: Some(text),
                ..
            } => format!("trouble: {text}"),
            other => format!("{other:?}"),
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn tells_what_changed_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = PodsDir::new(temp.path().to_owned(), [].into());
        assert_eq!(shown(&dir.scan()), Vec::<String>::new());
        fs::write(temp.path().join("a.yaml"), pod("a") + &pod("b")).unwrap();
        fs::write(
            temp.path().join("c.json"),
            r#"{"kind":"Pod","metadata":{"name":"c"}}"#,
        )
        .unwrap();
        fs::write(temp.path().join("notes.txt"), "no manifest").unwrap();
        fs::write(temp.path().join(".a.yaml"), pod("hidden")).unwrap();
        assert_eq!(shown(&dir.scan()), ["+default/c {}", "+n/a {}", "+n/b {}"]);
        assert_eq!(shown(&dir.scan()), Vec::<String>::new());
        let namespace = "kind: Namespace\nmetadata: {name: n, labels: {x: y}}\n";
        fs::write(temp.path().join("n.yml"), namespace).unwrap();
        assert_eq!(
            shown(&dir.scan()),
            [r#"+n/a {"x": "y"}"#, r#"+n/b {"x": "y"}"#]
        );
        fs::remove_file(temp.path().join("a.yaml")).unwrap();
        assert_eq!(shown(&dir.scan()), ["-n/a", "-n/b"]);
    }

    #[test]
    fn a_malformed_document_keeps_its_pod_and_hides_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = PodsDir::new(temp.path().to_owned(), [].into());
        fs::write(temp.path().join("a.yaml"), pod("a") + &pod("b")).unwrap();
        assert_eq!(shown(&dir.scan()), ["+n/a {}", "+n/b {}"]);
        fs::write(
            temp.path().join("a.yaml"),
            pod("a") + "kind: [\n---\n" + &pod("new"),
        )
        .unwrap();
        let told = shown(&dir.scan());
        assert_eq!(told[0], "+n/new {}");
        assert!(
            told[1].starts_with("trouble: ") && told[1].contains("a.yaml, document 2"),
            "{told:?}"
        );
        assert_eq!(told.len(), 2);
        fs::write(temp.path().join("a.yaml"), pod("a")).unwrap();
        assert_eq!(shown(&dir.scan()), ["-n/b", "-n/new", "fine"]);
    }

    #[test]
    fn a_directory_that_vanishes_keeps_its_pods_until_it_is_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pods");
        let mut dir = PodsDir::new(path.clone(), [].into());
        let told = shown(&dir.scan());
        assert!(
            told.len() == 1 && told[0].starts_with("trouble: directory "),
            "{told:?}"
        );
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), pod("a")).unwrap();
        assert_eq!(shown(&dir.scan()), ["+n/a {}", "fine"]);
        fs::rename(&path, temp.path().join("elsewhere")).unwrap();
        let told = shown(&dir.scan());
        assert!(
            told.len() == 1 && told[0].starts_with("trouble: "),
            "{told:?}"
        );
        fs::create_dir(&path).unwrap();
        assert_eq!(shown(&dir.scan()), ["-n/a", "fine"]);
    }

    #[test]
    fn a_pod_described_twice_counts_once_and_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = PodsDir::new(temp.path().to_owned(), [].into());
        fs::write(temp.path().join("a.yaml"), pod("a")).unwrap();
        fs::write(temp.path().join("b.yaml"), pod("a")).unwrap();
        let told = shown(&dir.scan());
        assert_eq!(told[0], "+n/a {}");
        assert!(
            told[1].contains("b.yaml: pod n/a is described a second time"),
            "{told:?}"
        );
    }
}
