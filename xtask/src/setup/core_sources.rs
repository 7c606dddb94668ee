//! The source of Rust's core library, which `-Z build-std=core` compiles for the bpf target.
//!
//! rustup has it as the component `rust-src`. Where that cannot be downloaded, Debian's package of the very same compiler
//! version has the same files; it is unpacked in the cache and linked to the place where rustc looks. A version that differs
//! from the compiler's is never accepted: core and compiler are one program in two parts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::apt::{AptRoot, Suite};
use super::{Context, Unavailable};
use crate::cache::{self, Manifest};
use crate::process;

/// Without a network, rustup retries for minutes.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Returns the `library` folder of the compiler in use.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let rust = Rust::in_use()?;
    if rust.has_sources() {
        return Ok(rust.library());
    }
    let _lock = context.cache.lock("core-sources")?;
    if rust.has_sources() {
        return Ok(rust.library());
    }
    context.say("asking rustup for rust-src");
    let component = process::output_within(
        Command::new("rustup").args(["component", "add", "rust-src"]),
        RUSTUP_LIMIT,
    );
    if component.is_ok() && rust.has_sources() {
        return Ok(rust.library());
    }
    let why_not_rustup = component.err().map_or_else(
        || "rustup added rust-src for another toolchain".to_owned(),
        |error| format!("{error:#}"),
    );
    context.say("rustup cannot, trying Debian's package of the same version");
    from_package(context, &rust).map_err(|error| {
        Unavailable {
            what: format!("the core sources of rustc {}", rust.version),
            why: format!("{why_not_rustup}\n  and Debian's package: {error:#}"),
            todo: "run `rustup component add rust-src` where rustup's server can be reached"
                .to_owned(),
        }
        .into()
    })
}

/// The compiler that cargo would use.
#[derive(Debug)]
struct Rust {
    version: String,
    sysroot: PathBuf,
}

impl Rust {
    fn in_use() -> Result<Self> {
        let ask = |args: &[&str]| {
            process::output(
                Command::new("rustc")
                    .args(args)
                    .current_dir(crate::paths::workspace()),
            )
        };
        let version = ask(&["--version"])?;
        let version = version
            .split_whitespace()
            .nth(1)
            .context("rustc does not say its version")?
            .to_owned();
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        Ok(Self { version, sysroot })
    }

    fn library(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library")
    }

    /// Present, and of this version: either rustup's own component or a link to a folder named after the version.
    fn has_sources(&self) -> bool {
        let library = self.library();
        if !library.join("core/src/lib.rs").is_file() || !library.join("Cargo.lock").is_file() {
            return false;
        }
        let by_rustup = fs::read_to_string(self.sysroot.join("lib/rustlib/components"))
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("rust-src")));
        by_rustup || library.canonicalize().is_ok_and(|path| self.names(&path))
    }

    fn names(&self, library: &Path) -> bool {
        let folder = format!("rustc-{}", self.version);
        library
            .parent()
            .is_some_and(|parent| parent.ends_with(folder))
    }
}

fn from_package(context: &Context, rust: &Rust) -> Result<PathBuf> {
    let dir = context.cache.join("core-sources").join(&rust.version);
    let library = dir.join(format!("usr/src/rustc-{}/library", rust.version));
    if Manifest::check(&dir, context.depth)?.is_none() {
        let apt = AptRoot::open(context, Suite::TrixieBackports)?;
        let version = apt
            .versions("rust-src")?
            .into_iter()
            .find(|version| version.starts_with(&format!("{}+", rust.version)))
            .with_context(|| format!("{} has no rust-src {}", apt.suite(), rust.version))?;
        context.say(format!("downloading rust-src {version} (45 MB)"));
        let dir = context
            .cache
            .fresh(Path::new("core-sources").join(&rust.version))?;
        let debs = apt.download(&[format!("rust-src={version}")], &dir)?;
        apt.unpack(&debs, &dir)?;
        let witness = ["core/src/lib.rs", "alloc/src/lib.rs", "Cargo.lock"]
            .map(|file| PathBuf::from(format!("usr/src/rustc-{}/library/{file}", rust.version)));
        Manifest::write(&dir, format!("rust-src {version}"), &witness)?;
    }
    link(&library, &rust.library())?;
    Ok(rust.library())
}

fn link(target: &Path, place: &Path) -> Result<()> {
    let parent = place.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    if place.is_symlink() {
        cache::remove(place)?;
    }
    symlink(target, place)
        .with_context(|| format!("cannot link {} to {}", place.display(), target.display()))
}
