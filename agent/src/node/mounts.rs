//! Which cgroup hierarchies this node has, from the mount table.
//!
//! Pure v2, v1 only, or both (hybrid): in a hybrid one the kernel reports ids of the v2
//! hierarchy, while a runtime may have made a pod's cgroups only in v1.

use std::path::PathBuf;

/// Hierarchies mounted where the agent can read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// The v2 hierarchy: its inodes are the ids the kernel reports.
    pub unified: Option<Mount>,
    /// One of v1: all of them have the same container directories.
    pub legacy: Option<Mount>,
    /// The one of v1 that limits CPU time.
    pub cpu: Option<Mount>,
    /// The one of v1 that limits memory.
    pub memory: Option<Mount>,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether all of it is visible there, not only a part (a cgroup namespace, a bind mount).
    pub whole: bool,
}

/// Controllers whose v1 hierarchy every runtime fills, best first.
const LEGACY: [&str; 5] = ["pids", "memory", "name=systemd", "cpu", "freezer"];

/// Reads `/proc/self/mountinfo`.
pub(super) fn hierarchies(mountinfo: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    let mut legacy_rank = LEGACY.len();
    for line in mountinfo.lines() {
        let Some((kind, options, mount)) = cgroup_mount(line) else {
            continue;
        };
        if kind == "cgroup2" {
            // A part of the hierarchy only if there is nothing better.
            if mount.whole || found.unified.is_none() {
                found.unified = Some(mount);
            }
            continue;
        }
        let has = |name: &str| options.split(',').any(|option| option == name);
        if has("cpu") {
            found.cpu = Some(mount.clone());
        }
        if has("memory") {
            found.memory = Some(mount.clone());
        }
        let rank = LEGACY.iter().position(|name| has(name));
        if let Some(rank) = rank.filter(|rank| *rank < legacy_rank) {
            legacy_rank = rank;
            found.legacy = Some(mount);
        }
    }
    found
}

/// File system type, its own options, and the mount, if the line is one of a cgroup hierarchy.
/// Fields: proc_pid_mountinfo(5).
fn cgroup_mount(line: &str) -> Option<(&str, &str, Mount)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after
        .next()
        .filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?;
    let options = after.nth(1).unwrap_or_default();
    let mut before = before.split(' ').skip(3);
    let root = before.next()?;
    let path = unescape(before.next()?);
    let mount = Mount {
        path: PathBuf::from(path),
        whole: root == "/",
    };
    Some((kind, options, mount))
}

/// Blanks and the like are written as octal escapes.
fn unescape(field: &str) -> String {
    let plain = field.replace("\\040", " ").replace("\\011", "\t");
    plain.replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Mount, hierarchies};

    const PURE: &str = "24 18 0:21 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
        25 18 0:22 / /proc rw - proc proc rw\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        33 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const LEGACY: &str =
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    const NAMESPACED: &str = "24 18 0:21 /../../kubepods /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
        25 18 0:21 / /host/sys\\040fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn finds_what_is_mounted() {
        let mount = |path: &str| {
            Some(Mount {
                path: PathBuf::from(path),
                whole: true,
            })
        };
        for (table, unified, legacy, cpu, memory) in [
            (PURE, mount("/sys/fs/cgroup"), None, None, None),
            (
                HYBRID,
                mount("/sys/fs/cgroup/unified"),
                mount("/sys/fs/cgroup/pids"),
                mount("/sys/fs/cgroup/cpu,cpuacct"),
                mount("/sys/fs/cgroup/memory"),
            ),
            (LEGACY, None, mount("/sys/fs/cgroup/systemd"), None, None),
            (NAMESPACED, mount("/host/sys fs/cgroup"), None, None, None),
            ("garbage\n1 2 - cgroup2\n", None, None, None, None),
        ] {
            let found = hierarchies(table);
            assert_eq!(found.unified, unified, "{table}");
            assert_eq!(found.legacy, legacy, "{table}");
            assert_eq!(found.cpu, cpu, "{table}");
            assert_eq!(found.memory, memory, "{table}");
        }
    }
}
