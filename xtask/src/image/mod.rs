//! `cargo xtask image`: the agent as an OCI image in one file, which any container runtime and registry takes.
//!
//! In it is the static agent and what it must bring along: the programs that print netfilter rules, since a pod's own are
//! never started. Those come from Debian's packages with their libraries. There is no shell and nothing else to run.

pub(crate) mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use flate2::Compression;

use crate::build::{self, Linkage, Profile, Program};
use crate::{paths, setup};
use archive::{About, Files};

/// The name an image has when nobody gives it one: no registry, so that it is never fetched from one.
pub(crate) const NAME: &str = "sidestep.local/sidestep";

/// Names of the one program for each backend that print rules; the agent looks for them in `PATH`.
const PRINTERS: [(&str, &str); 4] = [
    ("iptables-legacy-save", "xtables-legacy-multi"),
    ("ip6tables-legacy-save", "xtables-legacy-multi"),
    ("iptables-nft-save", "xtables-nft-multi"),
    ("ip6tables-nft-save", "xtables-nft-multi"),
];

/// What a program that loads libraries names.
const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2";

/// `cargo xtask image`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// File to write; `target/sidestep-image.tar` if not given
    #[arg(long)]
    output: Option<PathBuf>,
    /// Name and tag in the image
    #[arg(long)]
    name: Option<String>,
    /// As `cargo build --release` makes it and not as it is shipped: quicker to make, larger
    #[arg(long)]
    release: bool,
}

/// Builds the agent and writes its image.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| paths::target().join("sidestep-image.tar"));
    let name = options
        .name
        .clone()
        .unwrap_or_else(|| format!("{NAME}:{}", env!("CARGO_PKG_VERSION")));
    let profile = if options.release {
        Profile::Release
    } else {
        Profile::Dist
    };
    build::ebpf()?;
    let agent = build::programs(&[Program::Agent], profile, Linkage::Static)?;
    let digest = write(
        &output,
        &name,
        agent.first().context("cargo built nothing")?,
    )?;
    let size = output.metadata()?.len();
    println!("{}", output.display());
    println!(
        "{name}, {}.{} MB, {digest}",
        size / 1_000_000,
        size / 100_000 % 10
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes the image of an agent and returns its digest.
pub(crate) fn write(output: &Path, name: &str, agent: &Path) -> Result<String> {
    let mut files = Files::default();
    program(&mut files, "usr/bin/sidestep", agent)?;
    printers(&mut files)?;
    let about = About {
        name,
        entrypoint: &["/usr/bin/sidestep"],
        path: "/usr/sbin:/usr/bin",
        labels: &[
            ("org.opencontainers.image.title", "sidestep"),
            (
                "org.opencontainers.image.description",
                "Shows, for every pod, whether its traffic really goes through its mesh sidecar",
            ),
            (
                "org.opencontainers.image.licenses",
                "Apache-2.0 AND GPL-2.0-or-later AND GPL-2.0-only AND LGPL-2.1-or-later",
            ),
            (
                "org.opencontainers.image.version",
                env!("CARGO_PKG_VERSION"),
            ),
        ],
        // eBPF and other namespaces take capabilities, and Kubernetes gives those to root only.
        user: "0:0",
        compression: Compression::best(),
    };
    archive::write(output, &files, &about)
}

/// A program of ours, with the C library if it loads one: those of an ordinary build do, and may be tried as they are.
pub(crate) fn program(files: &mut Files, at: &str, from: &Path) -> Result<()> {
    files.file(at, from)?;
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if bytes.windows(LOADER.len()).any(|part| part == LOADER) {
        let tools = setup::need_guest_tools()?;
        for path in tools.c_library() {
            files.file(&path, &tools.root.join(&path))?;
        }
    }
    Ok(())
}

/// The programs that print rules, their libraries and extensions, laid out as in the packages.
fn printers(files: &mut Files) -> Result<()> {
    let tools = setup::need_guest_tools()?;
    for path in tools.closure_of(&[
        "usr/sbin/xtables-legacy-multi",
        "usr/sbin/xtables-nft-multi",
        "usr/sbin/nft",
        "usr/sbin/ipset",
    ])? {
        files.file(&path, &tools.root.join(&path))?;
    }
    for (name, program) in PRINTERS {
        files.link(Path::new("usr/sbin").join(name), program);
    }
    // The lock of iptables, where a folder must be writable; nothing else is.
    files.dir("run");
    files.dir("tmp");
    for folder in ["proc", "sys", "dev", "etc"] {
        files.dir(folder);
    }
    Ok(())
}
