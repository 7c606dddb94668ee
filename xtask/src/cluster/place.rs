//! Where the test cluster lives: names, addresses and files, all in one place.
//!
//! There is one cluster per cache folder and machine, because its cgroups and its link to the machine have fixed names: that
//! is how a later `down` finds what an interrupted `up` left.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cache::Cache;

/// The node's name, in the API and as its host name.
pub(crate) const NODE: &str = "sidestep-node";
/// The cgroup, below the root of each hierarchy, that everything of the cluster runs in.
pub(crate) const CGROUP: &str = "sidestep-cluster";
/// The machine's end of the link to the node.
pub(crate) const HOST_LINK: &str = "sidestep0";
/// The machine's address on that link.
pub(crate) const HOST_ADDRESS: &str = "10.78.0.1";
/// Where a registry on the machine is for the node.
pub(crate) const REGISTRY: &str = "10.78.0.1:5000";
/// The node's address, where the API server listens.
pub(crate) const NODE_ADDRESS: &str = "10.78.0.2";
/// Port of the API server.
pub(crate) const API_PORT: u16 = 6443;
/// The first address of the services' range: the API server as pods see it.
pub(crate) const API_SERVICE: &str = "10.96.0.1";
/// Range of service addresses.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// Range of the node's pod addresses.
pub(crate) const PODS: &str = "10.244.0.0/16";

/// Folders of the machine that the node sees through an overlay of its own.
pub(crate) const OVERLAID: [&str; 4] = ["var", "etc", "opt", "usr/libexec"];

/// The cluster's folder.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Everything the cluster writes is in here.
    pub(crate) dir: PathBuf,
}

impl Place {
    /// In the cache folder.
    pub(crate) fn find() -> Result<Self> {
        let dir = Cache::open()?.join("cluster");
        if let Some(hidden) = OVERLAID
            .iter()
            .map(|name| Path::new("/").join(name))
            .find(|hidden| dir.starts_with(hidden))
        {
            bail!(
                "the cluster's folder {} is in {}, which the node sees through an overlay: set SIDESTEP_CACHE to a folder elsewhere",
                dir.display(),
                hidden.display()
            );
        }
        Ok(Self { dir })
    }

    /// A file or folder of the cluster.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// What kubectl and helm are given.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    /// Where containerd listens.
    pub(crate) fn containerd(&self) -> PathBuf {
        self.join("run/containerd.sock")
    }

    /// What a daemon says.
    pub(crate) fn log(&self, daemon: &str) -> PathBuf {
        self.join("logs").join(format!("{daemon}.log"))
    }

    /// While it is there, the daemon of that name is kept stopped.
    pub(crate) fn hold(&self, daemon: &str) -> PathBuf {
        self.join(format!("hold-{daemon}"))
    }

    /// Holds the process number of the supervisor.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.join("supervisor.pid")
    }

    /// Written by the supervisor when the node is ready.
    pub(crate) fn ready_file(&self) -> PathBuf {
        self.join("ready")
    }

    /// Address of the API server.
    pub(crate) fn api() -> String {
        format!("https://{NODE_ADDRESS}:{API_PORT}")
    }
}
