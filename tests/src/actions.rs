//! What happens in a scenario, step by step.
//!
//! Connections are made by a client process per action, in the place of its container. What they came to is compared
//! with what the scenario says: a world that behaves otherwise than described proves nothing about the agent.
//!
//! It must never wait without a bound.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::ValueEnum as _;
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt as _;

use crate::actor::connect::Tally;
use crate::hook::{self, Hook};
use crate::place::Place;
use crate::process::{self, Running};
use crate::rules;
use crate::sidecar;
use crate::spec::{self, Action, Backend, Connect, Family, Outcome, Scenario, SignalAction};
use crate::world::{self, Standing, World};

/// A scenario on its way.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// What it says.
    pub(crate) scenario: &'a Scenario,
    /// Where it plays.
    pub(crate) world: &'a World,
    /// Envoy, if there is one.
    pub(crate) envoy: Option<&'a Path>,
    /// Set when the run must end.
    pub(crate) stop: &'a AtomicBool,
    /// Running processes by `POD/PROCESS`.
    pub(crate) running: BTreeMap<String, Running>,
    /// When the first affected connection was made.
    pub(crate) affected: Option<Instant>,
    background: Vec<(Connect, Client)>,
    hooks: Vec<Hook>,
}

/// A client process that has not been waited for.
#[derive(Debug)]
struct Client {
    child: Child,
    deadline: Instant,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Stage<'a> {
    /// An empty stage.
    pub(crate) fn new(
        scenario: &'a Scenario,
        world: &'a World,
        envoy: Option<&'a Path>,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            scenario,
            world,
            envoy,
            stop,
            running: BTreeMap::new(),
            affected: None,
            background: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Starts the processes of every pod, all pods at once, as on a node.
    pub(crate) fn start_pods(&mut self) -> Result<()> {
        let (world, scenario, envoy) = (self.world, self.scenario, self.envoy);
        for pod in &world.pods {
            for spec in &pod.spec.hook {
                let change = match (spec.from, &spec.to) {
                    (Some(from), Some(to)) => {
                        Some((from, self.address(to, Family::of(&from.ip()))?))
                    }
                    (None, None) => None,
                    _ => bail!(
                        "pod `{}`: a hook needs `from` and `to`, or none",
                        pod.spec.name
                    ),
                };
                self.hooks.push(hook::attach(&pod.cgroup, change)?);
            }
        }
        let started: Vec<Result<Vec<Running>>> = thread::scope(|scope| {
            let threads: Vec<_> = world
                .pods
                .iter()
                .map(|pod| scope.spawn(move || start_pod(world, scenario, pod, envoy)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|_| Err(anyhow!("a starting pod panicked"))))
                .collect()
        });
        for running in started {
            running?.into_iter().for_each(|running| self.keep(running));
        }
        world.pods.iter().try_for_each(|pod| world.limit(pod))
    }

    fn keep(&mut self, running: Running) {
        self.running.insert(running.name.clone(), running);
    }

    /// Does one action.
    pub(crate) fn act(&mut self, action: &Action) -> Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        match action {
            Action::Connect(connect) => self.connect(connect),
            Action::Start(path) => self.start(path),
            Action::Stop(path) => {
                self.process(path)?.stop();
                Ok(())
            }
            Action::Signal(signal) => self.signal(signal),
            Action::Wait(seconds) => {
                self.sleep(Duration::from_secs_f64(*seconds));
                Ok(())
            }
            Action::Flush(pod) => {
                let native = self.scenario.backend == Backend::Native;
                self.world.flush(self.world.pod(pod)?, native)
            }
            Action::Rules(late) if late.pod == spec::NODE => {
                self.world.install_on_node(self.scenario, &late.rules)
            }
            Action::Rules(late) => {
                let pod = self.world.pod(&late.pod)?;
                for install in rules::one(self.scenario, &pod.spec, &pod.families, &late.rules)? {
                    self.world.install(pod, &install)?;
                }
                Ok(())
            }
            Action::Affected(from_here) => {
                self.affected = from_here.then(Instant::now);
                Ok(())
            }
        }
    }

