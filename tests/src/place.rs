//! Where a process lives: network namespace, cgroup, uid and gid.
//!
//! The harness starts every process of a pod as itself with these arguments, and the new process moves itself before
//! it does anything else. So the socket owner, the cgroup and the credentials that the kernel sees are those of a real
//! container's process, and no `unsafe` code has to run between fork and exec.
//!
//! It must never open a socket before it has entered its place.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Where to live.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Place {
    /// Network namespace to enter
    #[arg(long)]
    pub(crate) netns: Option<PathBuf>,
    /// cgroup v2 folder to move to
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
    /// Folders of other hierarchies, where CPU time or memory is limited, to move to as well
    #[arg(long)]
    pub(crate) limited: Vec<PathBuf>,
    /// User to become
    #[arg(long)]
    pub(crate) uid: Option<u32>,
    /// Group to become
    #[arg(long)]
    pub(crate) gid: Option<u32>,
}

impl Place {
    /// Moves the calling process there, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        self.enter_namespaces()?;
        self.become_user()
    }

    /// Moves to the cgroup and the namespace and stays root.
    pub(crate) fn enter_namespaces(&self) -> Result<()> {
        // The harness blocks signals for its own watcher thread, and children inherit that.
        SigSet::all()
            .thread_unblock()
            .context("cannot unblock signals")?;
        for cgroup in self.limited.iter().chain(&self.cgroup) {
            fs::write(cgroup.join("cgroup.procs"), "0")
                .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))?;
        }
        if let Some(netns) = &self.netns {
            let file =
                File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", netns.display()))?;
        }
        Ok(())
    }

    /// Gives up root, for good.
    pub(crate) fn become_user(&self) -> Result<()> {
        if let Some(gid) = self.gid.map(Gid::from_raw) {
            setgroups(&[]).context("cannot drop groups")?;
            setresgid(gid, gid, gid).with_context(|| format!("cannot become group {gid}"))?;
        }
        if let Some(uid) = self.uid.map(Uid::from_raw) {
            setresuid(uid, uid, uid).with_context(|| format!("cannot become user {uid}"))?;
        }
        Ok(())
    }

    /// Adds the place to the arguments of a command of this program.
    pub(crate) fn add_to(&self, command: &mut Command) {
        if let Some(netns) = &self.netns {
            command.arg("--netns").arg(netns);
        }
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        for limited in &self.limited {
            command.arg("--limited").arg(limited);
        }
        if let Some(uid) = self.uid {
            command.arg("--uid").arg(uid.to_string());
        }
        if let Some(gid) = self.gid {
            command.arg("--gid").arg(gid.to_string());
        }
    }
}
