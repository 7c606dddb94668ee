//! Visits network namespaces: the only place that changes into one.
//!
//! A visit is a thread that ends with it. The agent's own threads never change namespace,
//! and nothing that was opened inside outlives the visit, so that a pod's namespace goes
//! away the moment its last process does.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::model::NetnsId;

/// Of a visit's thread. What ends gives back all of it, page by page, used or not: of the usual two
/// megabytes that is a third of what a visit costs.
const STACK: usize = 256 << 10;

/// Runs `look` in each namespace, given by its file; what it found, or why not, in the same order.
pub(super) fn visit<T: Send>(
    places: &[(NetnsId, PathBuf)],
    look: impl Fn(NetnsId) -> io::Result<T> + Sync,
) -> Vec<(NetnsId, io::Result<T>)> {
    if places.is_empty() {
        return Vec::new();
    }
    let all = || {
        let one = |(netns, path): &(NetnsId, PathBuf)| {
            (*netns, enter(*netns, path).and_then(|()| look(*netns)))
        };
        places.iter().map(one).collect::<Vec<_>>()
    };
    let visited = thread::scope(|scope| {
        let builder = thread::Builder::new()
            .name("netns-visit".to_owned())
            .stack_size(STACK);
        let thread = builder.spawn_scoped(scope, all)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the visiting thread failed"))
    });
    visited.unwrap_or_else(|error| {
        let failed = |(netns, _): &(NetnsId, PathBuf)| {
            (*netns, Err(io::Error::new(error.kind(), error.to_string())))
        };
        places.iter().map(failed).collect()
    })
}

/// Moves the calling thread. Between looking and opening, the process of that number may
/// have become another one: the inode decides.
fn enter(netns: NetnsId, path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if inode(&file.metadata()?) != Some(netns) {
        return Err(io::ErrorKind::NotFound.into());
    }
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// The namespace a file stands for.
pub(super) fn inode(meta: &fs::Metadata) -> Option<NetnsId> {
    meta.ino().try_into().ok().map(NetnsId)
}

/// The network namespace of a process, from its link alone: nothing is opened.
pub(super) fn of_process(proc: &Path, pid: u32) -> io::Result<NetnsId> {
    let link = fs::read_link(ns_file(proc, pid))?;
    // `net:[4026531840]`
    let text = link.to_str().unwrap_or_default();
    let digits = text.strip_prefix("net:[").and_then(|t| t.strip_suffix(']'));
    let inode = digits.and_then(|digits| digits.parse().ok());
    inode
        .map(NetnsId)
        .ok_or_else(|| io::Error::other(format!("unexpected link {text:?}")))
}

/// The file of a process's network namespace.
pub(super) fn ns_file(proc: &Path, pid: u32) -> PathBuf {
    proc.join(pid.to_string()).join("ns/net")
}
