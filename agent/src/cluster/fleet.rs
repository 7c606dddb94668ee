//! All agents of a cluster, asked through the API server with the user's own rights.
//!
//! An agent is a pod with the chart's label; its pages are read through the pod's `proxy` subresource, so that nobody has to
//! open a port. What one node does not answer is told beside what the others said, never hidden.

use std::{collections::BTreeSet, time::Duration};

use axum::http::Request;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    Api, Client, Config, Error, ResourceExt,
    api::ListParams,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::model::PodKey;

/// Agents asked at once: a user's request should not be a burst of 1 000.
const AT_ONCE: usize = 16;
/// One agent's answer; the API server's own limit for a proxied request is far longer.
const ANSWER: Duration = Duration::from_secs(10);
/// Largest answer read, as for one agent.
const MAX_ANSWER: usize = 64 << 20;
/// Names of the agent's port in its pod, with the scheme it is to be asked by.
const PORT_NAMES: [(&str, &str); 3] = [("https", "https"), ("http", "http"), ("metrics", "http")];
/// Port of an agent whose pod names none: the default of its --listen.
const DEFAULT_PORT: u16 = 9964;
/// Carries a token through the API server, which keeps `Authorization` for itself.
const TOKEN_HEADER: &str = "x-sidestep-authorization";

/// Where the cluster is, and which pods are agents.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// File of the kubeconfig; without it `KUBECONFIG`, then `~/.kube/config`.
    pub kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig; without it the current one.
    pub context: Option<String>,
    /// Namespace of the agents; without it all are looked through.
    pub agents_namespace: Option<String>,
    /// Label selector of the agents.
    pub agents: String,
    /// Port of the agents; without it the one their pods name `http`, `https` or `metrics`.
    pub port: Option<u16>,
    /// Token for agents that ask for one.
    pub token: Option<String>,
}

/// Why the cluster cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No usable kubeconfig.
    #[error("{0}")]
    Config(String),
    /// The API server does not answer or refuses.
    #[error("{0}")]
    Api(String),
}

impl From<Error> for FleetError {
    fn from(error: Error) -> Self {
        let mut inner: &dyn std::error::Error = &error;
        if let Error::Api(status) = &error {
            return Self::Api(format!("{} (status {})", status.message, status.code));
        }
        while let Some(next) = inner.source() {
            inner = next;
        }
        Self::Api(inner.to_string())
    }
}

/// An agent of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its pod.
    pub pod: PodKey,
    /// Its node.
    pub node: String,
    scheme: &'static str,
    port: u16,
}

#[cfg(test)]
impl AgentPod {
    /// An agent of a test's node.
    pub(crate) fn of_test(node: &str) -> Self {
        Self {
            pod: PodKey {
                namespace: "mon".to_owned(),
                name: format!("agent-{node}"),
            },
            node: node.to_owned(),
            scheme: "http",
            port: 1,
        }
    }
}

/// An agent's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who.
    pub agent: AgentPod,
    /// The page, or why there is none.
    pub page: Result<Vec<u8>, String>,
}

/// The cluster's agents.
pub struct Fleet {
    client: Client,
    reach: Reach,
    /// Namespace of the kubeconfig's context.
    pub namespace: String,
}

impl Fleet {
    /// Finds the credentials; asks nobody yet.
    ///
    /// # Errors
    /// There is no usable kubeconfig.
    pub async fn open(reach: Reach) -> Result<Self, FleetError> {
        let options = KubeConfigOptions {
            context: reach.context.clone(),
            ..KubeConfigOptions::default()
        };
        let told = |error: kube::config::KubeconfigError| FleetError::Config(error.to_string());
        let config = match &reach.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(told)?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let mut config = config.map_err(told)?;
        config.connect_timeout = Some(ANSWER);
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = ClientBuilder::try_from(config)?.build();
        Ok(Self {
            client,
            reach,
            namespace,
        })
    }

    /// All agents, by node.
    ///
    /// # Errors
    /// The API server does not answer, or the user may not list pods.
    pub async fn agents(&self) -> Result<Vec<AgentPod>, FleetError> {
        let api: Api<Pod> = match &self.reach.agents_namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let pods = api
            .list(&ListParams::default().labels(&self.reach.agents))
            .await?;
        let mut agents: Vec<AgentPod> = pods
            .into_iter()
            .filter(|pod| phase(pod) == "Running")
            .filter_map(|pod| agent(&pod, self.reach.port))
            .collect();
        agents.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(agents)
    }

