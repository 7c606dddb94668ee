//! What the Prometheus operator takes, as types: generated from its own Go types and published for Node.js, with the compiler
//! that compares an object with them.
//!
//! The operator publishes its definitions in no package, and these types say as much: names, values, what is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Context, Unavailable, host};
use crate::cache::Manifest;
use crate::process;

/// Exact versions: another one may know other fields.
const PACKAGES: [&str; 3] = [
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
    "yaml@2.8.1",
];
/// What is used of them.
const FILES: [&str; 4] = [
    "node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor.d.ts",
    "node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.d.ts",
    "node_modules/typescript/lib/_tsc.js",
    "node_modules/yaml/dist/index.js",
];

/// Returns the folder that has `node_modules`.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let dir = context.cache.join("monitor-types");
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(dir);
    }
    let _lock = context.cache.lock("monitor-types")?;
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(dir);
    }
    install(context).map_err(|error| Unavailable {
        what: "the types of the Prometheus operator".to_owned(),
        why: format!("{error:#}"),
        todo: format!(
            "make `npm install {}` work (npm, a package index), then run this again",
            PACKAGES.join(" ")
        ),
    })?;
    Ok(dir)
}

fn install(context: &Context) -> Result<()> {
    let npm = host::program(context, "npm", "npm")?;
    context
        .say("downloading the types of the Prometheus operator, and a compiler for them (14 MB)");
    let dir = context.cache.fresh(Path::new("monitor-types"))?;
    process::output(
        Command::new(npm)
            .args([
                "install",
                "--silent",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
            ])
            .arg("--prefix")
            .arg(&dir)
            .args(PACKAGES)
            .current_dir(&dir),
    )?;
    Manifest::write(&dir, PACKAGES.join(" "), &FILES.map(PathBuf::from)).map(drop)
}
