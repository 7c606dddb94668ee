//! The cluster's cgroups: how everything of it is found, ended and removed, however it came to run.
//!
//! The supervisor moves itself into a cgroup first; daemons, shims and containers inherit it or are below it. So nothing
//! is ended by its name, and nothing that was started outside is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::CGROUP;

/// Controllers of version 2 that a kubelet knows.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "hugetlb", "pids"];
/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// Every mounted hierarchy's cgroup of the cluster; the version 2 one first.
fn roots() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<(bool, PathBuf)> = table
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let legacy = match after.split(' ').next()? {
                "cgroup2" => false,
                "cgroup" => true,
                _ => return None,
            };
            Some((
                legacy,
                PathBuf::from(before.split(' ').nth(4)?).join(CGROUP),
            ))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Makes them and moves this process in: into a leaf, because inner nodes of version 2 hold no processes.
pub(crate) fn enter() -> Result<()> {
    let roots = roots();
    let Some(unified) = roots.first().filter(|root| !is_legacy(root)) else {
        bail!(
            "no cgroup hierarchy of version 2 is mounted: mount one, as at /sys/fs/cgroup/unified"
        );
    };
    for root in &roots {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        // A new cpuset is empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (true, Some(parent)) = (is_legacy(root), root.parent())
                && let Ok(all) = fs::read(parent.join(file))
            {
                fs::write(root.join(file), all)?;
            }
        }
    }
    hand_down(unified)?;
    let leaf = unified.join("system");
    fs::create_dir_all(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot move into {}", leaf.display()))
}

/// In version 2 a cgroup has those controllers that the one above hands down to it; a kubelet wants all it knows. Where
/// version 1 has them, there are none to hand down.
fn hand_down(unified: &Path) -> Result<()> {
    let Some(parent) = unified.parent() else {
        return Ok(());
    };
    let there = fs::read_to_string(parent.join("cgroup.controllers"))?;
    let given = fs::read_to_string(unified.join("cgroup.controllers"))?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for name in CONTROLLERS {
        if has(&there, name) && !has(&given, name) {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{name}"))
                .with_context(|| format!("cannot hand the controller {name} down"))?;
        }
    }
    Ok(())
}

/// Ends every process of the cluster, including the caller if it is one.
pub(crate) fn kill_all() -> Result<()> {
    let end = Instant::now() + GONE_WITHIN;
    let roots = roots();
    loop {
        for root in roots.iter().filter(|root| root.is_dir()) {
            // One write ends a whole tree at once, from Linux 5.14 on; before, and in version 1, one by one.
            let _ = fs::write(root.join("cgroup.kill"), "1");
        }
        let rest: Vec<i32> = roots.iter().flat_map(|root| processes(root)).collect();
        if rest.is_empty() {
            return Ok(());
        }
        for pid in rest.iter().filter(|pid| **pid > 1) {
            // It may be gone already.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if Instant::now() >= end {
            bail!("processes {rest:?} of the cluster do not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes the cgroups; there must be no process left in them.
pub(crate) fn remove_all() -> Result<()> {
    for root in roots() {
        let mut dirs = below(&root);
        dirs.reverse();
        for dir in dirs {
            // The kernel needs a moment to forget the last process.
            let end = Instant::now() + GONE_WITHIN;
            while let Err(error) = fs::remove_dir(&dir) {
                if Instant::now() >= end {
                    return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
                }
                std::thread::sleep(Duration::from_millis(25));
            }
        }
    }
    Ok(())
}

/// Whether anything of the cluster runs.
pub(crate) fn any() -> bool {
    roots().iter().any(|root| !processes(root).is_empty())
}

fn is_legacy(root: &Path) -> bool {
    root.parent()
        .is_some_and(|parent| !parent.join("cgroup.controllers").exists())
}

fn processes(root: &Path) -> Vec<i32> {
    below(root)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A cgroup and all below it, parents first.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        if let Ok(entries) = fs::read_dir(&dir) {
            open.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
            found.push(dir);
        }
    }
    found
}
