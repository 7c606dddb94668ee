//! The small node: one bridge in a namespace of its own, and pods around it.
//!
//! Nothing touches the machine's own network: the "node" is a network namespace with a bridge, every pod is another one
//! with a veth to it. Pods get manifests, cgroups in the kubelet's layout and a pause process, because that is where the
//! agent looks. Everything made here carries the run's id and goes away in `Drop`, whatever happened before.
//!
//! It must never leave anything behind, and it must never remove what it did not make.

// lint: long file because making a world and taking it down are one story, and must be changed together

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::manifest::{self, Placed};
use crate::place::Place;
use crate::process;
use crate::rules::{self, Install};
use crate::spec::{Family, Mesh, Pod, Rules, Scenario};
use crate::{cgroup, command};

/// Addresses of a run, which no other run on the machine has: `10.x.y.0/24` and `fd00:90:…::/64`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    v4: [u8; 3],
    v6: [u16; 4],
}

impl Net {
    /// From the run's id, 8 hex digits.
    pub(crate) fn of(id: &str) -> Self {
        let number = u32::from_str_radix(id, 16).unwrap_or_default();
        let [a, b, c, d] = number.to_be_bytes();
        Self {
            // 10.64 to 10.191, away from what clouds and containers like to use.
            v4: [10, 64 | (a ^ c) & 0x3f, b ^ d],
            v6: [
                0xfd00,
                0x90,
                u16::from_be_bytes([a, b]),
                u16::from_be_bytes([c, d]),
            ],
        }
    }

    /// `10.x.y`
    pub(crate) fn prefix(self) -> String {
        let [a, b, c] = self.v4;
        format!("{a}.{b}.{c}")
    }

    fn v4(self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, host)
    }

    fn v6(self, host: u8) -> Ipv6Addr {
        let [a, b, c, d] = self.v6;
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, host.into())
    }

    /// The node's own address on the bridge, where probes come from.
    pub(crate) fn node(self) -> Ipv4Addr {
        self.v4(254)
    }
}

/// A pod that stands.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// What the scenario says about it.
    pub(crate) spec: Pod,
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// Families in the order of its addresses.
    pub(crate) families: Vec<Family>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Path of its network namespace.
    pub(crate) netns: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// The same in the hierarchies that limit CPU time and memory, if they are others and there is a limit.
    pub(crate) limited: Vec<PathBuf>,
    /// Its containers.
    pub(crate) containers: Vec<Placed>,
    /// The manifest says that it is in the node's network namespace: no namespace is its.
    pub(crate) host_network: bool,
}

/// Everything of one run that stands on the machine.
#[derive(Debug)]
pub(crate) struct World {
    /// Id of the run, in every name.
    pub(crate) id: String,
    /// Folder for manifests, logs, counters.
    pub(crate) dir: PathBuf,
    /// Addresses.
    pub(crate) net: Net,
    /// Pods.
    pub(crate) pods: Vec<Standing>,
    root: PathBuf,
    manifests: Option<PathBuf>,
    keep: bool,
}

impl World {
    /// Makes the empty node. With a folder of manifests, its agent watches the pods of other runs, too.
    pub(crate) fn new(id: &str, dir: &Path, manifests: Option<&Path>, keep: bool) -> Result<Self> {
        let world = Self {
            id: id.to_owned(),
            dir: dir.to_path_buf(),
            net: Net::of(id),
            pods: Vec::new(),
            root: cgroup::root()?,
            manifests: manifests.map(Path::to_path_buf),
            keep,
        };
        fs::create_dir_all(dir).context("cannot make the run's folder")?;
        fs::create_dir_all(world.manifests()).context("cannot make the folder of manifests")?;
        cgroup::make(&world.own_cgroup().join("agent"))?;
        cgroup::make(&world.own_cgroup().join("node"))?;
        let node = world.netns_name("node");
        command::run(Command::new("ip").args(["netns", "add", &node]))?;
        batch(
            &node,
            &format!(
                "link set lo up\nlink add br0 type bridge\nlink set br0 addrgenmode none\nlink set br0 up\n\
                 addr add {}/24 dev br0\naddr add {}/64 dev br0 nodad\n\
                 link add br1 type bridge\nlink set br1 addrgenmode none\nlink set br1 up\n",
                world.net.node(),
                world.net.v6(254)
            ),
        )?;
        Ok(world)
    }

