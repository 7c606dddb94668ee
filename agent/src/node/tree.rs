//! Walks a cgroup hierarchy and finds a process in a cgroup.
//!
//! Cheap on purpose, it runs every other second over a thousand directories: a directory's
//! inode number comes with the listing of its parent, its number of links tells whether it
//! has children at all, and files are not touched.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Most directories visited; a node has a few thousand at most.
const MAX_DIRS: usize = 16_384;
/// Deepest directory visited.
const MAX_DEPTH: usize = 24;

/// A directory of the hierarchy.
pub(super) struct Dir {
    /// Its inode number.
    pub inode: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Walk {
    /// All directories below the root, parents first, and the root itself.
    pub dirs: Vec<Dir>,
    /// The bound was reached: there are more.
    pub cut: bool,
}

/// All cgroups at and below `root`.
///
/// # Errors
/// The root cannot be read. What vanishes or refuses further down is left out.
pub(super) fn walk(root: &Path) -> io::Result<Walk> {
    let mut found = Walk::default();
    let inode = fs::metadata(root)?.ino();
    let mut open = vec![(inode, root.to_owned(), 0)];
    // An error of the root is the caller's to tell.
    drop(fs::read_dir(root)?);
    while let Some((inode, path, depth)) = open.pop() {
        if found.dirs.len() >= MAX_DIRS || depth >= MAX_DEPTH {
            found.cut = true;
            continue;
        }
        if has_children(&path) {
            for (inode, child) in children(&path) {
                open.push((inode, child, depth + 1));
            }
        }
        found.dirs.push(Dir { inode, path });
    }
    Ok(found)
}

/// A directory has a link from its parent, one from itself and one from each child.
fn has_children(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.nlink() != 2)
}

fn children(path: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let dirs = entries.flatten().filter(is_dir);
    dirs.map(|entry| (entry.ino(), entry.path())).collect()
}

/// Some processes of a cgroup (not of its children); 0 stands for one that the agent's pid
/// namespace does not contain.
pub(super) fn processes(cgroup: &Path) -> Vec<u32> {
    // A few suffice: they share their namespace, and only a dying one refuses to tell it.
    let mut start = [0_u8; 64];
    let read = File::open(cgroup.join("cgroup.procs")).and_then(|mut file| file.read(&mut start));
    let Ok(read) = read else {
        return Vec::new();
    };
    let start = start.get(..read).unwrap_or_default();
    // The last line may be cut short.
    let whole = start.split_inclusive(|byte| *byte == b'\n');
    whole
        .filter(|line| line.ends_with(b"\n"))
        .filter_map(|line| std::str::from_utf8(line).ok()?.trim().parse().ok())
        .collect()
}
