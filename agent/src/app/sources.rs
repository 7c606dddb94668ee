//! Where the agent learns of pods: a directory of manifests, the API server, or both; and how it reads their rules.
//!
//! Each source tells changes on a channel of its own; they become inputs here, in the order in which they were told.

use std::time::Duration;

use tokio::sync::mpsc;

use super::INPUTS;
use crate::{
    cli::{
        agent::AgentOptions,
        exit::{Exit, Fault},
    },
    cluster::{self, ClusterHandle},
    engine::{Change, Input},
    mesh::Profiles,
    node::{self, rules::Tools},
};

/// Starts the sources that are asked for.
pub(super) async fn sources(
    options: &AgentOptions,
    node: &str,
    profiles: &Profiles,
    inputs: mpsc::Sender<Input>,
) -> anyhow::Result<ClusterHandle> {
    if let Some(dir) = &options.pods {
        let (send, changes) = mpsc::channel(INPUTS);
        let watching = cluster::watch_pods_dir(dir.clone(), profiles.variables(), send);
        tokio::spawn(forward(watching, changes, inputs.clone()));
    }
    if !options.cluster.wanted(options.pods.is_some()) {
        return Ok(ClusterHandle::default());
    }
    let asked = cluster::Options {
        node: node.to_owned(),
        variables: profiles.variables(),
        events: options.cluster.events,
    };
    let (cluster, handle) = cluster::connect(asked).await.map_err(|error| {
        Fault::new(
            Exit::BadInput,
            "cannot find the way to the API server",
            error.to_string(),
            "in a pod, mount a ServiceAccount token; elsewhere set KUBECONFIG; without a cluster give --kubernetes never",
        )
    })?;
    tracing::info!(
        node,
        events = options.cluster.events,
        "watching this node's pods at the API server"
    );
    let (send, changes) = mpsc::channel(INPUTS);
    tokio::spawn(forward(cluster.watch(send), changes, inputs));
    Ok(handle)
}

/// Changes on their way to the engine.
async fn forward(
    watching: impl Future<Output = ()>,
    mut changes: mpsc::Receiver<Change>,
    inputs: mpsc::Sender<Input>,
) {
    let forwarding = async {
        while let Some(change) = changes.recv().await {
            if inputs.send(Input::Change(change)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = forwarding => {}
    }
}

/// How rules are read.
pub(super) fn rules_options(options: &AgentOptions) -> anyhow::Result<node::rules::Options> {
    let tools = Tools::find(&options.rules.programs()).map_err(|error| {
        Fault::new(
            Exit::BadInput,
            "cannot read rules",
            error.to_string(),
            "give the absolute path of the program, or leave the option out to search PATH",
        )
    })?;
    tracing::info!(programs = %tools, "programs that read rules");
    Ok(node::rules::Options {
        tools,
        every: Duration::from_secs(options.rules.rules_every.into()),
        ..node::rules::Options::default()
    })
}