    /// Builds a pod up to its rules; its processes come later.
    pub(crate) fn add_pod(&mut self, scenario: &Scenario, pod: &Pod) -> Result<()> {
        let uid = self.pod_uid(&pod.name);
        let mut pod = pod.clone();
        if self.manifests.is_some() {
            // Other runs have pods of the same names.
            pod.namespace = format!("{}-{}", pod.namespace, self.id);
        }
        let pod = &pod;
        let (families, addresses) = self.addresses(scenario, pod);
        let manifest = manifest::of_pod(pod, &uid, &addresses, |name| {
            self.hex(&format!("{}/{name}", pod.name), 4)
        })?;
        let standing = Standing {
            spec: pod.clone(),
            families,
            addresses,
            netns: Path::new("/run/netns").join(self.netns_name(&pod.name)),
            cgroup: cgroup::pods(&self.root).join(format!("pod{uid}")),
            limited: apart(&self.root, &manifest.containers)
                .map(|root| cgroup::pods(&root).join(format!("pod{uid}")))
                .collect(),
            containers: manifest.containers.clone(),
            host_network: manifest.value["spec"]["hostNetwork"] == true,
            uid,
        };
        // Known from here on, so that `Drop` finds it however far the building gets.
        self.pods.push(standing.clone());
        for container in &standing.containers {
            for pod in standing.limited.iter().chain([&standing.cgroup]) {
                cgroup::make(&pod.join(&container.id))?;
            }
        }
        cgroup::make(&standing.cgroup.join(self.hex(&pod.name, 4)))?;
        self.wire(&standing, scenario.node.routed)?;
        for install in rules::of_pod(scenario, pod, &standing.families)? {
            self.install(&standing, &install)?;
        }
        let path = self.manifests().join(self.manifest_name(&pod.name));
        let text = serde_json::to_string_pretty(&manifest.value)?;
        // The agent may watch already: it must never see half a file.
        let draft = self.dir.join("draft.json");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes the node what the scenario says it is.
    pub(crate) fn set_up_node(&self, scenario: &Scenario) -> Result<()> {
        let place = as_root(self.node().netns);
        if scenario.node.routed {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                let file = format!("/proc/sys/net/{file}");
                command::feed(inside(&place).args(["tee", &file]), "1\n")
                    .with_context(|| format!("cannot write {file}"))?;
            }
        }
        scenario
            .node
            .rules
            .iter()
            .try_for_each(|rules| self.install_on_node(scenario, rules))
    }

    /// Installs what an entry of the node's rules says.
    pub(crate) fn install_on_node(&self, scenario: &Scenario, rules: &Rules) -> Result<()> {
        let place = as_root(self.node().netns);
        for install in rules::on_node(scenario, rules)? {
            command::feed(inside(&place).args(install.program()), &install.text)
                .context("cannot install the rules of the node")?;
        }
        Ok(())
    }

