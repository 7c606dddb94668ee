//! The folder outside the checkout where tools, kernels and images are kept, and the record of what is in it.
//!
//! Outside, because a `git clean` or a second checkout must not cost a download. Each entry is a folder with a
//! `manifest.json` beside its files: where it came from, and the SHA-256 of each file after the package manager had
//! verified it. An entry without a matching manifest does not count as present: an interrupted install is
//! simply done again. Locks are per entry, so that two commands never install the same thing at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "manifest.json";

/// The cache folder.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// Held while an entry is being made; released when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lock {
    _file: File,
}

/// How thoroughly an entry is checked against its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Size and modification time; the content is read again only where these differ.
    Quick,
    /// The content of every file.
    Full,
}

/// What an entry of the cache holds.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Manifest {
    /// Package and version, as a person would name it.
    pub(crate) source: String,
    files: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    path: PathBuf,
    size: u64,
    modified_ns: i64,
    sha256: String,
}

impl Cache {
    /// `SIDESTEP_CACHE`, else `sidestep` in `XDG_CACHE_HOME`, else `~/.cache/sidestep`. Made if missing.
    pub(crate) fn open() -> Result<Self> {
        let root = match (var("SIDESTEP_CACHE"), var("XDG_CACHE_HOME"), var("HOME")) {
            (Some(own), _, _) => own,
            (None, Some(xdg), _) => xdg.join("sidestep"),
            (None, None, Some(home)) => home.join(".cache").join("sidestep"),
            (None, None, None) => {
                return Err(anyhow!(
                    "no place for the cache: set SIDESTEP_CACHE to a folder with 2 GB free"
                ));
            }
        };
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache folder {}", root.display()))?;
        let root = root.canonicalize()?;
        Ok(Self { root })
    }

    /// A path in the cache.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Waits for, and takes, the lock of one entry.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock> {
        let dir = self.join("locks");
        fs::create_dir_all(&dir)?;
        let path = dir.join(name);
        let file =
            File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("{name}: waiting for another command that is working on it");
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Lock { _file: file })
    }

    /// An empty folder for a new entry; what an interrupted attempt left is removed.
    pub(crate) fn fresh(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = self.join(path);
        remove(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

impl Manifest {
    /// Records `files` (relative to `dir`) as they are now.
    pub(crate) fn write(dir: &Path, source: impl Into<String>, files: &[PathBuf]) -> Result<Self> {
        let files = files
            .iter()
            .map(|path| Entry::of(dir, path))
            .collect::<Result<Vec<_>>>()?;
        let manifest = Self {
            source: source.into(),
            files,
        };
        let text = serde_json::to_string_pretty(&manifest)?;
        fs::write(dir.join(MANIFEST), text)?;
        Ok(manifest)
    }

    /// The manifest of `dir`, if there is one and every file in it is as recorded.
    pub(crate) fn check(dir: &Path, depth: Depth) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(dir.join(MANIFEST)) else {
            return Ok(None);
        };
        let Ok(manifest) = serde_json::from_str::<Self>(&text) else {
            return Ok(None);
        };
        for entry in &manifest.files {
            if !entry.holds(dir, depth)? {
                eprintln!(
                    "{}: {} is not as recorded, getting it again",
                    dir.display(),
                    entry.path.display()
                );
                return Ok(None);
            }
        }
        Ok(Some(manifest))
    }

    /// One text that changes when any file does.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for entry in &self.files {
            hash.update(entry.path.as_os_str().as_encoded_bytes());
            hash.update(&entry.sha256);
        }
        hex(&hash.finalize())
    }
}

impl Entry {
    fn of(dir: &Path, path: &Path) -> Result<Self> {
        let full = dir.join(path);
        let meta = full
            .metadata()
            .with_context(|| format!("cannot read {}", full.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            size: meta.size(),
            modified_ns: modified_ns(&meta),
            sha256: sha256(&full)?,
        })
    }

    fn holds(&self, dir: &Path, depth: Depth) -> Result<bool> {
        let full = dir.join(&self.path);
        let Ok(meta) = full.metadata() else {
            return Ok(false);
        };
        if meta.size() != self.size {
            return Ok(false);
        }
        if depth == Depth::Quick && modified_ns(&meta) == self.modified_ns {
            return Ok(true);
        }
        Ok(sha256(&full)? == self.sha256)
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Removes a file or folder that may not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn modified_ns(meta: &fs::Metadata) -> i64 {
    meta.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec())
}

fn var(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    fn entry() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "one").unwrap();
        Manifest::write(dir.path(), "tool 1.0", &[PathBuf::from("tool")]).unwrap();
        dir
    }

    #[test]
    fn an_untouched_entry_holds() {
        let dir = entry();
        for depth in [Depth::Quick, Depth::Full] {
            let manifest = Manifest::check(dir.path(), depth).unwrap().unwrap();
            assert_eq!(manifest.source, "tool 1.0");
        }
    }

    #[test]
    fn changed_or_missing_files_do_not_hold() {
        let dir = entry();
        fs::write(dir.path().join("tool"), "two").unwrap();
        assert!(Manifest::check(dir.path(), Depth::Full).unwrap().is_none());
        fs::remove_file(dir.path().join("tool")).unwrap();
        assert!(Manifest::check(dir.path(), Depth::Quick).unwrap().is_none());
    }

    #[test]
    fn an_entry_without_manifest_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Manifest::check(dir.path(), Depth::Quick).unwrap().is_none());
    }

    #[test]
    fn sha256_is_the_standard_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
