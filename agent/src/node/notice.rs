//! Tells at once that a container or a namespace appeared, by inotify(7).
//!
//! Only a hint: what is new is found by a scan, and a scan happens now and then anyway. So
//! a watch that cannot be had (their number is limited) makes the agent slower, not wrong.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Most directories watched: a tenth of what a user may have by default.
const MAX_WATCHES: usize = 4_096;

/// Watched directories.
pub(super) struct Notices {
    inotify: Inotify,
    watched: HashMap<PathBuf, WatchDescriptor>,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

impl Notices {
    /// Nothing is watched yet.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
            watched: HashMap::new(),
            paths: HashMap::new(),
        })
    }

    /// Watches these directories, too; whether any of them is new.
    pub(super) fn watch<'a>(&mut self, dirs: impl Iterator<Item = &'a Path>) -> bool {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        let mut new = false;
        for dir in dirs {
            if self.watched.len() >= MAX_WATCHES {
                break;
            }
            if self.watched.contains_key(dir) {
                continue;
            }
            if let Ok(id) = self.inotify.add_watch(dir, flags) {
                self.watched.insert(dir.to_owned(), id);
                self.paths.insert(id, dir.to_owned());
                new = true;
            }
        }
        new
    }

    /// Takes all notices; whether there was any.
    pub(super) fn take(&mut self) -> bool {
        let mut any = false;
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                any = true;
                // The directory is gone, and its watch with it.
                if event.mask.contains(AddWatchFlags::IN_IGNORED)
                    && let Some(path) = self.paths.remove(&event.wd)
                {
                    self.watched.remove(&path);
                }
            }
        }
        any
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
