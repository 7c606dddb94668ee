//! Licences, duplicates, sources and advisories of everything we depend on, by cargo-deny and `deny.toml`.
//!
//! Advisories need a database from the network. Where it cannot be fetched, a copy fetched earlier is used; where there is
//! none, that one check is left out, and said so in a way nobody overlooks. All else fails as it should.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Component};
use crate::{paths, process};

/// Fetching the advisory database takes seconds; a machine without a network may take minutes to say so.
const ADVISORY_LIMIT: Duration = Duration::from_secs(120);
/// What cargo-deny says when it cannot fetch the database, and when it finds no copy of it.
const NO_DATABASE: [&str; 2] = [
    "failed to fetch advisory database",
    "failed to get 'FETCH_HEAD' metadata",
];

/// Checks the workspace and the probes' crate. What the fuzzer adds to them is never shipped.
pub(crate) fn check() -> Result<()> {
    let deny = setup::need(Component::CargoDeny)?;
    let workspace = paths::workspace();
    for manifest in ["Cargo.toml", "agent-ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
        locked(&workspace.join(manifest))?;
    }
    for manifest in ["Cargo.toml", "agent-ebpf/Cargo.toml"] {
        let manifest = workspace.join(manifest);
        process::output(
            command(&deny, &manifest)
                .args(["check", "--hide-inclusion-graph"])
                .args(["bans", "licenses", "sources"]),
        )?;
        advisories(&deny, &manifest)?;
    }
    Ok(())
}

/// Ordinary builds renew a lock file that no longer holds, and say nothing; the fuzzer, built with it as it is, stops.
fn locked(manifest: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--locked", "--format-version", "1"]);
    command.arg("--manifest-path").arg(manifest);
    process::output(&mut command)
        .with_context(|| format!("the lock file beside {} must hold", manifest.display()))?;
    Ok(())
}

fn advisories(deny: &Path, manifest: &Path) -> Result<()> {
    let check = |extra: &[&str]| {
        process::output_within(
            command(deny, manifest)
                .args(extra)
                .args(["check", "advisories"]),
            ADVISORY_LIMIT,
        )
    };
    let Err(online) = check(&[]) else {
        return Ok(());
    };
    if !lacks_database(&format!("{online:#}")) {
        return Err(online);
    }
    match check(&["--offline"]) {
        Ok(_) => eprintln!(
            "WARNING: advisories were checked against an old database: a new one cannot be fetched"
        ),
        Err(offline) if lacks_database(&format!("{offline:#}")) => eprintln!(
            "WARNING: NO ADVISORIES WERE CHECKED for {}: their database cannot be fetched from here, and there is no copy of it.\n\
             WARNING: run `cargo xtask lint` once where it can be reached.",
            manifest.display()
        ),
        Err(offline) => bail!(offline),
    }
    Ok(())
}

fn command(deny: &Path, manifest: &Path) -> Command {
    let mut command = Command::new(deny);
    command
        .arg("--manifest-path")
        .arg(manifest)
        .args(["--workspace", "--color", "never", "--config"])
        .arg(paths::workspace().join("deny.toml"))
        .current_dir(paths::workspace());
    command
}

fn lacks_database(text: &str) -> bool {
    NO_DATABASE.iter().any(|sign| text.contains(sign)) || text.contains("was still running after")
}

#[cfg(test)]
mod tests {
    use super::lacks_database;

    #[test]
    fn only_a_missing_database_is_forgiven() {
        assert!(lacks_database(
            "[ERROR] failed to fetch advisory database with cli: failed to clone"
        ));
        assert!(!lacks_database("error[vulnerability]: use after free"));
    }
}
