//! Memory of a pod's control groups, of either version: what is allowed, what is used, and how often the
//! kernel killed a process for want of it.
//!
//! A runtime removes a container's control group a moment after its last process ended, and the count with it.
//! In version 2 the pod's own keeps it; in version 1 it is there to be read for that moment only.

use std::{fs, path::Path, path::PathBuf};

use super::cgroup_name::CgroupName;
use crate::model::MemoryUse;

/// Limits from here on are version 1's way to say that there is none.
const NO_LIMIT: u64 = 1 << 60;

/// The memory of a pod and of all its containers that are there. `dirs` are the pod's directories, one in each
/// hierarchy that may count memory; the first that does is read.
pub(super) fn of_pod(dirs: &[PathBuf]) -> Vec<MemoryUse> {
    let Some((dir, pod)) = dirs.iter().find_map(|dir| Some((dir, read(dir, None)?))) else {
        return Vec::new();
    };
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let containers = below.filter_map(|entry| {
        let path = entry.path();
        let id = CgroupName::parse(&path.display().to_string()).container_id?;
        read(&path, Some(id))
    });
    let mut all: Vec<MemoryUse> = containers.collect();
    all.sort_by(|a, b| a.container_id.cmp(&b.container_id));
    all.insert(0, pod);
    all
}

fn read(dir: &Path, container_id: Option<String>) -> Option<MemoryUse> {
    let text = |file: &str| fs::read_to_string(dir.join(file)).ok();
    let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
    let kills = |text: String| {
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("oom_kill "))?;
        count.trim().parse().ok()
    };
    Some(match text("memory.events") {
        Some(events) => MemoryUse {
            container_id,
            kills: kills(events)?,
            used: number("memory.current")?,
            peak: number("memory.peak"),
            // Without a limit it is `max`, which is no number.
            limit: number("memory.max"),
        },
        None => MemoryUse {
            container_id,
            // Kernels before 4.13 do not count.
            kills: kills(text("memory.oom_control")?)?,
            used: number("memory.usage_in_bytes")?,
            peak: number("memory.max_usage_in_bytes"),
            limit: number("memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT),
        },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::{fs, path::Path};

    use super::of_pod;
    use crate::model::MemoryUse;

    const POD: &str = "kubepods/besteffort/pod0f3a4d8e-1111-4222-8333-444455556666";

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    fn container(kills: u64, peak: Option<u64>, limit: Option<u64>) -> MemoryUse {
        MemoryUse {
            container_id: Some("a".repeat(64)),
            kills,
            used: 4096,
            peak,
            limit,
        }
    }

    #[test]
    fn version_2_tells_of_the_pod_and_its_containers() {
        let temp = tempfile::tempdir().unwrap();
        let pod = temp.path().join(POD);
        let events = "low 0\nhigh 0\nmax 70\noom 3\noom_kill 2\noom_group_kill 0\n";
        let files = [
            ("memory.events", events),
            ("memory.current", "8192\n"),
            ("memory.max", "max\n"),
        ];
        write(&pod, &files);
        assert_eq!(of_pod(std::slice::from_ref(&pod)).len(), 1);
        let files = [
            ("memory.events", "oom 1\noom_kill 1\n"),
            ("memory.current", "4096\n"),
            ("memory.peak", "16777216\n"),
            ("memory.max", "16777216\n"),
        ];
        write(&pod.join("a".repeat(64)), &files);
        write(&pod.join("something-else"), &files);
        let found = of_pod(&[temp.path().join("nothing"), pod]);
        let whole = MemoryUse {
            container_id: None,
            kills: 2,
            used: 8192,
            peak: None,
            limit: None,
        };
        let limit = Some(16 << 20);
        assert_eq!(found, [whole, container(1, limit, limit)]);
    }

    #[test]
    fn version_1_does() {
        let temp = tempfile::tempdir().unwrap();
        let pod = temp.path().join(POD);
        let files = |kills: &'static str, limit: &'static str| {
            [
                ("memory.oom_control", kills),
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.max_usage_in_bytes", "9000\n"),
                ("memory.limit_in_bytes", limit),
            ]
        };
        let none = "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n";
        write(&pod, &files(none, "9223372036854771712\n"));
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
        write(&pod.join("a".repeat(64)), &files(one, "12288\n"));
        let found = of_pod(&[pod]);
        assert_eq!((found[0].kills, found[0].limit), (0, None));
        assert_eq!(found[1], container(1, Some(9000), Some(12288)));
    }
}
