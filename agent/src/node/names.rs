//! Network namespaces kept by name: files of the namespace file system, mounted into a
//! directory by a container runtime or by `ip netns`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{enter, scanner::Paths};
use crate::model::NetnsId;

/// The names found.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<PathBuf, Listed>);

#[derive(Debug)]
struct Listed {
    modified: Option<SystemTime>,
    files: BTreeMap<PathBuf, Option<NetnsId>>,
}

impl Names {
    /// Looks at the directories. A file is asked again while it stands for no namespace (it is
    /// made first, and mounted upon later), and all of them when their directory changed.
    pub(super) fn look(&mut self, paths: &Paths, closely: bool) {
        let Ok(own) = fs::metadata(paths.proc.join("self/ns/net")) else {
            return;
        };
        for dir in &paths.named {
            let modified = fs::metadata(dir).ok().and_then(|meta| meta.modified().ok());
            let known = self
                .0
                .remove(dir)
                .filter(|known| known.modified == modified);
            let mut files = match known {
                Some(known) if !closely => known.files,
                _ => list(dir),
            };
            for (path, netns) in files.iter_mut().filter(|(_, netns)| netns.is_none()) {
                *netns = netns_at(path, own.dev());
            }
            self.0.insert(dir.clone(), Listed { modified, files });
        }
    }

    /// All names that stand for a namespace.
    pub(super) fn found(&self) -> impl Iterator<Item = (NetnsId, &Path)> {
        let files = self.0.values().flat_map(|listed| &listed.files);
        files.filter_map(|(path, netns)| Some(((*netns)?, path.as_path())))
    }
}

fn list(dir: &Path) -> BTreeMap<PathBuf, Option<NetnsId>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| (entry.path(), None)).collect()
}

/// A name whose namespace is not there yet, or not any more, is a plain file.
fn netns_at(path: &Path, device: u64) -> Option<NetnsId> {
    let meta = fs::metadata(path)
        .ok()
        .filter(|meta| meta.dev() == device)?;
    enter::inode(&meta)
}
