//! What passed, and with what: so that running the tests again is fast where nothing changed.
//!
//! A stamp is one line for one place (a kernel, this machine): a hash over everything that could change the result, and
//! when it passed. Only success leaves one, it is never taken over from another checkout's inputs, and CI never reads it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};

/// The inputs of one test, as a hash that grows.
#[derive(Default)]
pub(crate) struct Inputs {
    hash: Sha256,
}

/// The record of one place.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    inputs: String,
}

impl Inputs {
    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text);
    }

    /// Adds a file, or a folder with the names and contents of all that is in it.
    pub(crate) fn path(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            self.text(&cache::sha256(path)?);
            return Ok(());
        }
        let mut entries = fs::read_dir(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            self.text(&entry.file_name().unwrap_or_default().to_string_lossy());
            self.path(&entry)?;
        }
        Ok(())
    }

    /// The stamp of a place for these inputs.
    pub(crate) fn stamp(self, cache: &Cache, place: &str) -> Stamp {
        Stamp {
            path: cache.join("passed").join(place),
            inputs: cache::hex(&self.hash.finalize()),
        }
    }
}

impl Stamp {
    /// When this very thing passed before, if it did.
    pub(crate) fn passed(&self) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (inputs, when) = text.trim_end().split_once(' ')?;
        (inputs == self.inputs).then(|| when.to_owned())
    }

    /// Records that it passed now.
    pub(crate) fn write(&self) -> Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
        fs::write(&self.path, format!("{} {now}\n", self.inputs))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Forgets it: whatever follows has to pass again.
    pub(crate) fn forget(&self) -> Result<()> {
        cache::remove(&self.path)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    fn stamp(dir: &Path, scenarios: &Path) -> Stamp {
        let mut inputs = Inputs::default();
        inputs.path(scenarios).unwrap();
        Stamp {
            path: dir.join("passed/x"),
            inputs: cache::hex(&inputs.hash.finalize()),
        }
    }

    #[test]
    fn a_change_in_any_file_forgets_the_pass() {
        let dir = tempfile::tempdir().unwrap();
        let scenarios = dir.path().join("scenarios");
        fs::create_dir_all(scenarios.join("more")).unwrap();
        fs::write(scenarios.join("more/a.toml"), "x = 1").unwrap();
        let first = stamp(dir.path(), &scenarios);
        assert_eq!(first.passed(), None);
        first.write().unwrap();
        assert!(stamp(dir.path(), &scenarios).passed().is_some());
        fs::write(scenarios.join("more/a.toml"), "x = 2").unwrap();
        assert_eq!(stamp(dir.path(), &scenarios).passed(), None);
        fs::write(scenarios.join("more/a.toml"), "x = 1").unwrap();
        fs::rename(scenarios.join("more/a.toml"), scenarios.join("more/b.toml")).unwrap();
        assert_eq!(stamp(dir.path(), &scenarios).passed(), None);
    }

    #[test]
    fn a_forgotten_pass_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = stamp(dir.path(), dir.path());
        stamp.write().unwrap();
        stamp.forget().unwrap();
        assert_eq!(stamp.passed(), None);
    }
}
