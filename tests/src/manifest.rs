//! Pod manifests: the mesh's template or the scenario's own, completed like a kubelet would.
//!
//! The template writes what the meshes' injectors write (containers, arguments, annotations, labels), because that is
//! where the agent reads the intent. A manifest of the scenario is taken as it is, apart from uid, addresses and
//! container ids, which belong to the run.
//!
//! It must never put anything into a manifest that a real cluster would not have there.

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Map, Value, json};

use crate::spec::{Container, ContainerKind, Mesh, Pod};
use crate::template;

const ISTIO: &str = "traffic.sidecar.istio.io/";

/// A container as far as the harness needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Name.
    pub(crate) name: String,
    /// 64 hex digits.
    pub(crate) id: String,
    /// Effective `runAsUser`.
    pub(crate) uid: u32,
    /// Effective `runAsGroup`.
    pub(crate) gid: u32,
    /// Thousandths of a CPU in `resources.limits`.
    pub(crate) cpu: Option<u32>,
    /// MiB of memory in `resources.limits`.
    pub(crate) memory: Option<u32>,
}

/// A complete manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// The Pod object.
    pub(crate) value: Value,
    /// Its containers, all kinds.
    pub(crate) containers: Vec<Placed>,
}

/// Makes the manifest of a pod with this uid and these addresses; `id` gives container ids.
pub(crate) fn of_pod(
    pod: &Pod,
    uid: &str,
    addresses: &[IpAddr],
    id: impl Fn(&str) -> String,
) -> Result<Manifest> {
    let mut value = match &pod.manifest {
        Some(text) => serde_saphyr::from_str::<Value>(text)
            .with_context(|| format!("pod `{}`: `manifest` is not YAML", pod.name))?,
        None => template(pod),
    };
    merge_containers(&mut value, &pod.container)?;
    let metadata = object(&mut value, "metadata")?;
    metadata.insert("name".to_owned(), json!(pod.name));
    metadata.insert("namespace".to_owned(), json!(pod.namespace));
    metadata.insert("uid".to_owned(), json!(uid));
    extend(metadata, "labels", &pod.labels)?;
    extend(metadata, "annotations", &pod.annotations)?;
    let containers = placed(&value, &id);
    let status = status(&value, addresses, &pod.container, &id);
    value
        .as_object_mut()
        .context("the manifest is no object")?
        .insert("status".to_owned(), status);
    Ok(Manifest { value, containers })
}

fn template(pod: &Pod) -> Value {
    let app = json!({"name": "app", "image": "registry.example/app:1",
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        "ports": [{"containerPort": 8080}]});
    let (labels, annotations, init, sidecar) = match pod.mesh {
        Some(Mesh::Istio) => istio(pod),
        Some(Mesh::Linkerd) => linkerd(pod),
        Some(Mesh::Consul) => template::consul(pod),
        Some(Mesh::Kuma) => template::kuma(pod),
        Some(Mesh::Ambient) => template::ambient(),
        None => (json!({}), json!({}), json!([]), None),
    };
    let mut containers = vec![app];
    containers.extend(sidecar);
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "labels": labels, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "name": format!("{}-5d6f7c8b9d", pod.name), "uid": "3f0c5a52-0000-4000-8000-000000000001"}],
        },
        "spec": {"initContainers": init, "containers": containers},
    });
    value["metadata"]["labels"]["app"] = json!(pod.name);
    value["metadata"]["labels"]["pod-template-hash"] = json!("5d6f7c8b9d");
    value
}

fn annotation<'a>(pod: &'a Pod, key: &str, default: &'a str) -> &'a str {
    pod.annotations.get(key).map_or(default, String::as_str)
}

