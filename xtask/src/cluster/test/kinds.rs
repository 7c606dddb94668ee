//! Pods that are not of the ordinary kind: in the node's network, and with a native sidecar.
//!
//! The API server and kubelet here are older than native sidecars: they drop `restartPolicy` from an init container. So the
//! pods run as this kubelet can run them, and an agent beside the cluster is given what a newer one would say of them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::agent::Agent;
use super::churn::{CONNECTIONS, short_pod};
use super::{Scene, Test, world};
use crate::process;

/// Pods in the node's network that live for a second or two.
const SHORT: u32 = 10;
/// Where the agent beside the cluster listens.
const BESIDE: &str = "127.0.0.1:9974";
/// The container that becomes a native sidecar.
const PROXY: &str = "istio-proxy";

/// Ends the agent beside the cluster.
#[derive(Debug)]
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pods in the node's network have no namespace and no address of their own: only their cgroups tell whose a socket is.
pub(super) fn host_network(test: &mut Test, scene: &Scene<'_>) -> Result<()> {
    test.kubectl
        .run(&["apply", "--filename", &world::file("host-network.yaml")])?;
    test.until("a server in the node's network is ready", |test| {
        world::ready(&test.kubectl, "on-node", 1)
    })?;
    // From the node's own network over the service, and from pods to the node.
    let manifests: String = (0..SHORT)
        .map(|index| {
            short_pod("on-node", index, world::SERVICE)
                .replace("spec:", "spec:\n  hostNetwork: true")
        })
        .chain((0..SHORT).map(|index| short_pod("to-node", index, "10.78.0.2:18080")))
        .collect();
    test.kubectl.feed(&["apply", "--filename=-"], &manifests)?;
    let made = f64::from(SHORT * CONNECTIONS);
    for (what, series) in [
        (
            "connections of short pods in the node's network are theirs, by cgroup",
            "namespace=\"on-node\",leg=\"direct_out\"",
        ),
        (
            "connections to a server in the node's network are its, by cgroup",
            "namespace=\"on-node\",pod=\"server\",leg=\"direct_in\"",
        ),
    ] {
        test.check(&format!("{made} {what}"), || {
            let question =
                format!("sum(max_over_time(sidestep_connections_total{{{series}}}[5m]))");
            let seen = scene.prometheus.wait(&question, |value| value >= made)?;
            ensure!(seen.parse::<f64>()? <= made, "more than were made: {seen}");
            Ok(seen)
        });
    }
    let found = scene.agent.findings("on-node");
    test.check("nothing is found of them", || {
        let found = found?;
        ensure!(found.is_empty(), "there is {found:?}");
        Ok(String::new())
    });
    test.kubectl
        .run(&["delete", "namespace", "on-node", "to-node", "--wait=false"])?;
    Ok(())
}

/// The mesh's pods as a newer cluster would tell of them, to an agent that has this from a folder.
pub(super) fn native_sidecar(test: &mut Test, scene: &Scene<'_>) -> Result<()> {
    let dir = manifests(test)?;
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        let told = as_native(serde_json::from_str(&fs::read_to_string(&path)?)?)?;
        fs::write(path, told.to_string())?;
    }
    let log = fs::File::create(test.running.place.log("beside"))?;
    let child = process::dies_with_us(&scene.images.program)
        .args(["agent", "--kubernetes", "never", "--listen", BESIDE])
        .arg("--pods")
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start an agent")?;
    let _beside = Beside(child);
    let agent = Agent {
        address: BESIDE.to_owned(),
    };
    test.until(
        "a native sidecar's traffic is its own, by its container",
        |_| {
            let page: Value = serde_json::from_str(&agent.text("/v1/edges")?)?;
            let edges = page["edges"].as_array().context("the page has no edges")?;
            let own = |leg: &str| {
                edges.iter().any(|edge| {
                    edge.pointer("/pod/name") == Some(&json!("healthy"))
                        && edge["container"] == PROXY
                        && edge["leg"] == leg
                })
            };
            ensure!(own("proxy_to_upstream"), "there is {}", page["edges"]);
            Ok(())
        },
    )?;
    test.until("with a native sidecar connections are intercepted", |_| {
        let series = ["pod=\"healthy\"", "verdict=\"intercepted\""];
        let seen = agent.metric("sidestep_interception_total", &series)?;
        ensure!(seen >= 20.0, "{seen}");
        Ok(())
    })?;
    test.until(
        "with a native sidecar the broken pod is found, alone",
        |_| {
            let found = agent.findings("mesh")?;
            ensure!(
                found == [("broken".to_owned(), "bypass-no-rules".to_owned())],
                "there is {found:?}"
            );
            Ok(())
        },
    )
}

/// A folder with what the API server has of two of the mesh's pods.
pub(super) fn manifests(test: &Test) -> Result<PathBuf> {
    let dir = test.running.place.join("manifests");
    fs::create_dir_all(&dir)?;
    for pod in ["healthy", "broken"] {
        let text = test
            .kubectl
            .run(&["get", "pod", "--namespace=mesh", pod, "--output=json"])?;
        fs::write(dir.join(format!("{pod}.json")), text)?;
    }
    Ok(dir)
}

/// A pod whose proxy is an init container that is never over, as Kubernetes 1.29 and later tell it.
fn as_native(mut pod: Value) -> Result<Value> {
    for (at, from, to) in [
        ("/spec", "containers", "initContainers"),
        ("/status", "containerStatuses", "initContainerStatuses"),
    ] {
        let part = pod.pointer_mut(at).context("it is no pod")?;
        let mut one = take(part, from).with_context(|| format!("{from} has no {PROXY}"))?;
        if at == "/spec" {
            one["restartPolicy"] = json!("Always");
        }
        let list = part[to].as_array_mut();
        list.with_context(|| format!("it has no {to}"))?.push(one);
    }
    Ok(pod)
}

fn take(part: &mut Value, list: &str) -> Option<Value> {
    let list = part[list].as_array_mut()?;
    let at = list.iter().position(|one| one["name"] == PROXY)?;
    Some(list.remove(at))
}
