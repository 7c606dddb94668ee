//! The supervisor: a process in namespaces of its own that makes a node out of this machine and keeps its daemons.
//!
//! Its mount, network, process and host name namespaces are pinned nowhere: they end with the last process in them, and with
//! them every mount, interface and rule of the cluster. The process namespace is what makes it a node to an agent: the first
//! process is in the node's network namespace, as on a machine of its own. What the kubelet writes below `/var` or `/etc` goes to an overlay, what
//! it would set for the whole machine goes to files that hide the real settings.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::daemons::{Daemons, Programs};
use super::kubectl::Kubectl;
use super::place::{HOST_ADDRESS, HOST_LINK, NODE, NODE_ADDRESS, OVERLAID, Place};
use super::{cgroups, images};
use crate::process;
use crate::setup::{self, Component};

/// How long a part of the cluster may take to be ready. Seconds on an idle machine; ten times that on a busy one.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often daemons are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Settings of the machine that a kubelet wants: it sees them as it wants them, and changes nothing.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// `cargo xtask cluster node`, started by `up` only.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The process in whose network namespace the machine's end of the link belongs
    #[arg(long)]
    outside: u32,
    /// In the namespaces already
    #[arg(long)]
    inside: bool,
    /// End everything when standard input ends with nothing having come
    #[arg(long)]
    follow_stdin: bool,
}

/// Makes the node's namespaces and stays until what runs in them ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.inside {
        return inside(options);
    }
    cgroups::enter()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET)
        .context("cannot make namespaces")?;
    network(options.outside)?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a process namespace")?;
    // A process namespace begins with the next child: that one is the node's first process, and all others end with it.
    let mut command =
        process::dies_with_us(Path::new(&format!("/proc/{}/exe", std::process::id())));
    command.args(["cluster", "node", "--inside", "--outside", "0"]);
    if options.follow_stdin {
        command.arg("--follow-stdin");
    }
    let status = command
        .status()
        .context("cannot start the node's first process")?;
    ensure!(status.success(), "the node's first process ended: {status}");
    Ok(())
}

/// The node's first process: makes the rest of the node, starts everything, says when it is ready, and stays.
fn inside(options: &Options) -> Result<()> {
    let place = Place::find()?;
    let programs = Programs {
        kubernetes: setup::need(Component::Kubernetes)?,
        tools: setup::need(Component::ClusterTools)?,
    };
    mounts(&place)?;
    let gone = Arc::new(AtomicBool::new(false));
    if options.follow_stdin {
        follow_stdin(&gone);
    }
    let mut daemons = Daemons::new(&place, programs.clone());
    start(&place, &programs, &mut daemons)?;
    fs::write(place.ready_file(), "")?;
    while !gone.load(Ordering::Relaxed) {
        daemons.look()?;
        std::thread::sleep(LOOK);
    }
    // Ends this process, too.
    cgroups::kill_all()
}

/// A starter that was killed cannot tell us so; the end of its pipe does.
fn follow_stdin(gone: &Arc<AtomicBool>) {
    let gone = Arc::clone(gone);
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // An error means the same as the end.
        let _ = std::io::stdin().read_to_end(&mut said);
        gone.store(said.is_empty(), Ordering::Relaxed);
    });
}

fn start(place: &Place, programs: &Programs, daemons: &mut Daemons) -> Result<()> {
    let kubectl = Kubectl::new(place, programs);
    for name in ["etcd", "kube-apiserver", "containerd"] {
        daemons.start(name)?;
    }
    wait("the API server", daemons, || {
        kubectl
            .run(&["get", "--raw", "/readyz"])
            .is_ok_and(|said| said == "ok")
    })?;
    for name in ["kube-controller-manager", "kube-scheduler"] {
        daemons.start(name)?;
    }
    wait("containerd", daemons, || {
        images::list(place, programs).is_ok()
    })?;
    images::import(place, programs, &place.join("images/pause.tar"))?;
    for name in ["kubelet", "kube-proxy"] {
        daemons.start(name)?;
    }
    wait("the node", daemons, || {
        kubectl
            .run(&["get", "node", NODE, "--no-headers"])
            .is_ok_and(|line| line.split_whitespace().nth(1) == Some("Ready"))
    })
}

fn wait(what: &str, daemons: &mut Daemons, ready: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + READY_WITHIN;
    while !ready() {
        daemons.look_only()?;
        if Instant::now() >= end {
            bail!("{what} is not ready after {} s", READY_WITHIN.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn mounts(place: &Place) -> Result<()> {
    let none = None::<&str>;
    // First private, so that nothing of this reaches the machine; then shared among ourselves, as a kubelet wants it.
    for flag in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(none, "/", none, flag | MsFlags::MS_REC, none)
            .context("cannot change how mounts spread")?;
    }
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .context("cannot mount /proc")?;
    for name in OVERLAID {
        let lower = Path::new("/").join(name);
        if lower.is_dir() {
            overlay(place, name, &lower)?;
        }
    }
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
        .context("cannot mount /run")?;
    fs::create_dir_all("/run/netns")?;
    for (name, value) in SETTINGS {
        setting(place, name, value)?;
    }
    // Each start is a boot to the kubelet.
    let boot = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    setting(place, "kernel/random/boot_id", &boot)?;
    fs::write("/proc/sys/kernel/hostname", NODE).context("cannot set the host name")
}

/// Puts a file over a setting of the machine.
fn setting(place: &Place, name: &str, value: &str) -> Result<()> {
    let real = Path::new("/proc/sys").join(name);
    if !real.exists() {
        return Ok(());
    }
    let file = place.join("settings").join(name.replace('/', "_"));
    fs::create_dir_all(place.join("settings"))?;
    fs::write(&file, value)?;
    mount(
        Some(&file),
        &real,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("cannot hide {}", real.display()))
}

fn overlay(place: &Place, name: &str, lower: &Path) -> Result<()> {
    let dir = place.join("overlay").join(name.replace('/', "-"));
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        lower,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot put an overlay on {}", lower.display()))
}

/// One link to the machine, so that kubectl, helm and Prometheus work from outside.
fn network(outside: u32) -> Result<()> {
    let outside = outside.to_string();
    let address = format!("{NODE_ADDRESS}/24");
    for arguments in [
        ["link", "set", "lo", "up"].as_slice(),
        &[
            "link", "add", "node0", "type", "veth", "peer", "name", HOST_LINK, "netns", &outside,
        ],
        &["addr", "add", &address, "dev", "node0"],
        &["link", "set", "node0", "up"],
        &["route", "add", "default", "via", HOST_ADDRESS],
        // Nothing here answers for a cloud.
        &["route", "add", "unreachable", "169.254.0.0/16"],
    ] {
        process::output(Command::new("ip").args(arguments))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    // Not there where bridges do not pass the filter; then nothing needs it either.
    let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    Ok(())
}
