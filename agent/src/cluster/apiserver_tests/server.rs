//! etcd and kube-apiserver as child processes on free ports of loopback, with tokens for an administrator and an agent.
//!
//! Started in a second or two; whoever needs another order of things can stop and start the API server alone. Both end with
//! the value.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config, client::ClientBuilder};
use tokio::sync::mpsc;

use super::{LONG, NODE, Watched};
use crate::cluster::{
    account::{Account, Counting},
    connect::{Cluster, Options},
};

/// etcd and kube-apiserver, ended with the test.
pub(super) struct Server {
    dir: tempfile::TempDir,
    etcd: Child,
    api: Option<Child>,
    ports: [u16; 3],
}

impl Server {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = "admin,admin,1,system:masters\nagent,agent,2\n";
        std::fs::write(dir.path().join("tokens"), tokens).unwrap();
        let ports = free_ports();
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(dir.path().join("sa.key"))
            .stderr(Stdio::null())
            .status();
        assert!(key.unwrap().success());
        let (client, peer) = (url(ports[0]), url(ports[1]));
        let etcd = Command::new(program("SIDESTEP_TEST_ETCD", "etcd"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--unsafe-no-fsync",
            ])
            .arg("--data-dir")
            .arg(dir.path().join("etcd"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            dir,
            etcd,
            api: None,
            ports,
        };
        server.up().await;
        server
    }

    pub(super) async fn up(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let api = Command::new(program("SIDESTEP_TEST_KUBERNETES", "kube-apiserver"))
            .arg(format!("--etcd-servers={}", url(self.ports[0])))
            .arg(format!("--secure-port={}", self.ports[2]))
            .arg(format!("--cert-dir={}", file("certs")))
            .arg(format!("--token-auth-file={}", file("tokens")))
            .arg(format!("--service-account-key-file={}", file("sa.key")))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("sa.key")
            ))
            .args([
                "--service-account-issuer=https://test",
                "--bind-address=127.0.0.1",
            ])
            .args(["--advertise-address=127.0.0.1", "--insecure-port=0"])
            .args([
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.96.0.0/16",
            ])
            // Nobody makes service accounts here, and a test must not wait a minute for open watches to end.
            .args(["--disable-admission-plugins=ServiceAccount"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.api = Some(api.unwrap());
        let namespaces: Api<Namespace> = Api::all(self.client("admin", None));
        eventually("the API server", async || {
            namespaces.get("default").await.is_ok()
        })
        .await;
    }

    pub(super) fn down(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.kill().unwrap();
            api.wait().unwrap();
        }
    }

    pub(super) fn client(&self, token: &str, account: Option<&Account>) -> Client {
        let url = format!("https://127.0.0.1:{}", self.ports[2]);
        let mut config = Config::new(url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.default_retry = false;
        config.auth_info.token = Some(token.to_owned().into());
        let builder = ClientBuilder::try_from(config).unwrap();
        match account {
            Some(account) => builder.with_layer(&Counting(account.clone())).build(),
            None => builder.build(),
        }
    }

    /// The agent's side, as `connect` makes it.
    pub(super) fn watched(&self) -> Watched {
        let account = Account::default();
        let (findings, told) = mpsc::channel(16);
        let options = Options {
            node: NODE.to_owned(),
            variables: [].into(),
            events: true,
        };
        let cluster = Cluster::of_test(
            self.client("agent", Some(&account)),
            options,
            &account,
            told,
        );
        let (send, changes) = mpsc::channel(64);
        tokio::spawn(cluster.watch(send));
        Watched {
            account,
            findings,
            changes,
            pods: BTreeMap::new(),
            told: 0,
            sources: BTreeMap::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os(variable) else {
        panic!("{variable} must name the folder of {name}");
    };
    PathBuf::from(folder).join(name)
}

fn free_ports() -> [u16; 3] {
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.each_ref().map(|l| l.local_addr().unwrap().port())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

pub(super) async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let end = Instant::now() + LONG;
    while !so().await {
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
