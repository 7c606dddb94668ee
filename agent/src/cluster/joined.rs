//! Pods of this node joined with their namespaces' labels, as the API server tells them.
//!
//! Pure: what a watch says goes in, [`Change`]s come out. A change is told only when the trimmed pod differs from what was
//! told before: the kubelet writes a pod's status many times, and a list read again after a failure says mostly what is known.
//! Pods wait for the first list of namespaces, because a pod without its namespace's labels would be judged by another intent.

use std::collections::{BTreeMap, BTreeSet};

use super::{manifest, trimmed::Trimmed};
use crate::{
    engine::Change,
    model::{Pod, PodKey},
};

/// Pods held; a kubelet runs 250 at most by its own default, a large node 1 000.
const MAX_PODS: usize = 4_096;
/// Namespaces held; the largest clusters have 10 000.
const MAX_NAMESPACES: usize = 16_384;

type Labels = BTreeMap<String, String>;

/// What the two watches said so far.
#[derive(Debug, Default)]
pub(super) struct Joined {
    variables: BTreeSet<String>,
    pods: BTreeMap<PodKey, Pod>,
    /// Pods that ended and are still listed, by uid: a Job's pods stay for days.
    over: BTreeMap<PodKey, String>,
    namespaces: BTreeMap<String, Labels>,
    /// Pods are told: the namespaces are known, or known not to be had.
    released: bool,
    /// The first list of pods is through.
    listed: bool,
    /// Pods seen in the list being read.
    relisted: BTreeSet<PodKey>,
    /// Namespaces of the list being read.
    renamed: BTreeMap<String, Labels>,
    refused: u64,
    out: Vec<Change>,
}

impl Joined {
    /// Nothing is known yet. Of containers' environments only `variables` are kept.
    pub(super) fn new(variables: BTreeSet<String>) -> Self {
        Self {
            variables,
            ..Self::default()
        }
    }

