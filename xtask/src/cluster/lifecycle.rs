//! The cluster from outside: up, down, and what is left after a failure, which must be nothing.
//!
//! Whatever ends an `up` before the node is ready (an error, Ctrl-C) takes everything down again. For SIGKILL there is the
//! pipe that the supervisor watches until then; and `down` finds everything by its cgroup, whoever started it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::daemons::Programs;
use super::place::{HOST_ADDRESS, HOST_LINK, NODE_ADDRESS, PODS, Place};
use super::signals::Stop;
use super::{certificates, cgroups, config, images};
use crate::process;
use crate::setup::{self, Component};

/// Longer than anything the supervisor waits for.
const UP_WITHIN: Duration = Duration::from_secs(400);
const POLL: Duration = Duration::from_millis(50);

/// A cluster that is there while this is.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its files.
    pub(crate) place: Place,
    /// What it is made of.
    pub(crate) programs: Programs,
    supervisor: Child,
    keep: bool,
}

/// Everything that must be had before.
pub(crate) fn programs() -> Result<Programs> {
    setup::need(Component::NodeTools)?;
    Ok(Programs {
        tools: setup::need(Component::ClusterTools)?,
        kubernetes: setup::need(Component::Kubernetes)?,
    })
}

impl Running {
    /// Starts the cluster; returns when the node is ready.
    pub(crate) fn start(stop: &Stop) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a node needs root: namespaces, cgroups and mounts"
        );
        let (place, programs) = (Place::find()?, programs()?);
        ensure!(
            !cgroups::any(),
            "a cluster is there already; `cargo xtask cluster down` ends it"
        );
        clean(&place)?;
        for dir in ["logs", "run", "images"] {
            fs::create_dir_all(place.join(dir))?;
        }
        certificates::make(&place.join("pki"))?;
        config::write(&place, &programs.tools)?;
        images::pause(&place.join("images/pause.tar"))?;
        let supervisor = supervisor(&place)?;
        let mut running = Self {
            place,
            programs,
            supervisor,
            keep: false,
        };
        running.wait(stop)?;
        Ok(running)
    }

    /// Leaves the cluster running when this ends.
    pub(crate) fn leave(mut self) -> Result<Place> {
        if let Some(mut pipe) = self.supervisor.stdin.take() {
            // A byte before the end tells the supervisor to stay.
            pipe.write_all(b"k")?;
        }
        self.keep = true;
        Ok(self.place.clone())
    }

    /// Ends everything at once, as a power cut does, and starts the node from what is on its disk.
    pub(crate) fn reboot(&mut self, stop: &Stop) -> Result<()> {
        cgroups::kill_all()?;
        self.supervisor.wait()?;
        cgroups::remove_all()?;
        unlink();
        // What a machine has in memory only: sockets, and the state of what runs.
        for name in [self.place.join("run"), self.place.ready_file()] {
            crate::cache::remove(&name)?;
        }
        fs::create_dir_all(self.place.join("run"))?;
        self.supervisor = supervisor(&self.place)?;
        self.wait(stop)
    }

    fn wait(&mut self, stop: &Stop) -> Result<()> {
        let end = Instant::now() + UP_WITHIN;
        let mut linked = false;
        while !self.place.ready_file().exists() {
            stop.check()?;
            if let Some(status) = self.supervisor.try_wait()? {
                let mut said = String::new();
                File::open(self.place.log("supervisor"))?.read_to_string(&mut said)?;
                bail!(
                    "the cluster did not start ({status}):\n{}",
                    process::tail(&said)
                );
            }
            if !linked && Path::new("/sys/class/net").join(HOST_LINK).exists() {
                link()?;
                linked = true;
            }
            ensure!(
                Instant::now() < end,
                "the cluster is not ready after {} s",
                UP_WITHIN.as_secs()
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = end(&self.place) {
            eprintln!("clean-up: {error:#}");
        }
        let _ = self.supervisor.wait();
    }
}

/// Starts the process that is the node.
fn supervisor(place: &Place) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(place.log("supervisor"))?;
    let supervisor = Command::new(format!("/proc/{}/exe", std::process::id()))
        .args(["cluster", "node", "--follow-stdin", "--outside"])
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for us: we end it.
        .process_group(0)
        .spawn()
        .context("cannot start the supervisor")?;
    fs::write(place.pid_file(), supervisor.id().to_string())?;
    Ok(supervisor)
}

/// This machine's end of the link.
fn link() -> Result<()> {
    process::output(Command::new("ip").args([
        "addr",
        "add",
        &format!("{HOST_ADDRESS}/24"),
        "dev",
        HOST_LINK,
    ]))?;
    process::output(Command::new("ip").args(["link", "set", HOST_LINK, "up"]))?;
    // To the pods, for Prometheus. It goes with the link.
    process::output(Command::new("ip").args(["route", "add", PODS, "via", NODE_ADDRESS]))?;
    Ok(())
}

/// Removes the link: it would go with the node's namespace, but the kernel takes its time.
fn unlink() {
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        // It may go by itself meanwhile.
        let _ = process::output(Command::new("ip").args(["link", "delete", HOST_LINK]));
    }
}

/// Ends the cluster and removes all of it but its logs.
pub(crate) fn end(place: &Place) -> Result<()> {
    cgroups::kill_all()?;
    cgroups::remove_all()?;
    unlink();
    empty(place, Some("logs"))
}

/// Removes what an earlier cluster left, its logs too.
fn clean(place: &Place) -> Result<()> {
    cgroups::remove_all()?;
    unlink();
    fs::create_dir_all(&place.dir)?;
    empty(place, None)
}

/// Removes what is in the cluster's folder; the folder itself may be a mount.
fn empty(place: &Place, except: Option<&str>) -> Result<()> {
    for entry in fs::read_dir(&place.dir)?.flatten() {
        if except.is_none_or(|name| entry.file_name() != name) {
            crate::cache::remove(&entry.path())?;
        }
    }
    Ok(())
}