    /// Folder for the agent's `--pods`.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.manifests
            .clone()
            .unwrap_or_else(|| self.dir.join("pods"))
    }

    /// The namespace of all its pods, if it is one and no other run has it.
    pub(crate) fn namespace(&self) -> Option<&str> {
        let first = self.pods.first()?.spec.namespace.as_str();
        let same = self.pods.iter().all(|pod| pod.spec.namespace == first);
        (self.manifests.is_some() && same).then_some(first)
    }

    fn manifest_name(&self, pod: &str) -> String {
        format!("{}-{pod}.json", self.id)
    }

    /// cgroup of the agent and of the node's own processes.
    pub(crate) fn own_cgroup(&self) -> PathBuf {
        self.root.join(format!("sidestep-test-{}", self.id))
    }

    /// The place of a pod's sandbox, where its pause process lives.
    pub(crate) fn sandbox(&self, pod: &Standing) -> Place {
        Place {
            netns: Some(pod.netns.clone()),
            cgroup: Some(pod.cgroup.join(self.hex(&pod.spec.name, 4))),
            uid: Some(65_535),
            gid: Some(65_535),
            ..Place::default()
        }
    }

    /// The place of the node's own processes.
    pub(crate) fn node(&self) -> Place {
        Place {
            netns: Some(Path::new("/run/netns").join(self.netns_name("node"))),
            cgroup: Some(self.own_cgroup().join("node")),
            ..Place::default()
        }
    }

    /// The pod of that name.
    pub(crate) fn pod(&self, name: &str) -> Result<&Standing> {
        self.pods
            .iter()
            .find(|pod| pod.spec.name == name)
            .ok_or_else(|| anyhow!("there is no pod `{name}`"))
    }

    /// Limits CPU time and memory of its containers as their manifests say; once their processes have started, so
    /// that the start is not part of what is tested.
    pub(crate) fn limit(&self, pod: &Standing) -> Result<()> {
        let place =
            |root: &Path, id: &str| cgroup::pods(root).join(format!("pod{}", pod.uid)).join(id);
        for container in &pod.containers {
            if let Some(cpu) = container.cpu {
                let root = cgroup::CPU
                    .root()
                    .context("no cgroup hierarchy limits CPU time here")?;
                cgroup::limit_cpu(&root, &place(&root, &container.id), cpu)?;
            }
            if let Some(mib) = container.memory {
                let root = cgroup::MEMORY
                    .root()
                    .context("no cgroup hierarchy limits memory here")?;
                cgroup::limit_memory(&root, &place(&root, &container.id), mib)?;
            }
        }
        Ok(())
    }

    /// Installs rules in a pod.
    pub(crate) fn install(&self, pod: &Standing, install: &Install) -> Result<()> {
        let place = as_root(Some(pod.netns.clone()));
        command::feed(inside(&place).args(install.program()), &install.text)
            .map(drop)
            .with_context(|| format!("cannot install the rules of pod `{}`", pod.spec.name))
    }

    /// Empties table nat of a pod, in every back end and family; nft's own where it is `native`.
    pub(crate) fn flush(&self, pod: &Standing, native: bool) -> Result<()> {
        let place = as_root(Some(pod.netns.clone()));
        for (program, text) in rules::emptied(native) {
            command::feed(inside(&place).args(program), text)?;
        }
        Ok(())
    }

    fn netns_name(&self, pod: &str) -> String {
        format!("st-{}-{pod}", self.id)
    }

    /// `blocks` times 16 hex digits that belong to this run and this name.
    fn hex(&self, name: &str, blocks: usize) -> String {
        let mut text = String::new();
        for block in 0..blocks {
            let mut hasher = DefaultHasher::new();
            (&self.id, name, block).hash(&mut hasher);
            let _ = write!(text, "{:016x}", hasher.finish());
        }
        text
    }

    /// A uid that starts with the run's id: that is how clean-up knows the pod's cgroup.
    fn pod_uid(&self, name: &str) -> String {
        let hex = self.hex(name, 2);
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        format!(
            "{}-{}-4{}-8{}-{}",
            self.id,
            part(0, 4),
            part(4, 7),
            part(7, 10),
            part(10, 22)
        )
    }

    fn addresses(&self, scenario: &Scenario, pod: &Pod) -> (Vec<Family>, Vec<IpAddr>) {
        if !pod.addresses.is_empty() {
            return (
                pod.addresses.iter().map(Family::of).collect(),
                pod.addresses.clone(),
            );
        }
        let families = pod
            .families
            .clone()
            .unwrap_or_else(|| vec![scenario.family]);
        let host = u8::try_from(self.pods.len() + 1).unwrap_or(u8::MAX);
        let addresses = families
            .iter()
            .map(|family| match family {
                Family::Ipv4 => self.net.v4(host).into(),
                Family::Ipv6 => self.net.v6(host).into(),
            })
            .collect();
        (families, addresses)
    }

    /// Namespace, veth, addresses, routes.
    fn wire(&self, pod: &Standing, routed: bool) -> Result<()> {
        let name = self.netns_name(&pod.spec.name);
        let node = self.netns_name("node");
        let index = self.pods.len();
        command::run(Command::new("ip").args(["netns", "add", &name]))?;
        let mut there = format!(
            "link add v{index} type veth peer name eth0 netns {name}\nlink set v{index} addrgenmode none\n"
        );
        if !routed {
            let _ = writeln!(there, "link set v{index} master br0");
        }
        let _ = writeln!(there, "link set v{index} up");
        let mut text =
            "link set lo up\nlink set eth0 addrgenmode none\nlink set eth0 up\n".to_owned();
        for address in &pod.addresses {
            let (gateway, whole, net, flags): (IpAddr, _, _, _) = match address {
                IpAddr::V4(_) => (self.net.node().into(), 32, 24, ""),
                IpAddr::V6(_) => (self.net.v6(254).into(), 128, 64, " nodad"),
            };
            let prefix = if routed { whole } else { net };
            let _ = writeln!(text, "addr add {address}/{prefix} dev eth0{flags}");
            if routed {
                let _ = writeln!(text, "route add {gateway}/{whole} dev eth0");
                let _ = writeln!(there, "route add {address}/{whole} dev v{index}");
            }
            // Unlike its IPv4 addresses, the node's IPv6 ones are answered for on their interface
            // only; and it asks for neighbours from a link-local address.
            if routed && address.is_ipv6() {
                let _ = writeln!(there, "addr add fe80::{index}/64 dev v{index} nodad");
                let _ = writeln!(there, "addr add {gateway}/{whole} dev v{index} nodad");
            }
            let _ = writeln!(text, "route add default via {gateway}");
        }
        networks(pod, index, &name, (&mut there, &mut text));
        batch(&node, &there)?;
        let binds = matches!(pod.spec.mesh, Some(Mesh::Istio | Mesh::Kuma));
        if binds && pod.families.contains(&Family::Ipv6) {
            text.push_str("addr add ::6/128 dev lo nodad\n");
        }
        batch(&name, &text)?;
        match pod.spec.mesh {
            Some(Mesh::Ambient) => route_back(&name, &pod.families),
            _ => Ok(()),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for pod in &self.pods {
            // It may never have been written.
            let _ = fs::remove_file(self.manifests().join(self.manifest_name(&pod.spec.name)));
        }
        for problem in remove(&self.id) {
            eprintln!("clean-up: {problem}");
        }
    }
}

