//! The sidecar of a pod: the toy proxy with the mesh's ports, or the real Envoy.
//!
//! Whether it is ready is read from the kernel's table of sockets where the program cannot say it itself. A probe
//! connection would be traffic that the agent sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::Pid;

use crate::envoy;
use crate::place::Place;
use crate::process::{
    READY, Running, actor, broken, counters_path, listen, place_in, spawn, start, tuning,
};
use crate::spec::{Mesh, Proxy, ProxyKind, Scenario};
use crate::world::{Standing, World};

/// Starts the sidecar of a pod; `None` if it has none.
pub(crate) fn start_of(
    world: &World,
    scenario: &Scenario,
    pod: &Standing,
    envoy: Option<&Path>,
) -> Result<Option<Running>> {
    let Some(mesh) = pod.spec.mesh else {
        return Ok(None);
    };
    let name = format!("{}/proxy", pod.spec.name);
    let place = match mesh.proxy_container() {
        Some(container) => place_in(pod, container, None, None)?,
        // The node's proxy: in the pod's network namespace, and in no cgroup of the pod.
        None => Place {
            netns: Some(pod.netns.clone()),
            ..world.node()
        },
    };
    match pod.spec.proxy.kind {
        ProxyKind::None => Ok(None),
        ProxyKind::Toy => toy(world, scenario, pod, mesh, &place, &name).map(Some),
        ProxyKind::Envoy => {
            let program = envoy.context(
                "this scenario needs Envoy: give its path with --envoy or SIDESTEP_ENVOY",
            )?;
            let command = envoy::command(world, pod, program, &place)?;
            let (mut running, _stdout) = spawn(world, &name, command, PathBuf::new())?;
            wait_listening(&mut running, &envoy::ports(&pod.spec.proxy))?;
            Ok(Some(running))
        }
    }
}

fn toy(
    world: &World,
    scenario: &Scenario,
    pod: &Standing,
    mesh: Mesh,
    place: &Place,
    name: &str,
) -> Result<Running> {
    let spec = &pod.spec.proxy;
    let counters = counters_path(world, name);
    let mut command = actor(place);
    command.arg("proxy").arg("--counters").arg(&counters);
    mesh.proxy_ports(spec, &mut command);
    let source: &[&str] = match mesh {
        Mesh::Istio if pod.spec.is_transparent() => &[],
        Mesh::Istio | Mesh::Kuma => &["127.0.0.6", "::6"],
        Mesh::Consul => &["127.0.0.1", "::1"],
        Mesh::Linkerd | Mesh::Ambient => &[],
    };
    if mesh == Mesh::Ambient {
        command.args(["--mark", "1337", "--keep-source"]);
    }
    if pod.spec.is_transparent() {
        command.args(["--mark", "1337", "--keep-source", "--transparent"]);
    }
    for ip in source {
        command.args(["--inbound-source", ip]);
    }
    if let Some(ip) = spec.app_address {
        command.args(["--app-address", &ip.to_string()]);
    }
    for (does, argument) in [
        (spec.read, "--no-read"),
        (spec.dial, "--no-dial"),
        (spec.close, "--no-close"),
    ] {
        if !does.0 {
            command.arg(argument);
        }
    }
    command.args(["--keeps", &spec.keeps.to_string()]);
    command.args(["--accept-takes", &spec.accept_takes.to_string()]);
    listen(&mut command, scenario, pod, spec.listen);
    tuning(&mut command, spec.accept.0, spec.backlog, spec.workers);
    start(world, name, command, counters)
}

/// Waits until a process's namespace listens on all these ports, by reading the kernel's table: a probe connection
/// would be traffic that the agent sees.
fn wait_listening(running: &mut Running, ports: &[u16]) -> Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let open = listening(running.pid());
        if ports.iter().all(|port| open.contains(port)) {
            return Ok(());
        }
        if running.has_ended()? {
            return Err(broken(running, &anyhow!("it ended")));
        }
        if Instant::now() > deadline {
            return Err(broken(running, &anyhow!("it does not listen on {ports:?}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn listening(pid: Pid) -> Vec<u16> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|text| text.lines().filter_map(listening_port).collect::<Vec<_>>())
        .collect()
}

/// The port of a line of /proc/net/tcp in state LISTEN (0A).
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    (state == "0A")
        .then(|| u16::from_str_radix(port, 16).ok())
        .flatten()
}

impl Mesh {
    /// The container that is the proxy, if it is one of the pod.
    pub(crate) fn proxy_container(self) -> Option<&'static str> {
        match self {
            Self::Istio => Some("istio-proxy"),
            Self::Linkerd => Some("linkerd-proxy"),
            Self::Consul => Some("consul-dataplane"),
            Self::Kuma => Some("kuma-sidecar"),
            Self::Ambient => None,
        }
    }

    fn proxy_ports(self, spec: &Proxy, command: &mut Command) {
        let (outbound, inbound, own, admin): (&str, &str, &[&str], &[&str]) = match self {
            Self::Istio => ("15001", "15006", &["15020", "15021", "15090"], &["15000"]),
            Self::Linkerd => ("4140", "4143", &["4190", "4191"], &[]),
            Self::Consul => ("15001", "20000", &["20200"], &["19000"]),
            Self::Kuma => ("15001", "15006", &["9902"], &["9901"]),
            Self::Ambient => ("15001", "15006", &["15008"], &[]),
        };
        if spec.outbound.0 {
            command.args(["--outbound", outbound]);
        }
        if spec.dns && matches!(self, Self::Istio | Self::Ambient) {
            command.args(["--dns", "15053"]);
        }
        if spec.inbound.0 {
            command.args(["--inbound", inbound]);
        }
        for port in own {
            command.args(["--own", port]);
        }
        for port in admin {
            command.args(["--admin", port]);
        }
    }
}
