//! Findings as Kubernetes Events on their pods, so that `kubectl describe pod` tells them.
//!
//! Written through `v1` Events with `count` and `lastTimestamp`, which every API server takes and every `kubectl` shows. A
//! finding has one Event under a name made of the pod's uid and the reason: told again (also by an agent that was restarted)
//! it is counted up instead of written anew. What cannot be written now waits, merged and bounded, and is rate-limited.

mod draft;
mod queue;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use self::{
    draft::Draft,
    queue::{Queue, Refill},
};
use super::{account::Account, trouble};
use crate::engine::{Change, Output};

/// Name of this source in [`Change::Source`], and component of the Events.
const SOURCE: &str = "kubernetes-events";
const COMPONENT: &str = "sidestep";
/// Events waiting for the API server. A node of 250 pods rarely has more findings.
const WAITING: usize = 256;
/// Events whose count is remembered; beyond that the oldest is asked of the API server again.
const REMEMBERED: usize = 1_024;
/// Longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(60);
/// No write takes longer.
const WRITE: Duration = Duration::from_secs(15);

/// A finding opened or resolved, and the uid of the pod that has its name now.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// What happened.
    pub(super) output: Output,
    /// `None` if there is no such pod any more.
    pub(super) uid: Option<String>,
}

/// What a write that failed means for the Event.
enum Failed {
    /// Try again later.
    Later(Error),
    /// It will never be taken: the pod's namespace is going away, the right is missing.
    Never(Error),
}

/// Writes Events, one after the other.
pub(super) struct Writer {
    client: Client,
    node: String,
    account: Account,
    changes: mpsc::Sender<Change>,
    queue: Queue,
    /// How often each Event was told, by its name.
    told: BTreeMap<String, i32>,
    trouble: Option<String>,
    /// Failures in a row.
    failures: u32,
}

impl Writer {
    /// Nothing is written yet.
    pub(super) fn new(
        client: Client,
        node: String,
        account: Account,
        changes: mpsc::Sender<Change>,
    ) -> Self {
        for result in ["sent", "merged", "failed", "dropped", "pod_gone"] {
            account.events(result, 0);
        }
        Self {
            client,
            node,
            account,
            changes,
            queue: Queue::new(WAITING, Refill::default()),
            told: BTreeMap::new(),
            trouble: None,
            failures: 0,
        }
    }

    /// Writes what arrives until nobody sends any more.
    pub(super) async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        let start = Instant::now();
        let mut retry = tokio::time::Instant::now();
        loop {
            let due = self.queue.due(start.elapsed()).map(|wait| {
                let at = tokio::time::Instant::now() + wait;
                at.max(retry)
            });
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => self.take(note),
                    None => return,
                },
                () = wait_until(due) => {
                    if !self.write_one(start.elapsed()).await {
                        retry = tokio::time::Instant::now() + self.pause();
                    }
                }
            }
        }
    }

    fn take(&mut self, note: Note) {
        let Some(draft) = draft::draft(&note, &self.node) else {
            self.account.events("pod_gone", 1);
            return;
        };
        match self.queue.push(draft) {
            queue::Pushed::New => {}
            queue::Pushed::Merged => self.account.events("merged", 1),
            queue::Pushed::Dropped => self.account.events("dropped", 1),
        }
    }

    /// Doubles with every failure, and is spread over half of itself: agents that failed together do not come together.
    fn pause(&self) -> Duration {
        let whole = Duration::from_secs(1 << self.failures.min(6)).min(LONGEST);
        let mut bytes = [0; 4];
        // Without randomness the whole pause is as good.
        let _ = std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
        let part = f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX);
        whole.mul_f64(1.0 - part / 2.0)
    }

    /// Whether the next one may be written at once.
    async fn write_one(&mut self, now: Duration) -> bool {
        let Some(draft) = self.queue.pop(now) else {
            return true;
        };
        let written = match tokio::time::timeout(WRITE, self.write(&draft)).await {
            Ok(written) => written,
            Err(_) => Err(Failed::Later(Error::Service(
                format!("no answer within {} s", WRITE.as_secs()).into(),
            ))),
        };
        match written {
            Ok(()) => {
                self.failures = 0;
                self.account.events("sent", 1);
                self.say(None).await;
                true
            }
            Err(Failed::Never(error)) => {
                self.account.events("failed", 1);
                self.complain(&error).await;
                true
            }
            Err(Failed::Later(error)) => {
                self.failures = self.failures.saturating_add(1);
                if !self.queue.put_back(draft) {
                    self.account.events("dropped", 1);
                }
                self.complain(&error).await;
                false
            }
        }
    }

    async fn complain(&mut self, error: &Error) {
        self.say(Some(trouble::of("events", "create and patch", error)))
            .await;
    }

    /// Tells trouble, and that it is over, once each.
    async fn say(&mut self, trouble: Option<String>) {
        if self.trouble != trouble {
            self.trouble.clone_from(&trouble);
            let change = Change::Source {
                source: SOURCE.to_owned(),
                trouble,
            };
            // Nobody listens any more: the agent stops.
            let _ = self.changes.send(change).await;
        }
    }

    async fn write(&mut self, draft: &Draft) -> Result<(), Failed> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &draft.pod.namespace);
        let times = i32::try_from(draft.times).unwrap_or(i32::MAX);
        if let Some(told) = self.told.get(&draft.name).copied() {
            let count = told.saturating_add(times);
            match patch(&api, draft, Some(count)).await {
                Ok(_) => {
                    self.remember(draft, count);
                    return Ok(());
                }
                // Events expire, after an hour by the API server's default.
                Err(Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(judged(error)),
            }
        }
        match api
            .create(&PostParams::default(), &event(draft, &self.node, times))
            .await
        {
            Ok(_) => self.remember(draft, times),
            Err(Error::Api(status)) if status.code == 409 => {
                let before = patch(&api, draft, None).await.map_err(judged)?;
                let count = before.count.unwrap_or(1).saturating_add(times);
                patch(&api, draft, Some(count)).await.map_err(judged)?;
                self.remember(draft, count);
            }
            Err(error) => return Err(judged(error)),
        }
        Ok(())
    }

    fn remember(&mut self, draft: &Draft, count: i32) {
        if self.told.len() >= REMEMBERED {
            self.told.pop_first();
        }
        self.told.insert(draft.name.clone(), count);
    }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn judged(error: Error) -> Failed {
    match &error {
        // 429 and what is no answer pass; what the server understood and refuses does not.
        Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Failed::Never(error)
        }
        _ => Failed::Later(error),
    }
}

async fn patch(api: &Api<Event>, draft: &Draft, count: Option<i32>) -> Result<Event, Error> {
    let mut fields = json!({
        "lastTimestamp": Time(Timestamp::now()),
        "message": draft.message,
    });
    if let (Some(count), Some(fields)) = (count, fields.as_object_mut()) {
        fields.insert("count".to_owned(), count.into());
    }
    api.patch(&draft.name, &PatchParams::default(), &Patch::Merge(fields))
        .await
}

fn event(draft: &Draft, node: &str, count: i32) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(draft.name.clone()),
            namespace: Some(draft.pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(draft.pod.name.clone()),
            namespace: Some(draft.pod.namespace.clone()),
            uid: Some(draft.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(draft.reason.clone()),
        message: Some(draft.message.clone()),
        type_: Some(if draft.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(count),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        event_time: None::<MicroTime>,
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        ..Event::default()
    }
}