    /// Waits for the clients in the background and judges them.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for (connect, client) in std::mem::take(&mut self.background) {
            judge(&connect, &client.wait(self.stop)?)?;
        }
        Ok(())
    }

    /// Sleeps, unless the run must end.
    pub(crate) fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stop.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn process(&mut self, path: &str) -> Result<&mut Running> {
        self.running
            .get_mut(path)
            .ok_or_else(|| anyhow!("process `{path}` does not run"))
    }

    fn start(&mut self, path: &str) -> Result<()> {
        let (pod, name) = path.split_once('/').context("a process is POD/PROCESS")?;
        let pod = self.world.pod(pod)?;
        let running = if name == "proxy" {
            sidecar::start_of(self.world, self.scenario, pod, self.envoy)?
        } else {
            let spec = pod.spec.process.iter().find(|spec| spec.name == name);
            let spec = spec.with_context(|| format!("there is no process `{path}`"))?;
            Some(process::process(self.world, self.scenario, pod, spec)?)
        };
        running.into_iter().for_each(|running| self.keep(running));
        Ok(())
    }

    fn signal(&mut self, signal: &SignalAction) -> Result<()> {
        let number = match signal.signal.trim_start_matches("SIG") {
            "STOP" => Signal::SIGSTOP,
            "CONT" => Signal::SIGCONT,
            "TERM" => Signal::SIGTERM,
            "KILL" => Signal::SIGKILL,
            "HUP" => Signal::SIGHUP,
            other => bail!("signal `{other}` is not one of STOP, CONT, TERM, KILL, HUP"),
        };
        self.process(&signal.process)?.signal(number)
    }

    fn connect(&mut self, connect: &Connect) -> Result<()> {
        let client = self.client(connect)?;
        self.affected.get_or_insert_with(Instant::now);
        if connect.background {
            self.background.push((connect.clone(), client));
            return Ok(());
        }
        judge(connect, &client.wait(self.stop)?)
    }

    fn client(&self, connect: &Connect) -> Result<Client> {
        let place = self.place_of(connect)?;
        let mut command = process::actor(&place);
        command
            .arg("connect")
            .args(["--to", &self.destination(connect)?.to_string()]);
        arguments(connect, &mut command);
        let log = self.world.dir.join("clients.log");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start a client")?;
        let each = f64::from(connect.count) / connect.rate;
        let longest = connect
            .seconds
            .unwrap_or_else(|| each + f64::from(connect.count) * 2.0 * connect.timeout);
        let longest = longest + connect.hold + 2.0 * connect.timeout + 20.0;
        Ok(Client {
            child,
            deadline: Instant::now() + Duration::from_secs_f64(longest),
        })
    }

    fn place_of(&self, connect: &Connect) -> Result<Place> {
        if connect.from == spec::NODE {
            return Ok(self.world.node());
        }
        let (pod, container) = connect
            .from
            .split_once('/')
            .unwrap_or((&connect.from, "app"));
        process::place_in(self.world.pod(pod)?, container, connect.uid, connect.gid)
    }

    fn destination(&self, connect: &Connect) -> Result<SocketAddr> {
        self.address(&connect.to, connect.family.unwrap_or(self.scenario.family))
    }

    fn address(&self, to: &str, family: Family) -> Result<SocketAddr> {
        let (host, port) = to.rsplit_once(':').context("`to` has no port")?;
        let ip: IpAddr = match (host.trim_matches(['[', ']']).parse(), host, family) {
            (Ok(ip), _, _) => ip,
            (_, "localhost", Family::Ipv4) => Ipv4Addr::LOCALHOST.into(),
            (_, "localhost", Family::Ipv6) => Ipv6Addr::LOCALHOST.into(),
            _ => world::address(self.world.pod(host)?, family)?,
        };
        Ok(SocketAddr::new(ip, port.parse()?))
    }
}

/// Pause, sidecar, then the rest.
fn start_pod(
    world: &World,
    scenario: &Scenario,
    pod: &Standing,
    envoy: Option<&Path>,
) -> Result<Vec<Running>> {
    let mut all = vec![process::pause(world, pod)?];
    if pod.spec.proxy.start.0 {
        all.extend(sidecar::start_of(world, scenario, pod, envoy)?);
    }
    for spec in pod.spec.process.iter().filter(|spec| spec.start.0) {
        all.push(process::process(world, scenario, pod, spec)?);
    }
    Ok(all)
}

impl Client {
    fn wait(mut self, stop: &AtomicBool) -> Result<Tally> {
        while self.child.try_wait()?.is_none() {
            ensure!(!stop.load(Ordering::Relaxed), "interrupted");
            ensure!(
                Instant::now() < self.deadline,
                "a client did not end in time"
            );
            thread::sleep(Duration::from_millis(5));
        }
        let stdout = self
            .child
            .stdout
            .take()
            .context("a client without stdout")?;
        let text = std::io::read_to_string(stdout).context("cannot read what the client says")?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "a client ended badly and said `{}`; see clients.log",
                text.trim()
            )
        })
    }
}

fn arguments(connect: &Connect, command: &mut Command) {
    command.args(["--count", &connect.count.to_string()]);
    command.args(["--rate", &connect.rate.to_string()]);
    command.args(["--threads", &connect.threads.to_string()]);
    command.args(["--timeout", &connect.timeout.to_string()]);
    command.args(["--hold", &connect.hold.to_string()]);
    if let Some(mode) = connect.mode.to_possible_value() {
        command.args(["--mode", mode.get_name()]);
    }
    if let Some(seconds) = connect.seconds {
        command.args(["--seconds", &seconds.to_string()]);
    }
    if let Some(uid) = connect.socket_uid {
        command.args(["--socket-uid", &uid.to_string()]);
    }
    if let Some(gid) = connect.socket_gid {
        command.args(["--socket-gid", &gid.to_string()]);
    }
    if connect.v4_mapped {
        command.arg("--v4-mapped");
    }
    if connect.inherited {
        command.arg("--inherited");
    }
}

/// Compares what came of the connections with what the scenario says.
fn judge(connect: &Connect, tally: &Tally) -> Result<()> {
    let total = tally.total();
    ensure!(
        total > 0,
        "no connection from `{}` to `{}` was made",
        connect.from,
        connect.to
    );
    let wanted = match connect.outcome {
        Outcome::Ok => tally.ok + tally.aborted,
        Outcome::Refused => tally.refused,
        Outcome::TimedOut => tally.timed_out,
        Outcome::Closed => tally.closed,
        Outcome::Silent => tally.silent,
        Outcome::Any => total,
    };
    ensure!(
        wanted == total,
        "the world is not as described: connections from `{}` to `{}` should come to {:?} and came to {}",
        connect.from,
        connect.to,
        connect.outcome,
        serde_json::to_string(tally)?
    );
    Ok(())
}

/// Path where a run keeps its files.
pub(crate) fn run_dir(base: &Path, id: &str) -> PathBuf {
    base.join(id)
}
