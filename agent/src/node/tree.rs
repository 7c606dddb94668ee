//! Walks a cgroup hierarchy and finds a process in a cgroup.
//!
//! Cheap on purpose, it runs every few seconds over a thousand directories. Listing one is
//! the expensive part (each holds dozens of control files), so lists are kept: a directory's
//! number of links tells how many children it has, and while all the known ones are still
//! there and are that many, nothing changed.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Most directories visited; a node has a few thousand at most.
const MAX_DIRS: usize = 16_384;
/// Deepest directory visited.
const MAX_DEPTH: usize = 24;

/// A hierarchy, and the lists kept of it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    lists: HashMap<PathBuf, Vec<Dir>>,
}

/// A directory of the hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    /// Its inode number.
    pub inode: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Links to it: one from its parent, one from itself, one from each child.
    links: u64,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Walk {
    /// The root and all directories below it, parents first.
    pub dirs: Vec<Dir>,
    /// The bound was reached: there are more.
    pub cut: bool,
}

impl Dir {
    fn at(path: PathBuf) -> io::Result<Self> {
        let meta = fs::metadata(&path)?;
        Ok(Self {
            inode: meta.ino(),
            links: meta.nlink(),
            path,
        })
    }

    /// Whether it has no children. A file system that does not count links says 1.
    pub(super) const fn is_leaf(&self) -> bool {
        self.links == 2
    }
}

impl Tree {
    /// All cgroups at and below `root`.
    ///
    /// # Errors
    /// The root cannot be read. What vanishes or refuses further down is left out.
    pub(super) fn walk(&mut self, root: &Path) -> io::Result<Walk> {
        let mut found = Walk::default();
        let mut lists = HashMap::new();
        let mut open = vec![(Dir::at(root.to_owned())?, 0)];
        // An error of the root is the caller's to tell.
        drop(fs::read_dir(root)?);
        while let Some((dir, depth)) = open.pop() {
            if found.dirs.len() >= MAX_DIRS || depth >= MAX_DEPTH {
                found.cut = true;
                continue;
            }
            if !dir.is_leaf() {
                let children = self.children(&dir);
                open.extend(children.iter().map(|child| (child.clone(), depth + 1)));
                lists.insert(dir.path.clone(), children);
            }
            found.dirs.push(dir);
        }
        // Lists of directories that are gone are gone with them.
        self.lists = lists;
        Ok(found)
    }

    fn children(&mut self, dir: &Dir) -> Vec<Dir> {
        let Some(known) = self.lists.remove(&dir.path) else {
            return list(&dir.path);
        };
        let counted = u64::try_from(known.len()).is_ok_and(|count| count + 2 == dir.links);
        let again = |child: Dir| {
            Dir::at(child.path)
                .ok()
                .filter(|now| now.inode == child.inode)
        };
        let still: Option<Vec<Dir>> = known.into_iter().map(again).collect();
        still.filter(|_| counted).unwrap_or_else(|| list(&dir.path))
    }
}

fn list(path: &Path) -> Vec<Dir> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let dirs = entries.flatten().filter(is_dir);
    dirs.filter_map(|entry| Dir::at(entry.path()).ok())
        .collect()
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::fs;

    use super::Tree;

    #[test]
    fn what_appears_vanishes_or_is_replaced_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let mut tree = Tree::default();
        let mut names = || {
            let dirs = tree.walk(temp.path()).unwrap().dirs;
            let below = dirs
                .iter()
                .map(|dir| dir.path.strip_prefix(temp.path()).unwrap());
            let mut names: Vec<_> = below.map(|path| path.display().to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), [""]);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), "").unwrap();
        assert_eq!(names(), ["", "a", "a/b"]);
        assert_eq!(names(), ["", "a", "a/b"]);
        fs::create_dir(at("a/c")).unwrap();
        fs::remove_dir(at("a/b")).unwrap();
        assert_eq!(names(), ["", "a", "a/c"]);
        fs::remove_dir_all(at("a")).unwrap();
        assert_eq!(names(), [""]);
        assert!(tree.walk(&at("a")).is_err());
    }
}