/// Removes everything whose run id begins like this; says what it could not.
pub(crate) fn remove(id: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{error:#}"));
        }
    };
    for root in cgroup::roots() {
        for dir in owned_cgroups(&root, id) {
            note(cgroup::remove(&dir));
        }
        cgroup::remove_parents(&root);
    }
    for name in owned_netns(id) {
        note(command::run(Command::new("ip").args(["netns", "del", &name])).map(drop));
    }
    problems
}

/// What of a run still stands; empty after a clean end.
pub(crate) fn leftovers(id: &str) -> Vec<String> {
    let roots = cgroup::roots();
    let mut all: Vec<String> = roots
        .iter()
        .flat_map(|root| owned_cgroups(root, id))
        .map(|dir| format!("cgroup {}", dir.display()))
        .collect();
    all.extend(
        owned_netns(id)
            .iter()
            .map(|name| format!("network namespace {name}")),
    );
    all
}

fn owned_cgroups(root: &Path, id: &str) -> Vec<PathBuf> {
    let prefix = format!("pod{id}");
    let pods = fs::read_dir(cgroup::pods(root))
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut all: Vec<PathBuf> = pods
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    let prefix = format!("sidestep-test-{id}");
    let own = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    all.extend(
        own.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path()),
    );
    all
}

fn owned_netns(id: &str) -> Vec<String> {
    let prefix = format!("st-{id}");
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// The hierarchies that limit what containers are to be limited in, without the pods' own.
fn apart(own: &Path, containers: &[Placed]) -> impl Iterator<Item = PathBuf> {
    let cpu = containers.iter().any(|container| container.cpu.is_some());
    let memory = containers
        .iter()
        .any(|container| container.memory.is_some());
    let all = [cpu.then_some(cgroup::CPU), memory.then_some(cgroup::MEMORY)];
    let roots = all
        .into_iter()
        .flatten()
        .filter_map(cgroup::Controller::root);
    roots.filter(move |root| root != own)
}

/// Answers to a proxy that dials from the peer's address must come back to it.
fn route_back(netns: &str, families: &[Family]) -> Result<()> {
    for family in families {
        let (option, all) = match family {
            Family::Ipv4 => ("-4", "0.0.0.0/0"),
            Family::Ipv6 => ("-6", "::/0"),
        };
        for line in [
            "rule add fwmark 0x111/0xfff pref 32764 lookup 100".to_owned(),
            format!("route add local {all} dev lo table 100"),
        ] {
            let mut ip = Command::new("ip");
            command::run(ip.args(["-n", netns, option]).args(line.split(' ')))?;
        }
    }
    Ok(())
}

/// The commands for a pod's other interfaces, on the node's side and on its own.
fn networks(pod: &Standing, index: usize, netns: &str, (there, here): (&mut String, &mut String)) {
    for (number, network) in pod.spec.network.iter().enumerate() {
        let (outer, inner) = (format!("v{index}n{number}"), &network.name);
        let _ = writeln!(
            there,
            "link add {outer} type veth peer name {inner} netns {netns}\n\
             link set {outer} addrgenmode none\nlink set {outer} master br1\nlink set {outer} up"
        );
        let _ = writeln!(
            here,
            "link set {inner} addrgenmode none\nlink set {inner} up"
        );
        for address in &network.addresses {
            let _ = writeln!(here, "addr add {address} dev {inner}");
        }
    }
}

/// Several `ip` commands in one namespace, in one process.
fn batch(netns: &str, commands: &str) -> Result<()> {
    command::feed(
        Command::new("ip").args(["-n", netns, "-batch", "-"]),
        commands,
    )
    .map(drop)
}

/// A network namespace, for whoever sets it up.
fn as_root(netns: Option<PathBuf>) -> Place {
    Place {
        netns,
        ..Place::default()
    }
}

/// A command that runs another program in a place.
pub(crate) fn inside(place: &Place) -> Command {
    let mut command = process::myself();
    command.arg("actor");
    place.add_to(&mut command);
    command.arg("exec");
    command
}

/// The address of a pod in a family.
pub(crate) fn address(pod: &Standing, family: Family) -> Result<IpAddr> {
    let found = pod.addresses.iter().find(|ip| Family::of(ip) == family);
    match (found, pod.addresses.first()) {
        (Some(ip), _) => Ok(*ip),
        (None, Some(ip)) => Ok(*ip),
        (None, None) => bail!("pod `{}` has no address", pod.spec.name),
    }
}
