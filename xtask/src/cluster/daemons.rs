//! The cluster's daemons: how each is started, and the one that keeps them.
//!
//! A daemon that ends by itself ends the cluster: half a cluster only gives wrong answers. One that is held is ended and
//! started again when it is let go, which is how tests take the API server away.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};

use super::place::{API_PORT, NODE, NODE_ADDRESS, Place, SERVICES};
use crate::process;
use crate::setup::CLUSTER_LIBRARIES;

/// Names of all daemons, in the order they are started in.
pub(crate) const NAMES: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "containerd",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Where programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Compiled: Kubernetes itself.
    pub(crate) kubernetes: PathBuf,
    /// From packages.
    pub(crate) tools: PathBuf,
}

/// The running daemons.
#[derive(Debug)]
pub(crate) struct Daemons {
    place: Place,
    programs: Programs,
    running: Vec<(&'static str, Child)>,
}

impl Daemons {
    pub(crate) fn new(place: &Place, programs: Programs) -> Self {
        Self {
            place: place.clone(),
            programs,
            running: Vec::new(),
        }
    }

    /// Starts one; what it says goes to its log.
    pub(crate) fn start(&mut self, name: &'static str) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.log(name))?;
        let child = self
            .command(name)
            .current_dir(&self.place.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.running.push((name, child));
        Ok(())
    }

    /// An error if one is gone that was started.
    pub(crate) fn look_only(&mut self) -> Result<()> {
        self.bury()?;
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.place.log(name)).unwrap_or_default();
                return Err(anyhow!(
                    "{name} ended by itself: {status}\n{}",
                    process::tail(&log)
                ));
            }
        }
        Ok(())
    }

    /// The first process of a process namespace inherits those whose parents are gone, and nobody else buries them.
    fn bury(&self) -> Result<()> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // An error says that there is no child at all.
        while let Some(pid) = waitid(Id::All, flags).ok().and_then(|status| status.pid()) {
            let pid_u32 = u32::try_from(pid.as_raw())?;
            if self.running.iter().any(|(_, child)| child.id() == pid_u32) {
                return Ok(());
            }
            waitpid(pid, None)?;
        }
        Ok(())
    }

    /// Ends and starts what is held and let go; an error if one is gone that should run.
    pub(crate) fn look(&mut self) -> Result<()> {
        self.look_only()?;
        for name in NAMES {
            let held = self.place.hold(name).exists();
            let index = self
                .running
                .iter()
                .position(|(running, _)| *running == name);
            match (held, index) {
                (true, Some(index)) => {
                    let (_, mut child) = self.running.remove(index);
                    child.kill()?;
                    child.wait()?;
                }
                (false, None) => self.start(name)?,
                _ => (),
            }
        }
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = process::dies_with_us(&self.program(name));
        let (dir, file) = (&self.place.dir, |name: &str| {
            self.place.join(name).display().to_string()
        });
        match name {
            "etcd" => command.args(etcd(dir)),
            "kube-apiserver" => command.args(api_server(dir)),
            "containerd" => command.args(["--config", &file("containerd.toml")]).env(
                "LD_LIBRARY_PATH",
                self.programs.tools.join(CLUSTER_LIBRARIES),
            ),
            "kube-controller-manager" => command.args(controllers(dir)),
            "kube-scheduler" => command
                .args([
                    "--kubeconfig",
                    &file("kubeconfig"),
                    "--leader-elect=false",
                    "--port=0",
                ])
                .args(["--kube-api-qps=200", "--kube-api-burst=400"]),
            "kubelet" => command.args(kubelet(&self.place)),
            _ => command.args(["--config", &file("kube-proxy.yaml")]),
        };
        command.env("PATH", path(&self.programs.tools));
        command
    }

    fn program(&self, name: &str) -> PathBuf {
        match name {
            "etcd" | "containerd" => self.programs.tools.join("usr/bin").join(name),
            _ => self.programs.kubernetes.join(name),
        }
    }
}

/// containerd finds its shim there, and the kubelet and kube-proxy the tools of this machine.
fn path(tools: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [tools.join("usr/bin"), "/usr/sbin".into(), "/sbin".into()];
    std::env::join_paths(dirs.into_iter().chain(std::env::split_paths(&rest))).unwrap_or(rest)
}

fn etcd(dir: &Path) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        format!("--data-dir={}/etcd", dir.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // What it holds is not worth a disk's time.
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn api_server(dir: &Path) -> Vec<String> {
    let pki = |name: &str| format!("{}/pki/{name}", dir.display());
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={NODE_ADDRESS}"),
        format!("--secure-port={API_PORT}"),
        "--insecure-port=0".to_owned(),
        format!("--cert-dir={}", pki("generated")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("apiserver.crt")),
        format!("--kubelet-client-key={}", pki("apiserver.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-key-file={}", pki("sa.key")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        "--service-account-issuer=sidestep-test-cluster".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--allow-privileged=true".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
        // Who asks for what and how often is one of the questions of the tests.
        format!("--audit-policy-file={}/audit.yaml", dir.display()),
        format!("--audit-log-path={}/logs/audit.log", dir.display()),
    ]
}

fn controllers(dir: &Path) -> Vec<String> {
    let dir = dir.display();
    vec![
        format!("--kubeconfig={dir}/kubeconfig"),
        format!("--service-account-private-key-file={dir}/pki/sa.key"),
        format!("--root-ca-file={dir}/pki/ca.crt"),
        format!("--cluster-signing-cert-file={dir}/pki/ca.crt"),
        format!("--cluster-signing-key-file={dir}/pki/ca.key"),
        "--use-service-account-credentials=false".to_owned(),
        "--leader-elect=false".to_owned(),
        "--port=0".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}

fn kubelet(place: &Place) -> Vec<String> {
    let (dir, socket) = (place.dir.display(), place.containerd());
    let socket = format!("unix://{}", socket.display());
    vec![
        format!("--config={dir}/kubelet.yaml"),
        format!("--kubeconfig={dir}/node.kubeconfig"),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={NODE_ADDRESS}"),
        format!("--root-dir={dir}/kubelet"),
        "--container-runtime=remote".to_owned(),
        format!("--container-runtime-endpoint={socket}"),
        format!("--image-service-endpoint={socket}"),
        format!("--cert-dir={dir}/kubelet/pki"),
        "--v=2".to_owned(),
    ]
}
