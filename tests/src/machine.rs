//! Settings of the whole machine, for the time of one scenario.
//!
//! Some limits of the kernel are one number for all namespaces. A scenario may change them only in a virtual
//! machine, which is thrown away, and runs alone there; they are put back all the same, because others come after it.
//!
//! It must never write anything on a machine that is not ours.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::spec::{Machine, Requirement, Scenario};

/// What was changed, and what it was before.
#[derive(Debug, Default)]
pub(crate) struct Changed(Vec<(PathBuf, String)>);

/// Whether this is one of our virtual machines.
pub(crate) fn is_ours() -> bool {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim() == "sidestep-vm"
}

/// Whether a scenario has to have the machine for itself.
pub(crate) fn is_alone(scenario: &Scenario) -> bool {
    let alone = [Requirement::Alone, Requirement::Vm];
    alone.iter().any(|one| scenario.requires.contains(one))
}

/// Changes the settings; dropping what is returned puts them back.
pub(crate) fn change(machine: &Machine) -> Result<Changed> {
    let mut changed = Changed::default();
    for (name, value) in &machine.sysctl {
        ensure!(
            is_ours(),
            "{name} is not changed on a machine that is not ours"
        );
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        let before =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        changed.0.push((path.clone(), before));
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(changed)
}

impl Drop for Changed {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            if let Err(error) = fs::write(path, before) {
                eprintln!("clean-up: cannot put {} back: {error}", path.display());
            }
        }
    }
}
