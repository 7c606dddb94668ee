//! EDGE Kubernetes: pods as Kubernetes describes them, made into the core's own pods.
//!
//! Two sources give pods: a watched directory of manifests ([`PodsDir`], for hosts without
//! a cluster and for tests) and the API server's watch ([`Cluster`]). Both go
//! through the same conversion, so that what is tested on files holds for the watch. The
//! only place that names the Kubernetes API types. It never talks to the engine: it says
//! what changed, and whoever composes the agent passes it on.

mod account;
#[cfg(test)]
mod apiserver_tests;
mod connect;
mod convert;
mod events;
mod fleet;
mod joined;
mod lines;
mod manifest;
mod patience;
mod pods_dir;
mod review;
mod trimmed;
mod trouble;
mod watch;
mod watch_dir;
mod workload;

pub use connect::{Cluster, ClusterHandle, ConnectError, Options, connect, in_cluster};
pub use fleet::{AgentPod, Answer, Fleet, FleetError, Reach};
pub use manifest::{ManifestError, Manifests};
pub use pods_dir::PodsDir;
pub use review::{Judgement, Reviewer};
pub use watch_dir::watch_pods_dir;
