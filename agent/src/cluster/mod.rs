//! EDGE Kubernetes: pods as Kubernetes describes them, made into the core's own pods.
//!
//! Two sources give pods: a watched directory of manifests ([`PodsDir`], for hosts without
//! a cluster and for tests) and, in an issue of its own, the API server's watch. Both go
//! through the same conversion, so that what is tested on files holds for the watch. The
//! only place that names the Kubernetes API types. It never talks to the engine: it says
//! what changed, and whoever composes the agent passes it on.

mod convert;
mod manifest;
mod pods_dir;
mod watch_dir;
mod workload;

pub use manifest::{ManifestError, Manifests};
pub use pods_dir::PodsDir;
pub use watch_dir::watch_pods_dir;
