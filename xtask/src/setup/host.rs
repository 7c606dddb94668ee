//! Programs of this machine: QEMU, and the network tools that the demo and the host scenarios use.
//!
//! What is there is used. What is missing is installed where that needs no question (root on a Debian-like system);
//! elsewhere the exact command is named. This is the only place that changes the machine outside the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Context, Unavailable};
use crate::process;

/// Network tools and the Debian package each is in.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("ipset", "ipset"),
    ("iptables-legacy", "iptables"),
    ("iptables-nft", "iptables"),
    ("nft", "nftables"),
];

/// What a Kubernetes node and its set-up call, and the Debian package each is in.
const NODE_TOOLS: [(&str, &str); 8] = [
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("unshare", "util-linux"),
];

/// Returns QEMU for x86-64.
pub(crate) fn qemu(context: &Context) -> Result<PathBuf> {
    let program = program(context, "qemu-system-x86_64", "qemu-system-x86")?;
    process::output(Command::new(&program).arg("--version"))?;
    Ok(program)
}

/// Returns the server of virtiofs: it came with QEMU before version 8, and is a package of its own since.
pub(crate) fn file_server(context: &Context) -> Result<PathBuf> {
    program(context, "virtiofsd", "virtiofsd")
}

/// Makes sure of the network tools; returns the folder of the first.
pub(crate) fn tools(context: &Context) -> Result<PathBuf> {
    all(context, &TOOLS)
}

/// Makes sure of what a node needs; returns the folder of the last.
pub(crate) fn node_tools(context: &Context) -> Result<PathBuf> {
    all(context, &NODE_TOOLS)
}

fn all(context: &Context, tools: &[(&str, &str)]) -> Result<PathBuf> {
    let mut found = PathBuf::new();
    for (tool, package) in tools {
        found = program(context, tool, package)?;
    }
    Ok(found.parent().map_or(found.clone(), Path::to_path_buf))
}

/// Returns a program of this machine, installing its package if needed and possible.
pub(crate) fn program(context: &Context, program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = process::find(program) {
        return Ok(path);
    }
    let _lock = context.cache.lock("host-packages")?;
    if let Some(path) = process::find(program) {
        return Ok(path);
    }
    let missing = |why: String| Unavailable {
        what: program.to_owned(),
        why,
        todo: format!(
            "run `apt-get install {package}` as root, or install {program} as your system does it"
        ),
    };
    if process::find("apt-get").is_none() {
        return Err(missing("it is not installed, and this machine has no apt".to_owned()).into());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(missing("it is not installed, and only root may install it".to_owned()).into());
    }
    context.say(format!("installing the package {package} on this machine"));
    install(package).map_err(|error| missing(format!("{error:#}")))?;
    process::find(program).ok_or_else(|| {
        missing(format!(
            "the package {package} was installed, but has no {program}"
        ))
        .into()
    })
}

fn install(package: &str) -> Result<()> {
    if !has_lists() {
        process::output(apt_get().args(["update", "--quiet"]))?;
    }
    let attempt = || {
        process::output(apt_get().args([
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
            package,
        ]))
    };
    if attempt().is_ok() {
        return Ok(());
    }
    // Most often the lists are older than the mirror.
    process::output(apt_get().args(["update", "--quiet"]))?;
    attempt().map(drop)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command
}

fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}