    /// What changed since this was asked last.
    pub(super) fn take(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.out)
    }

    /// Pods known.
    pub(super) fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Namespaces known.
    pub(super) fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// Objects not taken because there were too many.
    pub(super) const fn refused(&self) -> u64 {
        self.refused
    }

    /// The uid of the pod of this name, also if it ended and is still listed: a Job's pod is looked at afterwards.
    pub(super) fn uid(&self, key: &PodKey) -> Option<&str> {
        let live = self.pods.get(key).map(|pod| &pod.uid);
        live.or_else(|| self.over.get(key)).map(String::as_str)
    }

    /// A list of pods begins.
    pub(super) fn pods_begin(&mut self) {
        self.relisted.clear();
    }

    /// A pod of the list.
    pub(super) fn pod_listed(&mut self, pod: Trimmed) {
        let Some(key) = pod.key() else { return };
        self.relisted.insert(key.clone());
        if !pod.over {
            return self.pod(key, pod);
        }
        // One that lived and died while nobody could be asked: its connections are waiting to be told whose they are. What
        // had ended before the agent came is history.
        let unheard = self.listed && self.over.get(&key).is_none_or(|uid| uid != pod.uid());
        self.pod_over(key, pod, unheard);
    }

    /// The list of pods is through: what was not in it is gone.
    pub(super) fn pods_end(&mut self) {
        self.listed = true;
        let listed = std::mem::take(&mut self.relisted);
        self.over.retain(|key, _| listed.contains(key));
        let gone: Vec<PodKey> = self.pods.keys().cloned().collect();
        for key in gone.into_iter().filter(|key| !listed.contains(key)) {
            self.gone(&key);
        }
    }

    /// A pod appeared or changed.
    pub(super) fn pod_applied(&mut self, pod: Trimmed) {
        let Some(key) = pod.key() else { return };
        if pod.over {
            let unheard = self.over.get(&key).is_none_or(|uid| uid != pod.uid());
            self.pod_over(key, pod, unheard);
        } else {
            self.pod(key, pod);
        }
    }

    /// A pod was deleted. The last words of an earlier pod never end its successor.
    pub(super) fn pod_deleted(&mut self, pod: &Trimmed) {
        let Some(key) = pod.key() else { return };
        let uid = pod.uid();
        if self.over.get(&key).is_some_and(|over| over == uid) {
            self.over.remove(&key);
        }
        if self.pods.get(&key).is_some_and(|known| known.uid == uid) {
            self.gone(&key);
        }
    }

    /// A pod that ended: its last state is told (a pod of two seconds may have its containers' ids only now), then that
    /// it is gone. Its address may be another pod's already.
    fn pod_over(&mut self, key: PodKey, pod: Trimmed, unheard: bool) {
        let uid = pod.uid().to_owned();
        let known = self.pods.contains_key(&key);
        if unheard || known {
            self.pod(key.clone(), pod);
            self.gone(&key);
        }
        if self.over.len() < MAX_PODS {
            self.over.insert(key, uid);
        }
    }

    fn pod(&mut self, key: PodKey, pod: Trimmed) {
        let Some(mut pod) = pod.pod else { return };
        manifest::keep_variables(&mut pod, &self.variables);
        if let Some(labels) = self.namespaces.get(&key.namespace) {
            pod.namespace_labels.clone_from(labels);
        }
        let known = self.pods.get(&key);
        if known == Some(&pod) {
            return;
        }
        if known.is_some_and(|known| known.uid != pod.uid) {
            self.gone(&key);
        }
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&key) {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        if self.released {
            self.out.push(Change::Pod(Box::new(pod.clone())));
        }
        self.pods.insert(key, pod);
    }

    fn gone(&mut self, key: &PodKey) {
        if let Some(pod) = self.pods.remove(key) {
            // One that nobody was told of yet lived all the same.
            if !self.released {
                self.out.push(Change::Pod(Box::new(pod)));
            }
            self.out.push(Change::PodGone(key.clone()));
        }
    }

    /// A list of namespaces begins.
    pub(super) fn namespaces_begin(&mut self) {
        self.renamed.clear();
    }

    /// A namespace of the list.
    pub(super) fn namespace_listed(&mut self, name: String, labels: Labels) {
        if self.renamed.len() < MAX_NAMESPACES {
            self.renamed.insert(name, labels);
        } else {
            self.refused = self.refused.saturating_add(1);
        }
    }

    /// The list of namespaces is through.
    pub(super) fn namespaces_end(&mut self) {
        self.namespaces = std::mem::take(&mut self.renamed);
        let all: Vec<PodKey> = self.pods.keys().cloned().collect();
        all.iter().for_each(|key| self.relabel(key));
        self.release();
    }

    /// A namespace appeared or changed.
    pub(super) fn namespace_applied(&mut self, name: String, labels: Labels) {
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(&name) {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        let inside = |key: &&PodKey| key.namespace == name;
        let inside: Vec<PodKey> = self.pods.keys().filter(inside).cloned().collect();
        self.namespaces.insert(name, labels);
        inside.iter().for_each(|key| self.relabel(key));
    }

    /// A namespace was deleted. Its pods went before it.
    pub(super) fn namespace_deleted(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Tells pods from now on, with the namespaces known or without.
    pub(super) fn release(&mut self) {
        if !self.released {
            self.released = true;
            let all = self.pods.values();
            self.out
                .extend(all.map(|pod| Change::Pod(Box::new(pod.clone()))));
        }
    }

    fn relabel(&mut self, key: &PodKey) {
        let labels = self.namespaces.get(&key.namespace);
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        let labels = labels.cloned().unwrap_or_default();
        if pod.namespace_labels != labels {
            pod.namespace_labels = labels;
            if self.released {
                self.out.push(Change::Pod(Box::new(pod.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, phase: &str) -> Trimmed {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "uid": uid},
            "spec": {"containers": [{"name": "app", "env": [
                {"name": "KEPT", "value": "1"}, {"name": "PASSWORD", "value": "x"}]}]},
            "status": {"phase": phase, "podIP": "10.0.0.1"},
        }))
        .unwrap()
    }

    fn told(joined: &mut Joined) -> Vec<String> {
        let one = |change: Change| match change {
            Change::Pod(pod) => format!("+{}/{} {:?}", pod.key.name, pod.uid, pod.namespace_labels),
            Change::PodGone(key) => format!("-{}", key.name),
            other => format!("{other:?}"),
        };
        joined.take().into_iter().map(one).collect()
    }

    fn labels(value: &str) -> Labels {
        [("mesh".to_owned(), value.to_owned())].into()
    }

    fn listed(names: &[(&str, &str, &str)], joined: &mut Joined) {
        joined.pods_begin();
        for (name, uid, phase) in names {
            joined.pod_listed(pod(name, uid, phase));
        }
        joined.pods_end();
    }

    fn ready() -> Joined {
        let mut joined = Joined::new(["KEPT".to_owned()].into());
        joined.namespaces_begin();
        joined.namespaces_end();
        joined
    }

    #[test]
    fn pods_wait_for_their_namespaces_labels() {
        let mut joined = Joined::new([].into());
        listed(&[("a", "1", "Running")], &mut joined);
        assert_eq!(told(&mut joined), [""; 0]);
        joined.namespaces_begin();
        joined.namespace_listed("n".to_owned(), labels("on"));
        joined.namespaces_end();
        assert_eq!(told(&mut joined), [r#"+a/1 {"mesh": "on"}"#]);
        joined.namespace_applied("n".to_owned(), labels("on"));
        assert_eq!(told(&mut joined), [""; 0]);
        joined.namespace_applied("n".to_owned(), labels("off"));
        joined.namespace_applied("other".to_owned(), labels("on"));
        assert_eq!(told(&mut joined), [r#"+a/1 {"mesh": "off"}"#]);
    }

    #[test]
    fn without_permission_for_namespaces_pods_are_told_all_the_same() {
        let mut joined = Joined::new([].into());
        listed(&[("a", "1", "Running")], &mut joined);
        joined.release();
        assert_eq!(told(&mut joined), ["+a/1 {}"]);
    }

    #[test]
    fn a_list_read_again_tells_only_what_differs() {
        let mut joined = ready();
        listed(&[("a", "1", "Running"), ("b", "1", "Running")], &mut joined);
        assert_eq!(told(&mut joined).len(), 2);
        listed(&[("a", "1", "Running"), ("b", "1", "Running")], &mut joined);
        assert_eq!(told(&mut joined), [""; 0]);
        listed(&[("b", "2", "Running"), ("c", "1", "Running")], &mut joined);
        assert_eq!(told(&mut joined), ["-b", "+b/2 {}", "+c/1 {}", "-a"]);
    }

    #[test]
    fn a_pod_of_two_seconds_is_told_before_it_is_gone() {
        let mut joined = ready();
        // The kubelet's first word of it may be its last.
        joined.pod_applied(pod("job", "1", "Succeeded"));
        assert_eq!(told(&mut joined), ["+job/1 {}", "-job"]);
        let key = pod("job", "", "").key().unwrap();
        assert_eq!(joined.uid(&key), Some("1"));
        // Its status is written again, then it is deleted.
        joined.pod_applied(pod("job", "1", "Succeeded"));
        joined.pod_deleted(&pod("job", "1", "Succeeded"));
        assert_eq!(told(&mut joined), [""; 0]);
    }

    #[test]
    fn pods_that_ended_before_the_agent_came_are_history() {
        let mut joined = ready();
        listed(&[("old", "1", "Failed")], &mut joined);
        assert_eq!(told(&mut joined), [""; 0]);
        // … but those that lived while the API server was away are not.
        listed(
            &[("old", "1", "Failed"), ("new", "1", "Succeeded")],
            &mut joined,
        );
        assert_eq!(told(&mut joined), ["+new/1 {}", "-new"]);
    }

    #[test]
    fn a_successor_of_the_same_name_is_another_pod() {
        let mut joined = ready();
        joined.pod_applied(pod("db-0", "1", "Running"));
        joined.pod_applied(pod("db-0", "2", "Pending"));
        assert_eq!(told(&mut joined), ["+db-0/1 {}", "-db-0", "+db-0/2 {}"]);
        joined.pod_deleted(&pod("db-0", "1", "Running"));
        assert_eq!(told(&mut joined), [""; 0]);
        assert_eq!(joined.uid(&pod("db-0", "", "").key().unwrap()), Some("2"));
    }

    #[test]
    fn of_the_environment_only_what_profiles_ask_for_is_kept() {
        let mut joined = ready();
        joined.pod_applied(pod("a", "1", "Running"));
        let kept: Vec<_> = joined.pods.values().next().unwrap().containers[0]
            .env
            .clone()
            .into_keys()
            .collect();
        assert_eq!(kept, ["KEPT"]);
    }
}
