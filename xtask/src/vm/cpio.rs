//! Writes the archive format a Linux kernel unpacks as its first root file system ("newc" cpio).
//!
//! Archives may follow one another: later files are added to earlier ones, which is how a prepared base and the files of one
//! run become one image without copying the base. Parent folders are added by themselves. Nothing is compressed:
//! unpacking costs more than reading, above all without hardware virtualisation.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
/// The header's fixed part: the magic and thirteen numbers of eight digits.
const HEADER_BYTES: usize = 6 + 13 * 8;
/// The end mark of an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written; call [`Archive::finish`] at the end.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    folders: BTreeSet<PathBuf>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            folders: BTreeSet::new(),
            inode: 0,
        }
    }

    /// Adds a folder and those above it; one that was added before is left as it is.
    pub(crate) fn folder(&mut self, path: &Path) -> Result<()> {
        let path = relative(path);
        if path.as_os_str().is_empty() || self.folders.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.folders.insert(path.to_path_buf());
        self.header(path, DIRECTORY | 0o755, 0)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.content(path, SYMLINK | 0o777, target.as_bytes())
    }

    /// Adds a file with the given content.
    pub(crate) fn text(&mut self, path: &Path, mode: u32, content: &str) -> Result<()> {
        self.content(path, REGULAR | mode, content.as_bytes())
    }

    /// Adds a file of this machine, with its permissions; a folder is added with all that is in it.
    pub(crate) fn copy(&mut self, host: &Path, path: &Path) -> Result<()> {
        let meta = host
            .metadata()
            .with_context(|| format!("cannot read {}", host.display()))?;
        if meta.is_dir() {
            self.folder(path)?;
            for entry in fs::read_dir(host)? {
                let name = entry?.file_name();
                self.copy(&host.join(&name), &path.join(&name))?;
            }
            return Ok(());
        }
        let path = relative(path);
        self.parents(path)?;
        let size = u32::try_from(meta.len())
            .with_context(|| format!("{} is over 4 GiB", host.display()))?;
        self.header(path, REGULAR | (meta.permissions().mode() & 0o7777), size)?;
        let file = File::open(host).with_context(|| format!("cannot read {}", host.display()))?;
        let copied = io::copy(&mut file.take(u64::from(size)), &mut self.out)?;
        anyhow::ensure!(
            copied == u64::from(size),
            "{} changed while it was read",
            host.display()
        );
        self.pad(meta.len())
    }

    /// Ends the archive and gives the writer back.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.header(Path::new(TRAILER), 0, 0)?;
        Ok(self.out)
    }

    fn content(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let path = relative(path);
        self.parents(path)?;
        self.header(path, mode, u32::try_from(content.len())?)?;
        self.out.write_all(content)?;
        self.pad(content.len() as u64)
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.folder(parent))
    }

    fn header(&mut self, path: &Path, mode: u32, size: u32) -> Result<()> {
        self.inode += 1;
        let name = path.as_os_str().as_encoded_bytes();
        let name_size = u32::try_from(name.len() + 1)?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        self.out.write_all(b"070701")?;
        // inode, mode, uid, gid, links, mtime, size, device (2), rdevice (2), name size, checksum (unused)
        for number in [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ] {
            write!(self.out, "{number:08x}")?;
        }
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad((HEADER_BYTES + name.len() + 1) as u64)
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self, written: u64) -> Result<()> {
        for _ in 0..written.next_multiple_of(4) - written {
            self.out.write_all(&[0])?;
        }
        Ok(())
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    /// Reads names, modes and contents back, as the kernel's unpacker does.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let number = |index: usize| {
                let digits = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (number(1), number(6) as usize, number(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            if name == TRAILER {
                return entries;
            }
            let start = (110 + name_size).next_multiple_of(4);
            entries.push((name, mode, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn files_come_back_with_their_parents_once() {
        let mut archive = Archive::new(Vec::new());
        archive.text(Path::new("/a/b/one"), 0o755, "x").unwrap();
        archive.text(Path::new("/a/b/two"), 0o644, "yyyyy").unwrap();
        archive.link(Path::new("/a/l"), "b/one").unwrap();
        let entries = read(&archive.finish().unwrap());
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "a/l"]);
        assert_eq!(entries[2], ("a/b/one".to_owned(), 0o100_755, b"x".to_vec()));
        assert_eq!(entries[3].2, b"yyyyy");
        assert_eq!(entries[4].1 & SYMLINK, SYMLINK);
    }

    #[test]
    fn a_folder_is_copied_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/file"), "content").unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.copy(dir.path(), Path::new("/data")).unwrap();
        let entries = read(&archive.finish().unwrap());
        assert!(
            entries
                .iter()
                .any(|(name, _, content)| name == "data/in/file" && content == b"content")
        );
    }
}
