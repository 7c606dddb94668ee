//! The agent under test: the real binary, started like a user would, and asked over its HTTP API.
//!
//! The harness knows nothing of the agent's insides; it sees what a user sees (`/readyz`, `/v1/findings`, `/v1/pods`,
//! `/v1/edges`). So a scenario tests the whole way from the kernel to the answer.
//!
//! It must never treat silence of the API as silence of the agent: an agent that does not answer is a failure.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::place::Place;
use crate::process;
use crate::world::{Standing, World};

/// Loading probes in an emulated machine takes seconds.
const READY: Duration = Duration::from_secs(60);

/// Generous, for the same reason; how fast it must be is not this suite's question.
const DISCOVERY: Duration = Duration::from_secs(20);

/// How to start the agent.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The binary.
    pub(crate) program: PathBuf,
    /// Arguments after those the harness needs.
    pub(crate) args: Vec<String>,
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Mutex<Child>,
    pid: u32,
    url: String,
    log: PathBuf,
}

/// A finding as the API tells it, as far as the harness needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Code.
    pub(crate) code: String,
    /// Pod, `None` for the agent itself.
    pub(crate) pod: Option<PodKey>,
    /// Everything else, for people and for `says`.
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, Value>,
}

/// `/v1/findings`.
#[derive(Debug, Deserialize)]
struct Page {
    findings: Vec<Finding>,
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodKey {
    /// Namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Agent {
    /// Starts it on any free port and returns when it says that it is ready.
    pub(crate) fn start(world: &World, recipe: &Recipe) -> Result<Self> {
        Self::start_at(world, recipe, free_port(0)?)
    }

    /// The same on the port where `sidestep findings` looks, if that is free.
    pub(crate) fn start_well_known(world: &World, recipe: &Recipe) -> Result<Self> {
        Self::start_at(world, recipe, free_port(9964).or_else(|_| free_port(0))?)
    }

    /// Attaches the probes and reads nothing.
    pub(crate) fn start_probes_only(world: &World, recipe: &Recipe) -> Result<Self> {
        let mut recipe = recipe.clone();
        recipe.args.push("--probes-only".to_owned());
        let agent = Self::spawn(world, &recipe, free_port(0)?)?;
        let deadline = Instant::now() + READY;
        while !agent.log_tail(50).contains("probes attached") {
            agent.check_alive()?;
            ensure!(
                Instant::now() < deadline,
                "the probes were not attached in {} s",
                READY.as_secs()
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(agent)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn start_at(world: &World, recipe: &Recipe, port: u16) -> Result<Self> {
        let agent = Self::spawn(world, recipe, port)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    fn spawn(world: &World, recipe: &Recipe, port: u16) -> Result<Self> {
        let log = world.dir.join("agent.log");
        let place = Place {
            cgroup: Some(world.own_cgroup().join("agent")),
            ..Place::default()
        };
        let out = File::create(&log).context("cannot write the agent's log")?;
        let child = process::actor(&place)
            .arg("exec")
            .arg(&recipe.program)
            .args(["agent", "--listen", &format!("127.0.0.1:{port}"), "--pods"])
            .arg(world.manifests())
            .args(&recipe.args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .context("cannot start the agent")?;
        Ok(Self {
            pid: child.id(),
            child: Mutex::new(child),
            url: format!("http://127.0.0.1:{port}"),
            log,
        })
    }

    /// Base of its API.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY;
        while self.get("/readyz").is_err() {
            if let Some(status) = self.ended()? {
                bail!(
                    "the agent ended ({status}); its log says:\n{}",
                    self.log_tail(15)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent was not ready in {} s; its log says:\n{}",
                    READY.as_secs(),
                    self.log_tail(15)
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks its API.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .build();
        ureq::Agent::new_with_config(config)
            .get(format!("{}{path}", self.url))
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .with_context(|| format!("GET {path}"))
    }

    /// How it sees the kernel: `/v1/coverage`.
    pub(crate) fn coverage(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/v1/coverage")?).context("/v1/coverage is not JSON")
    }

    /// All findings, open and resolved; of one namespace, without those about the agent itself, if it is named.
    pub(crate) fn findings(&self, namespace: Option<&str>) -> Result<Vec<Finding>> {
        let filter = namespace.map(|name| format!("?namespace={name}"));
        let text = self.get(&format!("/v1/findings{}", filter.unwrap_or_default()))?;
        let page: Page = serde_json::from_str(&text)
            .with_context(|| format!("/v1/findings has another shape than expected: {text}"))?;
        Ok(page.findings)
    }

    /// Waits until it knows these pods and their network namespaces, so that a scenario tests verdicts and not the speed
    /// of discovery.
    pub(crate) fn wait_for_pods(&self, world: &World) -> Result<()> {
        let deadline = Instant::now() + DISCOVERY;
        let filter = world.namespace().map(|name| format!("?namespace={name}"));
        let filter = filter.unwrap_or_else(|| "?limit=1000".to_owned());
        loop {
            let text = self.get(&format!("/v1/pods{filter}"))?;
            let page: Value = serde_json::from_str(&text).context("/v1/pods is not JSON")?;
            let rows = page["pods"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let knows = |pod: &Standing| {
                rows.iter().any(|row| {
                    row["pod"]["name"] == pod.spec.name.as_str()
                        && row["pod"]["namespace"] == pod.spec.namespace.as_str()
                        && (pod.host_network || !row["netns"].is_null())
                })
            };
            if world.pods.iter().all(knows) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "the agent does not know all pods after {} s; /v1/pods says {text}",
                    DISCOVERY.as_secs()
                ));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether it still runs; an error carries its end.
    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!(
                "the agent ended ({status}); its log says:\n{}",
                self.log_tail(15)
            ),
            None => Ok(()),
        }
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(child.try_wait()?)
    }

    /// How often it opened a finding of a pod, by its log: one that ends and begins again at once is a single one in
    /// `/v1/findings`, and an alert that flaps for its users.
    pub(crate) fn opened(&self, code: &str, pod: &PodKey) -> Result<usize> {
        const OPENED: &str = "finding opened: ";
        let log = fs::read_to_string(&self.log).context("cannot read the agent's log")?;
        ensure!(log.contains(OPENED), "the agent's log tells of no finding");
        let code = format!(" code=\"{code}\" ");
        let pod = format!(" pod={}/{} ", pod.namespace, pod.name);
        let is_it =
            |line: &&str| line.contains(OPENED) && line.contains(&code) && line.contains(&pod);
        Ok(log.lines().filter(is_it).count())
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        process::tail(&self.log, lines)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is fine.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// This port if nobody uses it right now; any such port for 0.
fn free_port(wanted: u16) -> Result<u16> {
    let socket = TcpListener::bind(("127.0.0.1", wanted)).context("cannot find a free port")?;
    Ok(socket.local_addr()?.port())
}

/// Whether the file can be run at all.
pub(crate) fn check_program(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    bail!(
        "there is no agent at {}: run `cargo xtask build`, or give --agent PATH",
        path.display()
    )
}
