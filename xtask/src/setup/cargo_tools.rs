//! Tools that are themselves Rust programs, at one pinned version each, built into the cache by `cargo install`.
//!
//! A tool on `PATH` is used if it is the pinned version exactly: eBPF objects must not depend on who built them. Nothing
//! is installed into the user's own cargo folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Context, Unavailable};
use crate::process;

/// One program from the crate registry.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    /// What the person reads while waiting.
    duration: &'static str,
}

/// 0.10.3 is the last that links with the LLVM inside rustc; 0.11 wants a separate LLVM.
pub(crate) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.10.3",
    duration: "about a minute",
};

/// The newest that builds with the pinned rustc.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    duration: "some minutes",
};

/// Returns the program, installing it if needed.
pub(crate) fn make(context: &Context, tool: &Tool) -> Result<PathBuf> {
    let root = context
        .cache
        .join("tools")
        .join(format!("{}-{}", tool.name, tool.version));
    let program = root.join("bin").join(tool.name);
    if let Some(found) = existing(tool, &program) {
        return Ok(found);
    }
    let _lock = context.cache.lock(tool.name)?;
    if let Some(found) = existing(tool, &program) {
        return Ok(found);
    }
    context.say(format!(
        "building {} {} ({})",
        tool.name, tool.version, tool.duration
    ));
    install(tool, &root)?;
    existing(tool, &program).ok_or_else(|| {
        unavailable(
            tool,
            "it was built, but does not say its version when run".to_owned(),
        )
    })
}

fn existing(tool: &Tool, cached: &Path) -> Option<PathBuf> {
    [Some(cached.to_path_buf()), process::find(tool.name)]
        .into_iter()
        .flatten()
        .find(|program| has_version(tool, program))
}

fn has_version(tool: &Tool, program: &Path) -> bool {
    process::is_executable(program)
        && process::output(Command::new(program).arg("--version"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == tool.version))
}

fn install(tool: &Tool, root: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args([
            "install",
            "--locked",
            "--force",
            "--quiet",
            "--version",
            tool.version,
        ])
        .arg("--root")
        .arg(root)
        .arg(tool.name)
        // Run inside `cargo xtask`, these would bend the tool's own build to this workspace.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET");
    process::output(&mut command)
        .map(drop)
        .map_err(|error| unavailable(tool, format!("{error:#}")))
}

fn unavailable(tool: &Tool, why: String) -> anyhow::Error {
    anyhow::Error::new(Unavailable {
        what: format!("{} {}", tool.name, tool.version),
        why,
        todo: format!(
            "check that cargo reaches its registry, then run `cargo install --locked {} --version {}` to see more",
            tool.name, tool.version
        ),
    })
}
