//! The programs that print rules: the agent's own, found once at start.
//!
//! Always absolute paths on the agent's side. What a pod's file system holds under such a
//! name is the pod's, and is never started.

use std::{
    env, fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::engine::RulesSource;

/// Where programs for administrators are, whatever `PATH` says.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// A path given for a program at which there is none.
#[derive(Debug, thiserror::Error)]
#[error("{}: not a program that can be started, given for {}", path.display(), tool.program())]
pub struct NoProgram {
    tool: RulesSource,
    path: PathBuf,
}

/// The program for each kind of rules, where there is one.
#[derive(Clone, Debug, Default)]
pub struct Tools([Option<PathBuf>; RulesSource::ALL.len()]);

impl Tools {
    /// Those given, and for the rest those in `PATH` or the usual folders.
    ///
    /// # Errors
    /// [`NoProgram`] for a path that is given and wrong.
    pub fn find(given: &[(RulesSource, PathBuf)]) -> Result<Self, NoProgram> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path)
            .chain(FOLDERS.map(PathBuf::from))
            .filter(|folder| folder.is_absolute())
            .collect();
        let mut found = RulesSource::ALL.map(|tool| {
            let mut places = folders.iter().map(|folder| folder.join(tool.program()));
            places.find(|path| is_program(path))
        });
        for (tool, path) in given {
            if !path.is_absolute() || !is_program(path) {
                return Err(NoProgram {
                    tool: *tool,
                    path: path.clone(),
                });
            }
            found[tool.index()] = Some(path.clone());
        }
        Ok(Self(found))
    }

    /// The program for this kind of rules.
    #[must_use]
    pub fn of(&self, source: RulesSource) -> Option<&Path> {
        self.0[source.index()].as_deref()
    }
}

impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = RulesSource::ALL.iter().filter(|s| self.of(**s).is_none());
        let names: Vec<&str> = missing.map(|source| source.program()).collect();
        if names.is_empty() {
            f.write_str("all there")
        } else {
            write!(f, "not found: {}", names.join(", "))
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_and_must_be_a_program() {
        let shell = PathBuf::from("/bin/sh");
        let tools = Tools::find(&[(RulesSource::Nft, shell.clone())]).unwrap();
        assert_eq!(tools.of(RulesSource::Nft), Some(shell.as_path()));
        for wrong in ["/etc/passwd", "/nothing/here", "/usr", "sh"] {
            let error = Tools::find(&[(RulesSource::Nft, wrong.into())]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(wrong) && text.contains("nft"), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = Tools::default().to_string();
        assert!(text.contains("ip6tables-legacy-save"), "{text}");
    }
}
