//! What could not be read in one look at the node, made into words.

use std::{collections::BTreeMap, io};

/// Things that could not be read.
#[derive(Default)]
pub(super) struct Refused {
    /// Why a process's namespace may not be read. Without a count and a number: they change
    /// with every process, and each change would be told.
    link: Option<String>,
    /// Whether a cgroup's processes are in another pid namespace.
    foreign: bool,
    other: BTreeMap<&'static str, String>,
}

impl Refused {
    /// The link of a process's namespace could not be read.
    pub(super) fn link(&mut self, error: &io::Error) {
        // A process that is gone, or going, is nobody's fault.
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.link = Some(error.to_string());
        }
    }

    /// A cgroup holds a process that has no number here.
    pub(super) fn foreign(&mut self) {
        self.foreign = true;
    }

    /// A source of identity failed: what, where, and what to do.
    pub(super) fn source(&mut self, source: &'static str, text: String) {
        self.other.insert(source, text);
    }

    /// By source: what is wrong with it.
    pub(super) fn told(self) -> BTreeMap<&'static str, String> {
        let mut troubles = self.other;
        if let Some(error) = self.link {
            let text = format!(
                "/proc/PID/ns/net of some processes: {error}: their pods are not known. Run the agent as root with CAP_SYS_PTRACE"
            );
            troubles.entry("proc").or_insert(text);
        }
        if self.foreign {
            let text = "cgroups hold processes that the agent's pid namespace does not contain: their pods are not known. Run the agent in the host's pid namespace (hostPID: true)";
            troubles.entry("proc").or_insert_with(|| text.to_owned());
        }
        troubles
    }
}