    /// What each agent says at `path` (with its query), in the order of `agents`.
    pub async fn ask(&self, agents: &[AgentPod], path: &str) -> Vec<Answer> {
        let asked = agents.iter().map(|agent| async move {
            Answer {
                agent: agent.clone(),
                page: self.get(agent, path).await,
            }
        });
        futures_util::stream::iter(asked)
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn get(&self, agent: &AgentPod, path: &str) -> Result<Vec<u8>, String> {
        let AgentPod {
            pod, scheme, port, ..
        } = agent;
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{scheme}:{}:{port}/proxy{path}",
            pod.namespace, pod.name
        );
        let mut request = Request::get(&uri);
        if let Some(token) = &self.reach.token {
            request = request.header(TOKEN_HEADER, format!("Bearer {token}"));
        }
        let request = request
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        match tokio::time::timeout(ANSWER, self.fetch(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        }
    }

    async fn fetch(&self, request: Request<Vec<u8>>) -> Result<Vec<u8>, String> {
        let sent = self.client.send(request.map(kube::client::Body::from));
        let answer = sent
            .await
            .map_err(|error| FleetError::from(error).to_string())?;
        let status = answer.status();
        let body = axum::body::Body::new(answer.into_body());
        let body = axum::body::to_bytes(body, MAX_ANSWER).await;
        let body = body.map_err(|error| error.to_string())?;
        match status.is_success() {
            true => Ok(body.to_vec()),
            false => Err(refusal(status.as_u16(), &body)),
        }
    }

    /// The node of a pod.
    ///
    /// # Errors
    /// There is no such pod, or it may not be read.
    pub async fn node_of(&self, key: &PodKey) -> Result<Option<String>, FleetError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pod = api.get(&key.name).await?;
        Ok(pod.spec.and_then(|spec| spec.node_name))
    }

    /// Pods that a label selector names, in one namespace or all.
    ///
    /// # Errors
    /// The selector is malformed, or pods may not be listed.
    pub async fn selected(
        &self,
        labels: &str,
        namespace: Option<&str>,
    ) -> Result<BTreeSet<PodKey>, FleetError> {
        let api: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let pods = api
            .list_metadata(&ListParams::default().labels(labels))
            .await?;
        let key = |pod: kube::core::PartialObjectMeta<Pod>| PodKey {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
        };
        Ok(pods.into_iter().map(key).collect())
    }
}

/// A refusal in words: the agent's own (`error`, `to_do`), or the API server's (`message`).
fn refusal(status: u16, body: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let part = |name: &str| said.get(name).and_then(serde_json::Value::as_str);
    let words: Vec<&str> = ["error", "to_do", "message"]
        .into_iter()
        .filter_map(part)
        .collect();
    match words.is_empty() {
        true => format!("HTTP status {status}"),
        false => format!("{} (status {status})", words.join("; ")),
    }
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn agent(pod: &Pod, port: Option<u16>) -> Option<AgentPod> {
    let spec = pod.spec.as_ref()?;
    let named = |name: &str| {
        let mut ports = spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten());
        let port = ports.find(|port| port.name.as_deref() == Some(name))?;
        u16::try_from(port.container_port).ok()
    };
    let found = PORT_NAMES
        .iter()
        .find_map(|(name, scheme)| Some((*scheme, named(name)?)));
    let found = found.map(|(scheme, port)| (if serves_tls(spec) { "https" } else { scheme }, port));
    let (scheme, found) = match (found, port) {
        (Some((scheme, _)), Some(port)) => (scheme, port),
        (Some(found), None) => found,
        (None, port) => ("http", port.unwrap_or(DEFAULT_PORT)),
    };
    Some(AgentPod {
        pod: PodKey {
            namespace: pod.namespace()?,
            name: pod.name_any(),
        },
        node: spec.node_name.clone()?,
        scheme,
        port: found,
    })
}

/// Whether the agent is told to, by its option or its environment.
fn serves_tls(spec: &PodSpec) -> bool {
    let option = |arg: &String| arg.starts_with("--tls-cert");
    spec.containers.iter().any(|container| {
        let mut variables = container.env.iter().flatten();
        variables.any(|variable| variable.name == "SIDESTEP_TLS_CERT")
            || container.args.iter().flatten().any(option)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_told_in_the_words_of_who_refused() {
        for (body, told) in [
            (
                r#"{"error":"needs a token","place":"/","to_do":"send one"}"#,
                "needs a token; send one (status 401)",
            ),
            (
                r#"{"kind":"Status","message":"dial tcp: refused"}"#,
                "dial tcp: refused (status 401)",
            ),
            ("<html>", "HTTP status 401"),
        ] {
            assert_eq!(refusal(401, body.as_bytes()), told);
        }
    }

    #[test]
    fn the_port_is_the_one_the_pod_names() {
        let pod = |ports: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"namespace": "mon", "name": "sidestep-x"},
                "spec": {"nodeName": "n1", "containers": [{"name": "agent", "ports": ports}]},
            }))
            .unwrap()
        };
        let http = json!([{"containerPort": 1}, {"name": "http", "containerPort": 9964}]);
        for (ports, asked, scheme, port) in [
            (http.clone(), None, "http", 9964),
            (http, Some(7), "http", 7),
            (
                json!([{"name": "https", "containerPort": 8443}]),
                None,
                "https",
                8443,
            ),
            (json!([]), None, "http", 9964),
        ] {
            let found = agent(&pod(ports), asked).unwrap();
            assert_eq!((found.scheme, found.port), (scheme, port));
        }
        let mut told = pod(json!([{"name": "metrics", "containerPort": 9964}]));
        assert_eq!(agent(&told, None).unwrap().scheme, "http");
        let container = &mut told.spec.as_mut().unwrap().containers[0];
        container.args = Some(vec!["agent".to_owned(), "--tls-cert=/c".to_owned()]);
        assert_eq!(agent(&told, None).unwrap().scheme, "https");
    }
}
