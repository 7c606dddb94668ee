//! The smallest mesh that redirects: one client with a sidecar and Istio's rules, one server without.
//!
//! Everything is blocking and sequential, one thread per process, so that a connection is one fixed piece of work: client
//! → REDIRECT → proxy → server, closed. No byte is sent: what is measured is connections.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::actor::connect::Tally;
use crate::command;
use crate::place::Place;
use crate::process::{self, Running};
use crate::reap::Session;
use crate::spec::Scenario;
use crate::world::World;

/// Accepts and closes.
const HANG_UP: &str = "8080";
/// Answers with as many bytes as are asked for.
const BULK: &str = "8081";

const WORLD: &str = r#"
name = "bench"
description = "one client with a sidecar, one server"
backend = "nft"
[[pod]]
name = "client"
mesh = "istio"
proxy = { kind = "none" }
[[pod]]
name = "server"
"#;

/// The mesh, running.
#[derive(Debug)]
pub(crate) struct Lab {
    _running: Vec<Running>,
    /// Its namespaces.
    pub(crate) world: World,
}

impl Lab {
    /// Builds it.
    pub(crate) fn new(session: &Session) -> Result<Self> {
        let scenario: Scenario = toml::from_str(WORLD).context("the bench's own world")?;
        let id = session.run_id(0);
        let mut world = World::new(&id, &session.dir.join(&id), None, false)?;
        for pod in &scenario.pod {
            world.add_pod(&scenario, pod)?;
        }
        let mut running = Vec::new();
        for pod in &world.pods {
            fix_buffers(&process::place_in(pod, "app", None, None)?)?;
            running.push(process::pause(&world, pod)?);
        }
        let proxy = [
            "proxy",
            "--serial",
            "--outbound",
            "15001",
            "--listen",
            "0.0.0.0",
        ];
        running.push(start(&world, "client", "istio-proxy", &proxy)?);
        let serve = ["serve", "--serial", "--listen", "0.0.0.0", "--port"];
        running.push(start(
            &world,
            "server",
            "app",
            &[&serve[..], &[HANG_UP, "--hang-up"]].concat(),
        )?);
        running.push(start(
            &world,
            "server",
            "app",
            &[&serve[..], &[BULK]].concat(),
        )?);
        Ok(Self {
            _running: running,
            world,
        })
    }

    /// So many connections, at most at this rate.
    pub(crate) fn connections(&self, count: u32, rate: f64) -> Result<Tally> {
        let (count, rate) = (count.to_string(), rate.to_string());
        self.client(HANG_UP, &["--bare", "--count", &count, "--rate", &rate])
    }

    /// So many bytes over one connection.
    pub(crate) fn bulk(&self, bytes: u64) -> Result<Tally> {
        self.client(BULK, &["--timeout", "600", "--bytes", &bytes.to_string()])
    }

    fn client(&self, port: &str, arguments: &[&str]) -> Result<Tally> {
        let place = process::place_in(self.world.pod("client")?, "app", None, None)?;
        let server = self
            .world
            .pod("server")?
            .addresses
            .first()
            .context("no address")?;
        let mut command = process::actor(&place);
        command
            .args(["connect", "--to", &format!("{server}:{port}")])
            .args(arguments);
        let text = command::run(&mut command)?;
        let tally: Tally = serde_json::from_str(&text).context("the client's result")?;
        anyhow::ensure!(tally.ok == tally.total(), "connections failed: {text}");
        Ok(tally)
    }
}

/// Gives the sockets of a pod buffers of a fixed size: TCP tunes them as it goes, and how it batches then makes one MiB
/// 1 % dearer than the next, which is more than what is measured. With these most repeat within 0.1 %.
fn fix_buffers(place: &Place) -> Result<()> {
    const SETTINGS: &str = "cd /proc/sys/net/ipv4 && echo 0 > tcp_moderate_rcvbuf \
        && echo 4096 262144 262144 > tcp_wmem && echo 4096 1048576 1048576 > tcp_rmem";
    let netns = place.netns.as_deref().and_then(Path::file_name);
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec"])
        .arg(netns.context("a pod without a namespace")?);
    command::run(command.args(["sh", "-c", SETTINGS])).map(drop)
}

fn start(world: &World, pod: &str, container: &str, arguments: &[&str]) -> Result<Running> {
    let place = process::place_in(world.pod(pod)?, container, None, None)?;
    let mut command = process::actor(&place);
    command.args(arguments);
    let name = format!(
        "{pod}/{}{}",
        arguments.first().unwrap_or(&"actor"),
        arguments.len()
    );
    process::start(world, &name, command, PathBuf::new())
}
