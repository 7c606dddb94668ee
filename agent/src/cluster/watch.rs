//! The watches of this node's pods and of all namespaces: the async shell around [`Joined`].
//!
//! Lists are asked from the API server's cache (`resourceVersion=0`), as the kubelet does: thousands of agents that come
//! back after an outage must not read every pod of the cluster from etcd each. What fails is tried again after a jittered
//! back-off of at most 30 s. Nothing here stops the agent; what is wrong is told as [`Change::Source`].

use std::{collections::BTreeSet, pin::pin, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    account::{Account, NAMESPACES_PATH, PODS_PATH},
    events::Note,
    joined::Joined,
    patience::Patience,
    trimmed::Trimmed,
    trouble,
};
use crate::engine::{Change, Output};

/// Seconds after which the API server ends a watch, and the agent asks anew. Two watches make 0.9 requests a minute.
const WATCH_SECS: u32 = 140;
/// A first list that takes longer is told as trouble; it is waited for all the same.
const SLOW: Duration = Duration::from_secs(10);
/// Pods do not wait longer than this for their namespaces' labels.
const LABELS_WAIT: Duration = Duration::from_secs(20);
/// Looking whether what failed works again.
const LOOK: Duration = Duration::from_secs(1);

/// A watch and how it stands.
#[derive(Debug)]
struct Standing {
    kind: &'static str,
    source: &'static str,
    path: &'static str,
    since: Instant,
    listed: bool,
    /// What is wrong, and how many requests had succeeded when it was told.
    trouble: Option<(String, u64)>,
    /// The API server answered since, and had not yet said more at the last look.
    answers: bool,
}

impl Standing {
    fn new(kind: &'static str, source: &'static str, path: &'static str) -> Self {
        Self {
            kind,
            source,
            path,
            since: Instant::now(),
            listed: false,
            trouble: None,
            answers: false,
        }
    }

    /// A request that failed. The change to tell, if it is news.
    fn failed(&mut self, account: &Account, error: &watcher::Error) -> Option<Change> {
        let Some(text) = trouble::of_watch(self.kind, error) else {
            // It is listed anew, and what was wrong is not over before that.
            self.listed = false;
            self.since = Instant::now();
            account.watch(self.kind, |watch| watch.synced = false);
            return None;
        };
        self.set(account, text)
    }

    fn set(&mut self, account: &Account, text: String) -> Option<Change> {
        let news = self.trouble.as_ref().is_none_or(|(told, _)| *told != text);
        self.trouble = Some((text.clone(), account.answered(self.path)));
        self.answers = false;
        account.watch(self.kind, |watch| watch.synced = false);
        news.then(|| self.change(Some(text)))
    }

    /// Looks whether it works again, or takes too long.
    fn look(&mut self, account: &Account) -> Option<Change> {
        let answered = account.answered(self.path);
        if let Some((_, then)) = &self.trouble {
            // An answer may be that the place in the watch is too old, which comes right after it.
            let well = self.answers && self.listed;
            self.answers = answered > *then;
            return well.then(|| self.well(account));
        }
        if !self.listed && self.since.elapsed() > SLOW {
            let text = format!(
                "the API server has not listed {} for more than {} s; connections are counted, and pods are told when it answers",
                self.kind,
                SLOW.as_secs()
            );
            return self.set(account, text);
        }
        None
    }

    fn listed(&mut self, account: &Account) -> Option<Change> {
        self.listed = true;
        account.watch(self.kind, |watch| watch.lists += 1);
        if self.trouble.is_some() {
            return Some(self.well(account));
        }
        account.watch(self.kind, |watch| watch.synced = true);
        None
    }

    fn well(&mut self, account: &Account) -> Change {
        self.trouble = None;
        account.watch(self.kind, |watch| watch.synced = true);
        self.change(None)
    }

    fn change(&self, trouble: Option<String>) -> Change {
        Change::Source {
            source: self.source.to_owned(),
            trouble,
        }
    }
}

/// Both watches and what they feed.
pub(super) struct Watches {
    node: String,
    account: Account,
    joined: Joined,
    pods: Standing,
    namespaces: Standing,
    changes: mpsc::Sender<Change>,
    notes: Option<mpsc::Sender<Note>>,
}

impl Watches {
    /// Nothing is asked yet. `notes` takes what shall become Kubernetes Events.
    pub(super) fn new(
        node: String,
        variables: BTreeSet<String>,
        account: Account,
        changes: mpsc::Sender<Change>,
        notes: Option<mpsc::Sender<Note>>,
    ) -> Self {
        let pods = Standing::new("pods", "kubernetes", PODS_PATH);
        let namespaces = Standing::new("namespaces", "kubernetes-namespaces", NAMESPACES_PATH);
        for kind in [pods.kind, namespaces.kind] {
            account.watch(kind, |_| {});
        }
        Self {
            node,
            account,
            joined: Joined::new(variables),
            pods,
            namespaces,
            changes,
            notes,
        }
    }

