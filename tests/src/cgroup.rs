//! cgroup v2 folders with the kubelet's layout.
//!
//! The agent knows containers by `kubepods/besteffort/pod<UID>/<container id>`, so the harness makes exactly that
//! under the v2 root of this machine, wherever it is mounted. The folders of the pods are its own; `kubepods` itself is
//! shared with whoever else runs on the machine and goes only when it is empty.
//!
//! It must never kill or remove anything outside the folders it made.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The root of the unified hierarchy, from the mount table.
pub(crate) fn root() -> Result<PathBuf> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    table
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split_whitespace().nth(4)?;
            right.starts_with("cgroup2 ").then(|| PathBuf::from(point))
        })
        .ok_or_else(|| {
            anyhow!("no cgroup v2 is mounted: run `mount -t cgroup2 none /sys/fs/cgroup` (or .../unified beside v1)")
        })
}

/// Something a hierarchy limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controller {
    name: &'static str,
    /// The file with the limit, in version 1 and in version 2.
    files: [&'static str; 2],
}

/// CPU time.
pub(crate) const CPU: Controller = Controller {
    name: "cpu",
    files: ["cpu.cfs_quota_us", "cpu.max"],
};

/// Memory.
pub(crate) const MEMORY: Controller = Controller {
    name: "memory",
    files: ["memory.limit_in_bytes", "memory.max"],
};

impl Controller {
    /// The hierarchy that limits it: the unified one, or the one of version 1 beside it.
    pub(crate) fn root(self) -> Option<PathBuf> {
        let unified = root().ok()?;
        let controllers = fs::read_to_string(unified.join("cgroup.controllers")).ok()?;
        if controllers.split_whitespace().any(|name| name == self.name) {
            return Some(unified);
        }
        let [file, _] = self.files;
        let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
        table.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let options = right.strip_prefix("cgroup ")?.split_whitespace().last()?;
            let point = PathBuf::from(left.split_whitespace().nth(4)?);
            let limits = options.split(',').any(|name| name == self.name);
            (limits && point.join(file).exists()).then_some(point)
        })
    }

    /// Limits a folder below that root; the values are those for the files.
    fn limit(self, root: &Path, dir: &Path, values: [&str; 2]) -> Result<()> {
        let write = |file: PathBuf, text: &str| {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        let [v1, v2] = self.files.map(|file| dir.join(file));
        if v1.exists() {
            return write(v1, values[0]);
        }
        let below = dir
            .strip_prefix(root)
            .context("a folder of another hierarchy")?;
        let mut parent = root.to_path_buf();
        for name in below {
            let file = parent.join("cgroup.subtree_control");
            write(file, &format!("+{}", self.name))?;
            parent.push(name);
        }
        write(v2, values[1])
    }
}

/// All hierarchies in which the harness makes folders.
pub(crate) fn roots() -> Vec<PathBuf> {
    let limiting = [CPU, MEMORY].into_iter().filter_map(Controller::root);
    let mut all: Vec<PathBuf> = root().into_iter().chain(limiting).collect();
    all.sort();
    all.dedup();
    all
}

/// Limits a folder to so many thousandths of a CPU, as a kubelet does.
pub(crate) fn limit_cpu(root: &Path, dir: &Path, millicores: u32) -> Result<()> {
    let quota = u64::from(millicores) * 100;
    let values = [quota.to_string(), format!("{quota} 100000")];
    CPU.limit(root, dir, [&values[0], &values[1]])
}

/// Limits a folder to so many MiB of memory.
pub(crate) fn limit_memory(root: &Path, dir: &Path, mib: u32) -> Result<()> {
    let bytes = (u64::from(mib) << 20).to_string();
    MEMORY.limit(root, dir, [&bytes, &bytes])
}

/// The parent of all pods.
pub(crate) fn pods(root: &Path) -> PathBuf {
    root.join("kubepods").join("besteffort")
}

/// Makes a folder and its parents.
pub(crate) fn make(dir: &Path) -> Result<()> {
    // Somebody else may remove an empty parent between two steps.
    let mut tries = 0;
    loop {
        match fs::create_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if tries >= 5 => {
                return Err(error)
                    .with_context(|| format!("cannot make the cgroup {}", dir.display()));
            }
            Err(_) => tries += 1,
        }
    }
}

/// Kills every process of a folder and its children, and removes it. Says what could not be removed.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while dir.exists() {
        for child in tree(dir) {
            for pid in processes(&child) {
                // It may be gone already.
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = fs::remove_dir(&child);
        }
        if Instant::now() > deadline {
            return Err(anyhow!("cannot remove the cgroup {}", dir.display()));
        }
        if dir.exists() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Removes `kubepods` if nobody else uses it.
pub(crate) fn remove_parents(root: &Path) {
    let pods = pods(root);
    if fs::remove_dir(&pods).is_ok() {
        let _ = fs::remove_dir(root.join("kubepods"));
    }
}

/// A folder and everything below it, children first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(tree(&entry.path()));
        }
    }
    all.push(dir.to_path_buf());
    all
}

/// The processes of one folder.
fn processes(dir: &Path) -> Vec<Pid> {
    fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .map(Pid::from_raw)
        .collect()
}
