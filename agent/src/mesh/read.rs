//! Settings of one pod, with where each was read.
//!
//! Precedence: arguments of the mesh's init container (what was really installed), then what
//! it or the proxy has in its environment, documents, the pod's annotations, and
//! then the profile's defaults. A value that cannot be understood is
//! a problem to tell, and the next source down counts: never a guess.

use super::{arguments, document, profile::Profile, setting::Setting};
use crate::model::{Container, Pod};

/// A value, and where it was read, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sourced<T> {
    /// The value.
    pub value: T,
    /// `annotation x: "9000"`, `argument -o "9000" of init container y`, `default of profile z: "…"`.
    pub source: String,
}

struct Candidate {
    setting: Setting,
    text: String,
    source: String,
}

/// Settings of one pod, best source first.
pub(super) struct Reader {
    candidates: Vec<Candidate>,
    problems: Vec<String>,
}

impl Reader {
    /// Collects what the pod and the profile say.
    pub(super) fn new(
        profile: &Profile,
        pod: &Pod,
        proxy: Option<&Container>,
        init: Option<&Container>,
    ) -> Self {
        let mut candidates = Vec::new();
        let mut problems = Vec::new();
        if let Some(init) = init {
            candidates.extend(from_arguments(profile, init));
        }
        for container in init.into_iter().chain(proxy) {
            candidates.extend(from_environment(profile, container));
        }
        for (source, read) in documents(profile, pod, init) {
            match read {
                Ok(found) => candidates.extend(found),
                Err(problem) => problems.push(format!(
                    "{source} {problem}; it is ignored and the next source counts. Correct it and restart the pod"
                )),
            }
        }
        candidates.extend(from_annotations(profile, pod));
        candidates.extend(from_annotation_values(profile, pod));
        candidates.extend(from_defaults(profile, init.is_some()));
        Self {
            candidates,
            problems,
        }
    }

    /// The value of a setting, `None` if nobody gave one.
    pub(super) fn get<T>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Sourced<T>> {
        for candidate in self.candidates.iter().filter(|c| c.setting == setting) {
            match parse(&candidate.text) {
                Ok(value) => {
                    return Some(Sourced {
                        value,
                        source: candidate.source.clone(),
                    });
                }
                Err(problem) => self.problems.push(format!(
                    "{}: {problem}; it is ignored and the next source counts. Correct the value and restart the pod",
                    candidate.source
                )),
            }
        }
        None
    }

    /// Every value given for a setting that adds up.
    pub(super) fn all<T>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for candidate in self.candidates.iter().filter(|c| c.setting == setting) {
            match parse(&candidate.text) {
                Ok(value) => values.push(value),
                Err(problem) => self.problems.push(format!(
                    "{}: {problem}; it is ignored. Correct the value and restart the pod",
                    candidate.source
                )),
            }
        }
        values
    }

    /// What could not be understood.
    pub(super) fn into_problems(self) -> Vec<String> {
        self.problems
    }
}

fn from_arguments(profile: &Profile, init: &Container) -> Vec<Candidate> {
    arguments::find(&profile.arguments, &init.args)
        .into_iter()
        .map(|found| Candidate {
            setting: found.setting,
            source: format!(
                "argument {} {:?} of init container {}",
                found.flag, found.value, init.name
            ),
            text: found.value,
        })
        .collect()
}

fn from_environment(profile: &Profile, container: &Container) -> Vec<Candidate> {
    let known = profile.environment.iter();
    let set = known.filter_map(|(name, setting)| Some((name, setting, container.env.get(name)?)));
    set.map(|(name, setting, text)| Candidate {
        setting: *setting,
        source: format!("variable {name}={text:?} of container {}", container.name),
        text: text.clone(),
    })
    .collect()
}

type Read = (String, Result<Vec<Candidate>, String>);

/// Where each document of the pod stands, and what it says.
fn documents(profile: &Profile, pod: &Pod, init: Option<&Container>) -> Vec<Read> {
    let mut all = Vec::new();
    for document in &profile.documents {
        let annotation = document.annotation.as_ref();
        let annotation = annotation
            .and_then(|key| Some((format!("annotation {key}"), pod.annotations.get(key)?)));
        let variable = document.variable.as_ref().and_then(|name| {
            let init = init?;
            let source = format!("variable {name} of init container {}", init.name);
            Some((source, init.env.get(name)?))
        });
        for (source, text) in annotation.into_iter().chain(variable) {
            let read = document::read(&document.keys, text).map(|found| {
                let found = found.into_iter();
                found
                    .map(|(path, setting, text)| Candidate {
                        setting,
                        source: format!("{path}: {text:?} in {source}"),
                        text,
                    })
                    .collect()
            });
            all.push((source, read));
        }
    }
    all
}

fn from_annotations(profile: &Profile, pod: &Pod) -> Vec<Candidate> {
    let unset = |text: &str| profile.capture.empty_annotation_is_unset && text.trim().is_empty();
    let known = profile.annotations.iter();
    known
        .filter_map(|(key, setting)| Some((key, setting, pod.annotations.get(key)?)))
        .filter(|(_, _, text)| !unset(text))
        .map(|(key, setting, text)| Candidate {
            setting: *setting,
            text: text.clone(),
            source: format!("annotation {key}: {text:?}"),
        })
        .collect()
}

fn from_annotation_values(profile: &Profile, pod: &Pod) -> Vec<Candidate> {
    let mut all = Vec::new();
    for (key, values) in &profile.annotation_values {
        let Some(text) = pod.annotations.get(key) else {
            continue;
        };
        let settings = values.get(text.trim()).into_iter().flatten();
        all.extend(settings.map(|(setting, value)| Candidate {
            setting: *setting,
            text: value.clone(),
            source: format!("annotation {key}: {text:?}"),
        }));
    }
    all
}

fn from_defaults(profile: &Profile, with_init: bool) -> Vec<Candidate> {
    let plugin = &profile.defaults_without_init;
    let plugin = plugin.iter().filter(|_| !with_init);
    plugin
        .chain(&profile.defaults)
        .map(|(setting, text)| Candidate {
            setting: *setting,
            text: text.clone(),
            source: format!("default of profile {}: {text:?}", profile.name),
        })
        .collect()
}

/// A user or group id; a negative number means that there is no such rule.
pub(super) fn parse_id(text: &str) -> Result<Option<u32>, String> {
    match text.trim().parse::<i64>() {
        Ok(id) if id < 0 => Ok(None),
        Ok(id) => u32::try_from(id)
            .map(Some)
            .map_err(|_| format!("{text:?} is too large for a user or group id")),
        Err(_) => Err(format!("{text:?} is not a numeric user or group id")),
    }
}

/// A truth value in the spellings of the usual command line libraries and of annotations.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim() {
        "true" | "True" | "TRUE" | "t" | "T" | "1" | "yes" | "enabled" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" | "no" | "disabled" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Names in a list.
pub(super) fn parse_names(text: &str) -> Result<Vec<String>, String> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}
