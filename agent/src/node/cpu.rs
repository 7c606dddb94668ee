//! CPU limits of a control group, of either version: what is allowed, and how often it was used up.

use std::{fs, path::Path, path::PathBuf};

use super::cgroup_name::CgroupName;
use crate::model::{CpuLevel, CpuLimit};

/// Both versions count periods by these names.
const PERIODS: &str = "nr_periods";
const THROTTLED: &str = "nr_throttled";

/// The limit of a container and the one of its pod, which is the directory above; none where there is
/// no limit. The first of `dirs` that has one counts: a container may be in a hierarchy of either version.
pub(super) fn limits(dirs: &[PathBuf]) -> Vec<CpuLimit> {
    let levels = |dir: &PathBuf| {
        let own = limit(dir, CpuLevel::Container);
        let pod = dir.parent().filter(|dir| is_pod(dir));
        let pod = pod.and_then(|dir| limit(dir, CpuLevel::Pod));
        own.into_iter().chain(pod).collect::<Vec<_>>()
    };
    let mut found = dirs.iter().map(levels);
    found.find(|limits| !limits.is_empty()).unwrap_or_default()
}

fn is_pod(dir: &Path) -> bool {
    CgroupName::parse(&dir.display().to_string()).is_pod()
}

fn limit(dir: &Path, level: CpuLevel) -> Option<CpuLimit> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
    let (quota_us, period_us) = match read("cpu.max") {
        Some(both) => {
            let (quota, period) = both.trim().split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
        // Without a limit it is -1, which is no number of this kind.
        None => (
            read("cpu.cfs_quota_us")?.trim().parse().ok()?,
            read("cpu.cfs_period_us")?.trim().parse().ok()?,
        ),
    };
    let stat = read("cpu.stat")?;
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(' ')?.parse::<u64>().ok()
    };
    // Version 1 counts nanoseconds.
    let throttled_us = value("throttled_usec").or_else(|| Some(value("throttled_time")? / 1_000));
    Some(CpuLimit {
        level,
        quota_us,
        period_us,
        periods: value(PERIODS)?,
        throttled: value(THROTTLED)?,
        throttled_us: throttled_us?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::{fs, path::Path};

    use super::limits;
    use crate::model::CpuLevel;

    const POD: &str = "kubepods/besteffort/pod0f3a4d8e-1111-4222-8333-444455556666";

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn both_versions_and_both_levels_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let pod = temp.path().join("v2").join(POD);
        let container = pod.join("a".repeat(64));
        let stat = "usage_usec 5\nnr_periods 30\nnr_throttled 20\nthrottled_usec 1500000\n";
        write(
            &container,
            &[("cpu.max", "20000 100000\n"), ("cpu.stat", stat)],
        );
        write(&pod, &[("cpu.max", "max 100000\n"), ("cpu.stat", stat)]);
        let found = limits(std::slice::from_ref(&container));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].quota_us, found[0].throttled_us),
            (20_000, 1_500_000)
        );
        write(&pod, &[("cpu.max", "50000 100000\n")]);
        let found = limits(std::slice::from_ref(&container));
        let levels: Vec<_> = found.iter().map(|limit| limit.level).collect();
        assert_eq!(levels, [CpuLevel::Container, CpuLevel::Pod]);

        // Version 2 without the controller, version 1 beside it.
        let bare = temp.path().join("bare").join(POD).join("b".repeat(64));
        write(&bare, &[("cpu.stat", "usage_usec 5\n")]);
        let old = temp.path().join("v1").join(POD).join("b".repeat(64));
        let stat = "nr_periods 3\nnr_throttled 2\nthrottled_time 2182502245\n";
        let files = [
            ("cpu.cfs_quota_us", "1000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.stat", stat),
        ];
        write(&old, &files);
        let found = limits(&[bare.clone(), old.clone()]);
        assert_eq!((found[0].throttled, found[0].throttled_us), (2, 2_182_502));
        write(&old, &[("cpu.cfs_quota_us", "-1\n")]);
        assert_eq!(limits(&[bare, old]), []);
    }
}
