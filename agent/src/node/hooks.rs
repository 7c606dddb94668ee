//! Whether somebody has a BPF hook inside connect(2) of a container.
//!
//! The answer for one cgroup includes every cgroup above it, so a hook for all pods is found at
//! the first container, and one for a single pod when that pod is looked at: new ones at once,
//! the others a few per scan. Once one is found, nobody is asked any more: what is attached
//! because of it stays.
//!
//! It must never take more than a moment of a scan, however many containers there are.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use crate::model::CgroupId;

/// Asks the kernel about the directory of one cgroup.
pub type AskHook = fn(&Path) -> io::Result<bool>;

/// Most containers asked about in one scan; each costs four system calls.
const MAX_ASKED: usize = 64;
/// Known containers asked about again in one scan.
const AGAIN: usize = 16;

/// What is known about hooks.
#[derive(Debug)]
pub(super) struct Hooks {
    ask: Option<AskHook>,
    asked: BTreeSet<CgroupId>,
    /// The last one that was asked about again.
    cursor: CgroupId,
    /// One was found.
    pub(super) found: bool,
    /// Why the kernel does not tell, for people.
    pub(super) trouble: Option<String>,
}

impl Hooks {
    pub(super) const fn new(ask: Option<AskHook>) -> Self {
        Self {
            ask,
            asked: BTreeSet::new(),
            cursor: CgroupId(0),
            found: false,
            trouble: None,
        }
    }

    /// Asks about some of the containers there are.
    pub(super) fn look(&mut self, containers: impl Iterator<Item = (CgroupId, PathBuf)>) {
        let Some(ask) = self.ask.filter(|_| !self.found) else {
            return;
        };
        let all: Vec<(CgroupId, PathBuf)> = containers.collect();
        let known = std::mem::take(&mut self.asked);
        let new = all.iter().filter(|(id, _)| !known.contains(id));
        let (before, after): (Vec<_>, Vec<_>) = all
            .iter()
            .filter(|(id, _)| known.contains(id))
            .partition(|(id, _)| *id <= self.cursor);
        let again: Vec<_> = after.into_iter().chain(before).take(AGAIN).collect();
        if let Some((last, _)) = again.last() {
            self.cursor = *last;
        }
        self.asked = all.iter().map(|(id, _)| *id).collect();
        self.asked.retain(|id| known.contains(id));
        for (id, path) in new.take(MAX_ASKED).chain(again) {
            self.asked.insert(*id);
            match ask(path) {
                Ok(found) => self.found |= found,
                // It went away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.trouble = Some(trouble(&error)),
            }
        }
    }
}

fn trouble(error: &io::Error) -> String {
    format!(
        "whether a BPF hook rewrites destinations inside connect(2) cannot be asked ({error}): such destinations are taken for those asked for. Give the agent CAP_NET_ADMIN"
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::{Path, PathBuf},
    };

    use super::Hooks;
    use crate::model::CgroupId;

    fn containers(count: u64) -> impl Iterator<Item = (CgroupId, PathBuf)> {
        (1..=count).map(|id| (CgroupId(id), PathBuf::from(format!("/c/{id}"))))
    }

    fn only_77(path: &Path) -> io::Result<bool> {
        Ok(path == Path::new("/c/77"))
    }

    #[test]
    fn every_container_has_its_turn_and_a_hook_ends_the_search() {
        let mut hooks = Hooks::new(Some(only_77));
        hooks.look(containers(60));
        assert!(!hooks.found);
        // Attached to a pod that is known for long: found when its turn comes again.
        fn only_50(path: &Path) -> io::Result<bool> {
            Ok(path == Path::new("/c/50"))
        }
        hooks.ask = Some(only_50);
        for _ in 0..4 {
            hooks.look(containers(60));
        }
        assert!(hooks.found);
        let mut hooks = Hooks::new(Some(only_77));
        for _ in 0..2 {
            hooks.look(containers(100));
        }
        assert!(hooks.found, "more new ones than are asked about at once");
    }

    #[test]
    fn a_kernel_that_refuses_is_told_and_a_container_that_is_gone_is_not() {
        let mut hooks = Hooks::new(Some(|_| Err(io::ErrorKind::NotFound.into())));
        hooks.look(containers(3));
        assert_eq!(hooks.trouble, None);
        let mut hooks = Hooks::new(Some(|_| Err(io::ErrorKind::PermissionDenied.into())));
        hooks.look(containers(3));
        assert!(
            hooks
                .trouble
                .is_some_and(|text| text.contains("CAP_NET_ADMIN"))
        );
    }
}
