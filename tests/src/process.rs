//! Processes of a run: started in their place, waited for until they listen, killed at the end.
//!
//! Every process gets its own process group, log file and counters file. A process that dies before it is ready is an
//! error with its log, because everything after it would test another world than the one described.
//!
//! It must never start a process outside the run's cgroups: the reaper finds them by cgroup.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::Place;
use crate::spec::{Family, Listen, Process, Scenario, Serve};
use crate::world::{Standing, World};

/// Time for a process to say that it listens; generous, because virtual machines are emulated.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// A running process.
#[derive(Debug)]
pub(crate) struct Running {
    /// `POD/PROCESS`.
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
    counters: PathBuf,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Kills it and waits for its end.
    pub(crate) fn stop(&mut self) {
        // Either may fail only because it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// What it counted so far.
    pub(crate) fn counters(&self) -> serde_json::Value {
        let text = fs::read_to_string(&self.counters).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// This program, under its own name: `exe` would say nothing in the agent's evidence.
pub(crate) fn myself() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
}

/// A command of this program in a place, not yet started.
pub(crate) fn actor(place: &Place) -> Command {
    let mut command = myself();
    command.arg("actor");
    place.add_to(&mut command);
    command
}

/// Starts a command under a name; returns when it says `ready`.
pub(crate) fn start(
    world: &World,
    name: &str,
    command: Command,
    counters: PathBuf,
) -> Result<Running> {
    let (mut running, stdout) = spawn(world, name, command, counters)?;
    wait_ready(stdout).map_err(|error| broken(&mut running, &error))?;
    Ok(running)
}

/// Ends a process that did not come up, and says why.
pub(crate) fn broken(running: &mut Running, error: &anyhow::Error) -> anyhow::Error {
    running.stop();
    anyhow!(
        "{} did not start: {error}; its log says: {}",
        running.name,
        running.log_tail(5)
    )
}

/// Starts a command under a name.
pub(crate) fn spawn(
    world: &World,
    name: &str,
    mut command: Command,
    counters: PathBuf,
) -> Result<(Running, ChildStdout)> {
    let log = world.dir.join(format!("{}.log", name.replace('/', "-")));
    let file = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().context("a child without stdout")?;
    let running = Running {
        name: name.to_owned(),
        child,
        log,
        counters,
    };
    Ok((running, stdout))
}

fn wait_ready(stdout: ChildStdout) -> Result<()> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        // Nobody may wait any more; then the first line does not matter.
        let _ = send.send(lines.next());
        lines.for_each(drop);
    });
    match receive.recv_timeout(READY) {
        Ok(Some(Ok(line))) if line == "ready" => Ok(()),
        Ok(Some(Ok(line))) => bail!("it said `{line}`"),
        Ok(_) => bail!("it ended"),
        Err(_) => bail!("it was not ready in {} s", READY.as_secs()),
    }
}

/// Starts the pause process of a pod.
pub(crate) fn pause(world: &World, pod: &Standing) -> Result<Running> {
    let mut command = actor(&world.sandbox(pod));
    command.arg("pause");
    start(
        world,
        &format!("{}/pause", pod.spec.name),
        command,
        PathBuf::new(),
    )
}

/// Starts a process of `[[pod.process]]`.
pub(crate) fn process(
    world: &World,
    scenario: &Scenario,
    pod: &Standing,
    process: &Process,
) -> Result<Running> {
    let name = format!("{}/{}", pod.spec.name, process.name);
    let place = place_in(pod, &process.container, process.uid, process.gid)?;
    let counters = counters_path(world, &name);
    let mut command = actor(&place);
    match (&process.serve, &process.run) {
        (Some(serve), _) => {
            serving(&mut command, scenario, pod, serve, &counters);
            start(world, &name, command, counters)
        }
        (None, Some(program)) => {
            command.arg("exec").args(program);
            let (running, stdout) = spawn(world, &name, command, counters)?;
            thread::spawn(move || BufReader::new(stdout).lines().for_each(drop));
            Ok(running)
        }
        (None, None) => bail!("process `{name}` has nothing to do"),
    }
}

fn serving(
    command: &mut Command,
    scenario: &Scenario,
    pod: &Standing,
    serve: &Serve,
    counters: &Path,
) {
    command
        .args(["serve", "--port", &serve.port.to_string()])
        .arg("--counters")
        .arg(counters);
    listen(command, scenario, pod, serve.listen);
    command.args(["--delay", &serve.delay.to_string()]);
    if serve.udp {
        command.arg("--udp");
    }
    if serve.reset {
        command.arg("--reset");
    }
    if serve.wordless {
        command.arg("--wordless");
    }
    tuning(command, serve.accept.0, serve.backlog, serve.workers);
}

/// Adds the addresses to listen on.
pub(crate) fn listen(
    command: &mut Command,
    scenario: &Scenario,
    pod: &Standing,
    listen: Option<Listen>,
) {
    let both = pod.families.contains(&Family::Ipv4) && pod.families.contains(&Family::Ipv6);
    let all = match pod.families.first() {
        _ if both => Listen::Both,
        Some(Family::Ipv6) => Listen::Ipv6,
        _ => Listen::Ipv4,
    };
    let loopback = if scenario.family == Family::Ipv4 {
        "127.0.0.1"
    } else {
        "::1"
    };
    let own = pod
        .addresses
        .first()
        .map(IpAddr::to_string)
        .unwrap_or_default();
    let addresses: &[&str] = match listen.unwrap_or(all) {
        Listen::Ipv4 => &["0.0.0.0"],
        Listen::Ipv6 => &["::"],
        Listen::Both => &["0.0.0.0", "::"],
        Listen::Dual => {
            command.arg("--dual");
            &["::"]
        }
        Listen::Loopback => &[loopback],
        Listen::Pod => &[&own],
    };
    for address in addresses {
        command.args(["--listen", address]);
    }
}

/// Adds how a listener behaves.
pub(crate) fn tuning(
    command: &mut Command,
    accept: bool,
    backlog: Option<u32>,
    workers: Option<u16>,
) {
    if !accept {
        command.arg("--no-accept");
    }
    if let Some(backlog) = backlog {
        command.args(["--backlog", &backlog.to_string()]);
    }
    if let Some(workers) = workers {
        command.args(["--workers", &workers.to_string()]);
    }
}

/// The place of a container's process.
pub(crate) fn place_in(
    pod: &Standing,
    container: &str,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<Place> {
    let placed = pod
        .containers
        .iter()
        .find(|known| known.name == container)
        .ok_or_else(|| {
            anyhow!(
                "pod `{}` has no container `{container}`: add a [[pod.container]]",
                pod.spec.name
            )
        })?;
    Ok(Place {
        netns: Some(pod.netns.clone()),
        cgroup: Some(pod.cgroup.join(&placed.id)),
        limited: pod.limited.iter().map(|dir| dir.join(&placed.id)).collect(),
        uid: Some(uid.unwrap_or(placed.uid)),
        gid: Some(gid.unwrap_or(placed.gid)),
    })
}

/// Where a process counts.
pub(crate) fn counters_path(world: &World, name: &str) -> PathBuf {
    world
        .dir
        .join(format!("{}.counters", name.replace('/', "-")))
}
