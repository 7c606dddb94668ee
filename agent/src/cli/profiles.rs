//! Reads a directory of mesh profiles, for the agent and for replays.
//!
//! A directory that was named and cannot be read, or a profile with a mistake, is an error
//! and not a degraded mode: judging with fewer profiles than meant would find nothing
//! wrong in pods that are.

use std::{fs, io, path::Path};

use super::{Exit, Fault};
use crate::mesh::Profiles;

/// The built-in profiles and those of `dir`.
///
/// # Errors
/// The directory or a file cannot be read, or a profile has a mistake.
pub fn load(dir: Option<&Path>) -> Result<Profiles, Fault> {
    let extra = match dir {
        Some(dir) => texts(dir).map_err(|error| unreadable(dir, &error))?,
        None => Vec::new(),
    };
    let place = dir.map_or_else(
        || "built-in profiles".to_owned(),
        |dir| dir.display().to_string(),
    );
    Profiles::with_dir(extra).map_err(|error| {
        let to_do = "correct the file or take it out of the directory, then start again";
        Fault::new(
            Exit::BadInput,
            "a mesh profile has a mistake",
            format!("{place}: {error}"),
            to_do,
        )
    })
}

/// Name and text of each `*.toml` of a directory.
fn texts(dir: &Path) -> io::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            let text = fs::read_to_string(&path).map_err(named)?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            texts.push((name, text));
        }
    }
    Ok(texts)
}

fn unreadable(dir: &Path, error: &io::Error) -> Fault {
    Fault::new(
        Exit::BadInput,
        "the directory of mesh profiles cannot be read",
        format!("{}: {error}", dir.display()),
        "name an existing directory of *.toml files with --profiles, or leave the option out",
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn without_a_directory_the_built_in_ones_are_there() {
        assert!(load(None).unwrap().names().count() > 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = load(Some(&dir.path().join("nowhere"))).unwrap_err();
        assert_eq!(missing.exit, Exit::BadInput);
        assert!(missing.place.contains("nowhere"));

        fs::write(dir.path().join("notes.txt"), "not a profile").unwrap();
        assert_eq!(load(Some(dir.path())).unwrap(), load(None).unwrap());

        fs::write(dir.path().join("bad.toml"), "name = 3").unwrap();
        let bad = load(Some(dir.path())).unwrap_err();
        assert_eq!(bad.exit, Exit::BadInput);
        assert!(bad.place.contains("bad.toml"), "{bad}");

        fs::write(dir.path().join("bad.toml"), [0xff, 0xfe]).unwrap();
        assert!(
            load(Some(dir.path()))
                .unwrap_err()
                .place
                .contains("bad.toml")
        );
    }
}
