//! The watches and the Events against a real kube-apiserver with a real etcd.
//!
//! Ignored unless asked for, as `cargo xtask cluster test` does: they need the programs that it builds, in folders named
//! by `SIDESTEP_TEST_KUBERNETES` (kube-apiserver) and `SIDESTEP_TEST_ETCD` (etcd). There is no kubelet: the test writes what it
//! would write, which is what the watch sees of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is the test's failure"
)]

mod server;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use self::server::{Server, eventually};
use super::account::Account;
use crate::{
    engine::{Change, Output},
    model::PodKey,
    output::fixture,
};

const NODE: &str = "n1";
/// The API server on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

struct Watched {
    account: Account,
    findings: mpsc::Sender<Output>,
    changes: mpsc::Receiver<Change>,
    pods: BTreeMap<String, String>,
    told: usize,
    sources: BTreeMap<String, String>,
}

impl Watched {
    /// Takes changes in until this is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LONG;
        while !so(self) {
            let left = end.saturating_duration_since(Instant::now());
            let change = tokio::time::timeout(left, self.changes.recv()).await;
            let Ok(Some(change)) = change else {
                panic!("{what}: {:?} {:?}", self.pods, self.sources);
            };
            self.take(change);
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Pod(pod) => {
                self.told += 1;
                let label = pod.namespace_labels.get("mesh").cloned();
                let said = format!("{} {}", pod.uid, label.unwrap_or_default());
                self.pods.insert(pod.key.name.clone(), said);
            }
            Change::PodGone(key) => drop(self.pods.remove(&key.name)),
            Change::Source { source, trouble } => match trouble {
                Some(text) => drop(self.sources.insert(source, text)),
                None => drop(self.sources.remove(&source)),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// The administrator's hands.
struct Admin {
    client: Client,
}

impl Admin {
    async fn allow(&self, resources: &[&str], verbs: &[&str], name: &str) {
        let group = "rbac.authorization.k8s.io";
        let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]});
        let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": "agent", "apiGroup": group}]});
        let pp = PostParams::default();
        let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(self.client.clone());
        roles
            .create(&pp, &serde_json::from_value(role).unwrap())
            .await
            .unwrap();
        let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> =
            Api::all(self.client.clone());
        bindings
            .create(&pp, &serde_json::from_value(binding).unwrap())
            .await
            .unwrap();
    }

    async fn namespace(&self, mesh: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let labels = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"mesh": mesh}}});
        let apply = PatchParams::apply("test").force();
        api.patch("shop", &apply, &Patch::Apply(labels))
            .await
            .unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "shop")
    }

    async fn pod(&self, name: &str, node: &str) {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "x"}]}});
        let pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    async fn phase(&self, name: &str, phase: &str) {
        let status = Patch::Merge(json!({"status": {"phase": phase}}));
        let params = PatchParams::default();
        self.pods()
            .patch_status(name, &params, &status)
            .await
            .unwrap();
    }

    async fn delete(&self, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.pods().delete(name, &now).await.unwrap();
    }

    async fn events(&self) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "shop");
        api.list(&ListParams::default()).await.unwrap().items
    }
}

#[tokio::test]
#[ignore = "needs kube-apiserver and etcd; see the top of the file"]
async fn rights_outage_and_events() {
    let mut server = Server::start().await;
    let admin = Admin {
        client: server.client("admin", None),
    };
    admin.namespace("on").await;
    admin.pod("a", NODE).await;
    admin.pod("elsewhere", "n2").await;
    let mut seen = server.watched();
    seen.until("without rights trouble is told", |s| {
        s.sources
            .get("kubernetes")
            .is_some_and(|text| text.contains("may not list and watch pods"))
    })
    .await;
    let watch = ["list", "watch"];
    admin.allow(&["pods", "namespaces"], &watch, "watch").await;
    seen.until("with rights it is over", |s| {
        s.pods.len() == 1 && s.sources.is_empty()
    })
    .await;
    assert!(seen.pods["a"].ends_with(" on"), "{:?}", seen.pods);
    admin.namespace("off").await;
    seen.until("labels change", |s| s.pods["a"].ends_with(" off"))
        .await;
    // A pod of an instant is told, and gone.
    let told = seen.told;
    admin.pod("job", NODE).await;
    admin.phase("job", "Succeeded").await;
    seen.until("a short life", |s| {
        s.told > told && !s.pods.contains_key("job")
    })
    .await;
    // One that is made again while nobody can be asked.
    server.down();
    seen.until("an outage is told", |s| s.sources.len() == 2)
        .await;
    let (told, lists) = (seen.told, seen.account.stats().watches["pods"].lists);
    server.up().await;
    let before = seen.pods["a"].clone();
    admin.delete("a").await;
    admin.pod("a", NODE).await;
    seen.until("it is over", |s| {
        s.sources.is_empty() && s.pods.get("a").is_some_and(|pod| *pod != before)
    })
    .await;
    assert_eq!(seen.told, told + 1, "nothing is told twice");
    assert_eq!(
        seen.account.stats().watches["pods"].lists,
        lists,
        "the watch went on where it stood"
    );
    events(&admin, &mut seen).await;
}

async fn events(admin: &Admin, seen: &mut Watched) {
    let mut finding = fixture::board()
        .findings
        .into_iter()
        .find(|f| f.pod.is_some())
        .unwrap();
    finding.pod = Some(PodKey {
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
    });
    let finding = Box::new(finding);
    seen.findings
        .send(Output::Opened(finding.clone()))
        .await
        .unwrap();
    seen.until("the right to write is missing", |s| {
        s.sources
            .get("kubernetes-events")
            .is_some_and(|text| text.contains("may not create and patch events"))
    })
    .await;
    admin
        .allow(&["events"], &["create", "patch"], "events")
        .await;
    // The authorizer hears of it a moment later.
    let opened = Output::Opened(finding.clone());
    eventually("an Event", async || {
        seen.findings.send(opened.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        !admin.events().await.is_empty()
    })
    .await;
    let first = admin.events().await[0].clone();
    assert_eq!(first.type_.as_deref(), Some("Warning"));
    assert!(first.message.unwrap().contains("What to do: "));
    let uid = seen.pods["a"].split(' ').next().map(str::to_owned);
    assert_eq!(first.involved_object.uid, uid);
    seen.findings.send(opened).await.unwrap();
    seen.findings.send(Output::Resolved(finding)).await.unwrap();
    eventually("told again it counts up, and it is resolved", async || {
        let events = admin.events().await;
        let opened = events
            .iter()
            .find(|e| e.metadata.name == first.metadata.name);
        let counted = opened.is_some_and(|e| e.count > first.count);
        counted && events.iter().any(|e| e.type_.as_deref() == Some("Normal"))
    })
    .await;
    assert_eq!(admin.events().await.len(), 2, "one Event each");
}
