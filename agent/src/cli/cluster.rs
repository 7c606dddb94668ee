//! Options of `sidestep agent` about the cluster it runs in.

use clap::{ArgAction, Args, ValueEnum, builder::BoolishValueParser};
use serde::Serialize;

use crate::cluster;

/// Whether pods are watched at the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// If the agent runs in a pod and no directory of manifests is given.
    Auto,
    /// Yes, with the pod's ServiceAccount, else with the kubeconfig.
    Always,
    /// No.
    Never,
}

/// Options about the cluster.
#[derive(Clone, Debug, Args, Serialize)]
pub struct ClusterOptions {
    /// Watch this node's pods at the API server.
    ///
    /// `auto` does so if the agent runs in a pod and --pods is not given. Outside of a pod the kubeconfig is used
    /// (KUBECONFIG, else ~/.kube/config).
    #[arg(
        long, env = "SIDESTEP_KUBERNETES", value_name = "WHEN", value_enum,
        default_value_t = When::Auto, num_args = 0..=1, default_missing_value = "always"
    )]
    pub kubernetes: When,

    /// Write findings as Kubernetes Events on their pods (needs --kubernetes).
    #[arg(
        long, env = "SIDESTEP_EVENTS", value_name = "BOOL", action = ArgAction::Set,
        default_value_t = true, num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new()
    )]
    pub events: bool,
}

impl ClusterOptions {
    /// Whether the API server is to be asked; `manifests` says that a directory names pods.
    #[must_use]
    pub fn wanted(&self, manifests: bool) -> bool {
        match self.kubernetes {
            When::Always => true,
            When::Never => false,
            When::Auto => !manifests && cluster::in_cluster(),
        }
    }
}
