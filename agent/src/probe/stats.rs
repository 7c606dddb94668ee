//! The kernel side's own account: what was lost where, how full, how long it runs.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use sidestep_abi::COUNTER_NAMES;

use super::{ProbeError, sys};
use crate::model::{Loss, ProgramStats};

/// The probes' counters by name.
pub(super) fn counters(ebpf: &Ebpf) -> Vec<Loss> {
    let array = ebpf
        .map("COUNTERS")
        .and_then(|map| Array::<&MapData, u64>::try_from(map).ok());
    COUNTER_NAMES
        .iter()
        .zip(0_u32..)
        .map(|(name, index)| Loss {
            at: (*name).to_owned(),
            count: array
                .as_ref()
                .and_then(|a| a.get(&index, 0).ok())
                .unwrap_or(0),
        })
        .collect()
}

/// Runs skipped because the same program was interrupted on that CPU (Linux 5.12).
pub(super) fn skipped_runs(ebpf: &Ebpf) -> u64 {
    ebpf.programs()
        .filter_map(|(_, program)| program.fd().ok())
        .filter_map(|fd| sys::recursion_misses(fd.as_fd()).ok())
        .sum()
}

/// Run counts and times of the loaded programs.
pub(super) fn programs(ebpf: &Ebpf) -> Vec<ProgramStats> {
    infos(ebpf)
        .map(|(name, info)| ProgramStats {
            program: name.to_owned(),
            runs: info.run_count(),
            run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        })
        .collect()
}

fn infos(ebpf: &Ebpf) -> impl Iterator<Item = (&str, ProgramInfo)> {
    ebpf.programs()
        .filter_map(|(name, program)| Some((name, program.info().ok()?)))
}

/// Switches the kernel's statistics on until the returned handle is dropped (Linux 5.8).
///
/// # Errors
/// [`ProbeError::System`] with the kernel's answer.
pub(super) fn enable() -> Result<OwnedFd, ProbeError> {
    enable_stats(Stats::RunTime).map_err(|error| ProbeError::System {
        what: "cannot switch on BPF statistics".into(),
        source: error.io_error,
    })
}