    /// Watches until nobody listens any more.
    pub(super) async fn run(mut self, client: Client, mut told: mpsc::Receiver<Output>) {
        let here = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node))
            .any_semantic()
            .timeout(WATCH_SECS);
        let every = watcher::Config::default()
            .any_semantic()
            .timeout(WATCH_SECS);
        let patience = |path| Patience::new(self.account.clone(), path);
        let mut pods =
            pin!(watcher(Api::<Trimmed>::all(client.clone()), here).backoff(patience(PODS_PATH)));
        let mut namespaces = pin!(
            watcher(Api::<PartialObjectMeta<Namespace>>::all(client), every)
                .backoff(patience(NAMESPACES_PATH))
        );
        let mut look = tokio::time::interval(LOOK);
        loop {
            let mut standing = Vec::new();
            tokio::select! {
                Some(event) = pods.next() => standing.extend(self.pod(event)),
                Some(event) = namespaces.next() => standing.extend(self.namespace(event)),
                Some(output) = told.recv() => self.note(output),
                _ = look.tick() => self.look(&mut standing),
                () = self.changes.closed() => return,
            }
            // What a list brought is told before that it came.
            let changes = self.joined.take().into_iter().chain(standing);
            self.count();
            for change in changes {
                if self.changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }

    fn pod(&mut self, event: Result<Event<Trimmed>, watcher::Error>) -> Option<Change> {
        match event {
            Ok(Event::Init) => {
                self.joined.pods_begin();
                return None;
            }
            Ok(Event::InitApply(pod)) => self.joined.pod_listed(pod),
            Ok(Event::InitDone) => {
                self.joined.pods_end();
                return self.pods.listed(&self.account);
            }
            Ok(Event::Apply(pod)) => self.joined.pod_applied(pod),
            Ok(Event::Delete(pod)) => self.joined.pod_deleted(&pod),
            Err(error) => return self.pods.failed(&self.account, &error),
        }
        self.account.watch("pods", |watch| watch.changes += 1);
        None
    }

    fn namespace(
        &mut self,
        event: Result<Event<PartialObjectMeta<Namespace>>, watcher::Error>,
    ) -> Option<Change> {
        match event {
            Ok(Event::Init) => {
                self.joined.namespaces_begin();
                return None;
            }
            Ok(Event::InitApply(one)) => {
                let (name, labels) = named(one.metadata);
                self.joined.namespace_listed(name, labels);
            }
            Ok(Event::InitDone) => {
                self.joined.namespaces_end();
                return self.namespaces.listed(&self.account);
            }
            Ok(Event::Apply(one)) => {
                let (name, labels) = named(one.metadata);
                self.joined.namespace_applied(name, labels);
            }
            Ok(Event::Delete(one)) => self.joined.namespace_deleted(&named(one.metadata).0),
            Err(error) => {
                // Pods without labels are better than none; if it is only late they are told again.
                if forbidden(&error) {
                    self.joined.release();
                }
                return self.namespaces.failed(&self.account, &error);
            }
        }
        self.account.watch("namespaces", |watch| watch.changes += 1);
        None
    }

    fn look(&mut self, changes: &mut Vec<Change>) {
        changes.extend(self.pods.look(&self.account));
        changes.extend(self.namespaces.look(&self.account));
        if self.namespaces.since.elapsed() > LABELS_WAIT {
            self.joined.release();
        }
    }

    /// A finding for the Events; its pod's uid is what keeps it off a successor of the same name.
    fn note(&mut self, output: Output) {
        let Some(notes) = &self.notes else { return };
        let (Output::Opened(finding) | Output::Resolved(finding)) = &output;
        let Some(key) = &finding.pod else { return };
        let uid = self.joined.uid(key).map(str::to_owned);
        if notes.try_send(Note { output, uid }).is_err() {
            self.account.events("dropped", 1);
        }
    }

    fn count(&mut self) {
        let (pods, namespaces) = (self.joined.pods(), self.joined.namespaces());
        self.account
            .watch("pods", |watch| watch.objects = pods as u64);
        self.account
            .watch("namespaces", |watch| watch.objects = namespaces as u64);
        self.account.refused(self.joined.refused());
    }
}

fn named(meta: ObjectMeta) -> (String, std::collections::BTreeMap<String, String>) {
    (
        meta.name.unwrap_or_default(),
        meta.labels.unwrap_or_default(),
    )
}

fn forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}
