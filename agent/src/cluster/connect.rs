//! The way to the API server, and the cluster as a source of pods and a reader of findings.
//!
//! Finding credentials is all that may fail at start: whether the API server is there is a matter of the watches, because an
//! agent that waits for it would not measure meanwhile.

use std::{collections::BTreeSet, time::Duration};

use kube::{Client, Config, client::ClientBuilder};
use tokio::sync::mpsc;

use super::{
    account::{Account, Counting},
    events::Writer,
    watch::Watches,
};
use crate::{
    engine::{Change, Output},
    model::ClusterStats,
};

/// Findings waiting for the cluster's task; it is away only while it hands on changes.
const FINDINGS: usize = 256;
/// A connection that is not there after this is tried anew.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a ServiceAccount nor a kubeconfig, or they cannot be read.
    #[error("{0}")]
    Config(String),
    /// The client cannot be made of them.
    #[error("{0}")]
    Client(#[from] kube::Error),
}

/// What to watch, and what to tell.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node as the cluster knows it.
    pub node: String,
    /// Environment variables of containers that are kept: those mesh profiles ask for.
    pub variables: BTreeSet<String>,
    /// Write findings as Kubernetes Events.
    pub events: bool,
}

/// The cluster, not asked anything yet.
pub struct Cluster {
    client: Client,
    options: Options,
    account: Account,
    findings: mpsc::Receiver<Output>,
}

/// What the agent's loop holds of the cluster. The default is that of an agent without one.
#[derive(Clone, Debug, Default)]
pub struct ClusterHandle {
    account: Account,
    findings: Option<mpsc::Sender<Output>>,
}

impl ClusterHandle {
    /// Hands a finding on; never waits. One that has no room is counted.
    pub fn tell(&self, output: &Output) {
        if let Some(findings) = &self.findings
            && findings.try_send(output.clone()).is_err()
        {
            self.account.events("dropped", 1);
        }
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn stats(&self) -> ClusterStats {
        self.account.stats()
    }
}

/// Whether the agent runs in a pod of a cluster: the kubelet gives every container this variable.
#[must_use]
pub fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Finds the credentials. The API server need not be there.
///
/// # Errors
/// There are none, or they cannot be read.
pub async fn connect(options: Options) -> Result<(Cluster, ClusterHandle), ConnectError> {
    let account = Account::default();
    let client = client(Some(&account)).await?;
    let (send, findings) = mpsc::channel(FINDINGS);
    let handle = ClusterHandle {
        account: account.clone(),
        findings: options.events.then_some(send),
    };
    let cluster = Cluster {
        client,
        options,
        account,
        findings,
    };
    Ok((cluster, handle))
}

/// A client with the credentials of the pod, else of the kubeconfig (`KUBECONFIG`, `~/.kube/config`).
pub(super) async fn client(account: Option<&Account>) -> Result<Client, ConnectError> {
    let mut config = if in_cluster() {
        Config::incluster().map_err(|error| ConnectError::Config(error.to_string()))?
    } else {
        let options = kube::config::KubeConfigOptions::default();
        Config::from_kubeconfig(&options)
            .await
            .map_err(|error| ConnectError::Config(error.to_string()))?
    };
    config.connect_timeout = Some(CONNECT);
    // The watches and the Events have their own back-off, which is told and counted.
    config.default_retry = account.is_none();
    let builder = ClientBuilder::try_from(config)?;
    Ok(match account {
        Some(account) => builder.with_layer(&Counting(account.clone())).build(),
        None => builder.build(),
    })
}

impl Cluster {
    /// A cluster of a test's client.
    #[cfg(test)]
    pub(super) fn of_test(
        client: Client,
        options: Options,
        account: &Account,
        findings: mpsc::Receiver<Output>,
    ) -> Self {
        Self {
            client,
            options,
            account: account.clone(),
            findings,
        }
    }

    /// Tells what changes, and writes Events, until nobody listens any more.
    pub async fn watch(self, changes: mpsc::Sender<Change>) {
        let Options {
            node,
            variables,
            events,
        } = self.options;
        let (send, notes) = mpsc::channel(FINDINGS);
        let watches = Watches::new(
            node.clone(),
            variables,
            self.account.clone(),
            changes.clone(),
            events.then_some(send),
        );
        let writer = Writer::new(self.client.clone(), node, self.account, changes);
        let writing = async {
            if events {
                writer.run(notes).await;
            }
        };
        tokio::join!(watches.run(self.client, self.findings), writing);
    }
}