/// The injection template with the CNI plugin: a validation container in place of istio-init.
fn istio(pod: &Pod) -> (Value, Value, Value, Option<Value>) {
    let own = |key: &str, default| annotation(pod, &format!("{ISTIO}{key}"), default).to_owned();
    let mode = annotation(pod, "sidecar.istio.io/interceptionMode", "REDIRECT");
    let ports = "istio-iptables -p 15001 -z 15006 -u 1337 -m";
    let mut args: Vec<String> = ports.split(' ').map(str::to_owned).collect();
    args.push(mode.to_owned());
    args.extend(["-i".to_owned(), own("includeOutboundIPRanges", "*")]);
    args.extend(["-x".to_owned(), own("excludeOutboundIPRanges", "")]);
    args.extend(["-b".to_owned(), own("includeInboundPorts", "*")]);
    let excluded = own("excludeInboundPorts", "");
    let excluded = format!(
        "15090,15021,{}",
        if excluded.is_empty() {
            "15020"
        } else {
            &excluded
        }
    );
    args.extend(["-d".to_owned(), excluded]);
    let outbound = own("excludeOutboundPorts", "");
    if !outbound.is_empty() {
        args.extend(["-o".to_owned(), outbound]);
    }
    args.extend(
        [
            "--log_output_level=default:info",
            "--run-validation",
            "--skip-rule-apply",
        ]
        .map(str::to_owned),
    );
    let security = json!({"runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true});
    let init = json!([{"name": "istio-validation", "image": "docker.io/istio/proxyv2:1.27.0",
        "args": args, "securityContext": security}]);
    // Transparent sockets need CAP_NET_ADMIN, hence root.
    let runs_as = match pod.is_transparent() {
        true => json!({"runAsUser": 0, "runAsGroup": 1337, "runAsNonRoot": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
        false => security,
    };
    let proxy = json!({"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.27.0",
        "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"],
        "env": [{"name": "ISTIO_META_INTERCEPTION_MODE", "value": mode}],
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "securityContext": runs_as});
    let labels = json!({"security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": pod.name,
        "service.istio.io/canonical-revision": "latest"});
    let annotations = json!({"istio.io/rev": "default", "kubectl.kubernetes.io/default-container": "app",
        "sidecar.istio.io/interceptionMode": mode,
        "sidecar.istio.io/status": "{\"initContainers\":[\"istio-validation\"],\"containers\":[\"istio-proxy\"],\"revision\":\"default\"}"});
    (labels, annotations, init, Some(proxy))
}

/// The injector with the proxy-init container and a classic sidecar.
fn linkerd(pod: &Pod) -> (Value, Value, Value, Option<Value>) {
    let skip = |key: &str, always: &str| {
        let listed = annotation(pod, &format!("config.linkerd.io/{key}"), "");
        if listed.is_empty() {
            always.to_owned()
        } else {
            format!("{always},{listed}")
        }
    };
    let init = json!([{"name": "linkerd-init", "image": "cr.l5d.io/linkerd/proxy-init:v2.4.2",
        "args": ["--ipv6=false", "--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140",
            "--proxy-uid", "2102",
            "--inbound-ports-to-ignore", skip("skip-inbound-ports", "4190,4191,4567,4568"),
            "--outbound-ports-to-ignore", skip("skip-outbound-ports", "4567,4568")],
        "securityContext": {"runAsUser": 65534, "runAsNonRoot": true}}]);
    let proxy = json!({"name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge-25.4.4",
        "ports": [{"containerPort": 4143, "name": "linkerd-proxy"}, {"containerPort": 4191, "name": "linkerd-admin"}],
        "securityContext": {"runAsUser": 2102, "runAsNonRoot": true}});
    let labels = json!({"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": pod.namespace,
        "linkerd.io/proxy-deployment": pod.name});
    let annotations = json!({"linkerd.io/created-by": "linkerd/proxy-injector edge-25.4.4",
        "linkerd.io/inject": "enabled", "linkerd.io/proxy-version": "edge-25.4.4"});
    (labels, annotations, init, Some(proxy))
}

fn merge_containers(value: &mut Value, containers: &[Container]) -> Result<()> {
    for container in containers {
        let list = match container.kind {
            ContainerKind::Main => "containers",
            ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
        };
        let spec = object(value, "spec")?;
        let all = spec
            .entry(list)
            .or_insert_with(|| json!([]))
            .as_array_mut()
            .ok_or_else(|| anyhow!("`spec.{list}` is no list"))?;
        let at = all
            .iter()
            .position(|known| known["name"] == json!(container.name));
        let mut entry = at.map_or_else(
            || json!({"name": container.name, "image": "registry.example/other:1"}),
            |at| all.remove(at),
        );
        change(&mut entry, container);
        all.insert(at.unwrap_or(all.len()), entry);
    }
    Ok(())
}

fn change(entry: &mut Value, container: &Container) {
    if let Some(uid) = container.uid {
        entry["securityContext"]["runAsUser"] = json!(uid);
    }
    if let Some(cpu) = container.cpu {
        entry["resources"]["limits"]["cpu"] = json!(format!("{cpu}m"));
    }
    if let Some(mib) = container.memory {
        entry["resources"]["limits"]["memory"] = json!(format!("{mib}Mi"));
    }
    if let Some(gid) = container.gid {
        entry["securityContext"]["runAsGroup"] = json!(gid);
    }
    if let Some(args) = &container.args {
        entry["args"] = json!(args);
    }
    if let (false, None) = (container.env.is_empty(), entry.get("env")) {
        entry["env"] = json!([]);
    }
    if let Some(env) = entry["env"].as_array_mut() {
        let more = container.env.iter();
        env.extend(more.map(|(name, value)| json!({"name": name, "value": value})));
    }
    if !container.ports.is_empty() {
        let ports = container
            .ports
            .iter()
            .map(|port| json!({"containerPort": port}));
        entry["ports"] = ports.collect();
    }
    if container.kind == ContainerKind::Sidecar {
        entry["restartPolicy"] = json!("Always");
    }
}

fn placed(value: &Value, id: &impl Fn(&str) -> String) -> Vec<Placed> {
    let pod = &value["spec"]["securityContext"];
    let effective = |container: &Value, key: &str| {
        let own = container["securityContext"][key].as_u64();
        let number = own.or_else(|| pod[key].as_u64()).unwrap_or(0);
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    let limit = |container: &Value, what: &str, unit: &str| -> Option<u32> {
        let limit = container["resources"]["limits"][what].as_str()?;
        limit.strip_suffix(unit)?.parse().ok()
    };
    ["initContainers", "containers"]
        .iter()
        .flat_map(|list| value["spec"][*list].as_array().into_iter().flatten())
        .map(|container| {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            Placed {
                id: id(&name),
                uid: effective(container, "runAsUser"),
                gid: effective(container, "runAsGroup"),
                cpu: limit(container, "cpu", "m"),
                memory: limit(container, "memory", "Mi"),
                name,
            }
        })
        .collect()
}

fn status(
    value: &Value,
    addresses: &[IpAddr],
    said: &[Container],
    id: &impl Fn(&str) -> String,
) -> Value {
    let statuses = |list: &str| -> Value {
        let all = value["spec"][list].as_array().into_iter().flatten();
        all.map(|container| {
            let name = container["name"].as_str().unwrap_or_default();
            let done = list == "initContainers" && container["restartPolicy"] != json!("Always");
            let said = said.iter().find(|container| container.name == name);
            let ended = said.and_then(|container| container.ended.as_ref()).map(
                |ended| json!({"terminated": {"exitCode": ended.code, "reason": ended.reason}}),
            );
            let state = if done {
                let completed = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
                ended.clone().unwrap_or(completed)
            } else {
                json!({"running": {}})
            };
            json!({"name": name, "state": state,
                "ready": said.and_then(|said| said.ready).unwrap_or(true),
                "restartCount": said.map_or(0, |said| said.restarts),
                "lastState": ended.filter(|_| !done).unwrap_or_else(|| json!({})),
                "containerID": format!("containerd://{}", id(name))})
        })
        .collect()
    };
    json!({
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Value>(),
        "initContainerStatuses": statuses("initContainers"),
        "containerStatuses": statuses("containers"),
    })
}

fn object<'a>(value: &'a mut Value, key: &str) -> Result<&'a mut Map<String, Value>> {
    value
        .as_object_mut()
        .context("the manifest is no object")?
        .entry(key)
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| anyhow!("`{key}` of the manifest is no object"))
}

fn extend(
    metadata: &mut Map<String, Value>,
    key: &str,
    more: &std::collections::BTreeMap<String, String>,
) -> Result<()> {
    let target = metadata
        .entry(key)
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| anyhow!("`metadata.{key}` of the manifest is no object"))?;
    target.extend(more.iter().map(|(key, value)| (key.clone(), json!(value))));
    Ok(())
}
