//! Manifests as people have them, and as they get them wrong.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use proptest::prelude::*;

use super::Manifests;
use crate::model::ContainerKind;

const FULL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-5d69f9f59d-abcde
  namespace: shop
  uid: 11111111-2222-3333-4444-555555555555
  labels: { app: web, pod-template-hash: 5d69f9f59d }
  annotations: { sidestep.dev/netns: /run/netns/web, size: "9000" }
  ownerReferences:
  - { apiVersion: apps/v1, kind: ReplicaSet, name: web-5d69f9f59d, uid: x, controller: true }
spec:
  securityContext: { runAsUser: 1000, runAsGroup: 2000 }
  initContainers:
  - { name: setup, image: i, args: ["-p", "1"] }
  - { name: side, image: i, restartPolicy: Always, securityContext: { runAsUser: 1337 } }
  containers:
  - name: app
    image: i
    command: [run]
    args: [fast]
    env: [{ name: A, value: b }, { name: SECRET, valueFrom: { fieldRef: { fieldPath: metadata.name } } }]
    ports: [{ containerPort: 8080 }, { containerPort: 53, protocol: UDP }, { containerPort: 9090, protocol: TCP }]
  ephemeralContainers:
  - { name: debug, image: i }
status:
  podIP: 10.0.0.5
  podIPs: [{ ip: 10.0.0.5 }, { ip: "fd00::5" }]
  containerStatuses:
  - { name: app, image: i, imageID: i, ready: true, restartCount: 0, containerID: containerd://aaaa }
"#;

#[test]
fn a_full_pod_keeps_what_matters() {
    let parsed = Manifests::parse("web.yaml", FULL);
    assert_eq!(parsed.problems, vec![]);
    let pod = &parsed.pods[0];
    assert_eq!(pod.key.to_string(), "shop/web-5d69f9f59d-abcde");
    assert_eq!(pod.workload.as_ref().unwrap().name, "web");
    assert_eq!(pod.netns_path.as_deref(), Some("/run/netns/web"));
    assert_eq!(pod.ips.len(), 2);
    let shown: Vec<_> = pod
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.kind, c.run_as_user, c.run_as_group))
        .collect();
    assert_eq!(
        shown,
        [
            ("setup", ContainerKind::Init, Some(1000), Some(2000)),
            ("side", ContainerKind::Sidecar, Some(1337), Some(2000)),
            ("app", ContainerKind::Main, Some(1000), Some(2000)),
            ("debug", ContainerKind::Ephemeral, Some(1000), Some(2000)),
        ]
    );
    let app = &pod.containers[2];
    assert_eq!(app.args, ["run", "fast"]);
    assert_eq!(app.ports, [8080, 9090]);
    assert_eq!(app.id.as_deref(), Some("aaaa"));
}

#[test]
fn every_shape_of_file_is_read() {
    let pod =
        |name: &str| format!("kind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: []}}\n");
    let json = |name: &str| format!("{{\t\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\"}}}}");
    for (text, names) in [
        (pod("a"), vec!["a"]),
        (
            format!("---\n{}---\n# nothing\n---\n{}", pod("a"), pod("b")),
            vec!["a", "b"],
        ),
        (json("a"), vec!["a"]),
        (
            format!(
                "{{\"kind\":\"List\",\"items\":[{},{}]}}",
                json("a"),
                json("b")
            ),
            vec!["a", "b"],
        ),
        (
            "kind: PodList\nitems:\n- metadata: {name: a}\n".to_owned(),
            vec!["a"],
        ),
        ("kind: Deployment\nmetadata: {name: a}\n".to_owned(), vec![]),
        (pod("a") + "status: {phase: Succeeded}\n", vec![]),
        (String::new(), vec![]),
        ("# only a comment\n".to_owned(), vec![]),
    ] {
        let parsed = Manifests::parse("f", &text);
        assert_eq!(parsed.problems, vec![], "{text}");
        let found: Vec<_> = parsed.pods.iter().map(|p| p.key.name.as_str()).collect();
        assert_eq!(found, names, "{text}");
        assert!(parsed.pods.iter().all(|p| p.key.namespace == "default"));
    }
}

#[test]
fn a_namespace_gives_its_labels() {
    let text = "kind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n";
    let parsed = Manifests::parse("f", text);
    assert_eq!(parsed.namespaces["shop"]["a"], "b");
}

#[test]
fn a_mistake_is_told_with_its_place_and_hides_nobody() {
    let good = "kind: Pod\nmetadata: {name: good}\n";
    for (bad, told) in [
        (
            "kind: Pod\nmetadata: {name: [}\n",
            vec!["web.yaml, document 2, line 5", "not YAML"],
        ),
        (
            "kind: Pod\nmetadata:\n  name: bad\n  annotations:\n    a: 9000\n",
            vec![
                "document 2, line 8",
                "metadata.annotations.a",
                "expected a string",
            ],
        ),
        (
            "kind: Pod\nspec:\n  containers:\n  - name: a\n    ports: 80\n",
            vec!["document 2, line 8", "spec.containers[0].ports"],
        ),
        (
            "kind: Pod\nmetadata: {}\n",
            vec!["document 2", "metadata.name: is missing"],
        ),
        ("metadata: {name: a}\n", vec!["has no `kind`"]),
        (
            "kind: Pod\napiVersion: v2\nmetadata: {name: a}\n",
            vec!["\"v2\", expected v1"],
        ),
        (
            "kind: List\nitems:\n- {kind: Pod, metadata: {name: 1}}\n- {kind: Pod, metadata: {name: other}}\n",
            vec!["document 2, line 6", "items[0].metadata.name"],
        ),
        (
            "kind: List\nitems:\n- kind: List\n  items:\n  - kind: Pod\n    metadata:\n      name: a\n      labels: {x: 1}\n",
            vec!["document 2, line 11", "items[0].items[0].metadata.labels.x"],
        ),
        (
            "{\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": 1}\n}\n",
            vec!["document 2, line 6", "metadata.name"],
        ),
        ("kind: List\n", vec!["items: is missing"]),
    ] {
        let parsed = Manifests::parse("web.yaml", &format!("{good}---\n{bad}---\n{good}"));
        let goods = parsed.pods.iter().filter(|p| p.key.name == "good").count();
        assert_eq!(goods, 2, "{bad}");
        let error = parsed.problems[0].to_string();
        assert!(
            told.iter().all(|t| error.contains(t)),
            "{told:?} not in: {error}"
        );
    }
}

proptest! {
    #[test]
    fn never_panics(text in "(kind: (Pod|List|Namespace)|items:|metadata:|  name: a|- |---|\n|\t|[{}&*!|>]|[a-z]: ){0,30}") {
        let _ = Manifests::parse("f", &text);
    }

    #[test]
    fn never_panics_on_anything(text in "\\PC{0,80}") {
        let _ = Manifests::parse("f", &text);
    }
}
