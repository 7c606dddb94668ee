//! The user space of the virtual machines, from Debian 12's packages, unpacked and never installed.
//!
//! Taken from packages and not from this machine, so that every developer and every CI boots the same tools. They run
//! on this machine too, with their own loader and libraries: that is how modules are decompressed and indexed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::{AptRoot, Suite};
use super::{Context, Unavailable};
use crate::cache::Manifest;
use crate::process;

/// What is asked for; apt adds what these depend on.
const PACKAGES: [&str; 11] = [
    "busybox-static",
    "conntrack",
    // busybox's own shell runs its own `ip` and `modprobe`, whatever PATH says.
    "dash",
    "iproute2",
    "ipset",
    "iptables",
    "kmod",
    "nftables",
    "procps",
    "util-linux",
    "xz-utils",
];

/// Programs of the guest beside busybox, each by its place in the packages.
const PROGRAMS: [&str; 18] = [
    "bin/dash",
    "bin/ip",
    "bin/kmod",
    "bin/ss",
    "sbin/sysctl",
    "sbin/tc",
    "usr/bin/nsenter",
    "usr/bin/setpriv",
    "usr/bin/unshare",
    "usr/bin/xz",
    "usr/sbin/conntrack",
    "usr/sbin/ip6tables-legacy",
    "usr/sbin/ip6tables-nft",
    "usr/sbin/ipset",
    "usr/sbin/iptables-legacy",
    "usr/sbin/iptables-nft",
    "usr/sbin/nft",
    "usr/sbin/xtables-nft-multi",
];

/// The C library's parts that programs brought into the guest (Envoy) may load.
const GLIBC: [&str; 8] = [
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
];

const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const EXTENSIONS: &str = "usr/lib/x86_64-linux-gnu/xtables";
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// The unpacked packages.
#[derive(Debug)]
pub(crate) struct GuestTools {
    /// Their root folder.
    pub(crate) root: PathBuf,
    /// Changes when a package does.
    pub(crate) fingerprint: String,
}

impl GuestTools {
    fn new(root: PathBuf, manifest: &Manifest) -> Self {
        Self {
            root,
            fingerprint: manifest.fingerprint() + &PROGRAMS.concat(),
        }
    }

    /// Runs one of the tools on this machine; `name` is what it is called as, since kmod is one program with many names.
    pub(crate) fn run(
        &self,
        tool: &str,
        name: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<String> {
        process::output(
            Command::new(self.root.join(LOADER))
                .arg("--library-path")
                .arg(self.library_path())
                .arg("--argv0")
                .arg(name)
                .arg(self.root.join(tool))
                .args(args),
        )
    }

    /// Every file of the guest's programs, relative to the root: programs, libraries, extensions, settings.
    pub(crate) fn closure(&self) -> Result<BTreeSet<PathBuf>> {
        let mut files: BTreeSet<PathBuf> = ["bin/busybox", "lib64/ld-linux-x86-64.so.2", LOADER]
            .into_iter()
            .chain(PROGRAMS)
            .map(PathBuf::from)
            .collect();
        files.extend(GLIBC.map(|library| Path::new(LIBRARIES).join(library)));
        files.extend(self.folder(EXTENSIONS)?);
        files.extend(self.folder("etc/iproute2")?);
        let programs: Vec<PathBuf> = files
            .iter()
            .filter(|file| !file.ends_with("busybox") && self.is_elf(file))
            .cloned()
            .collect();
        for program in programs {
            files.extend(self.libraries_of(&program)?);
        }
        Ok(files)
    }

    /// Some programs with all that they load, extensions of iptables included, relative to the root.
    pub(crate) fn closure_of(&self, programs: &[&str]) -> Result<BTreeSet<PathBuf>> {
        let mut files: BTreeSet<PathBuf> = ["lib64/ld-linux-x86-64.so.2", LOADER]
            .into_iter()
            .chain(programs.iter().copied())
            .map(PathBuf::from)
            .collect();
        files.extend(self.folder(EXTENSIONS)?);
        let loading: Vec<PathBuf> = files
            .iter()
            .filter(|file| self.is_elf(file))
            .cloned()
            .collect();
        for program in loading {
            files.extend(self.libraries_of(&program)?);
        }
        Ok(files)
    }

    /// The C library, and what compilers add to it, relative to the root.
    pub(crate) fn c_library(&self) -> Vec<PathBuf> {
        GLIBC
            .iter()
            .chain(&["libgcc_s.so.1"])
            .map(|library| Path::new(LIBRARIES).join(library))
            .collect()
    }

    /// The names busybox answers to.
    pub(crate) fn applets(&self) -> Result<Vec<String>> {
        let text = process::output(Command::new(self.root.join("bin/busybox")).arg("--list"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The libraries a program loads, as the loader itself finds them.
    fn libraries_of(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let text = process::output(
            Command::new(self.root.join(LOADER))
                .arg("--library-path")
                .arg(self.library_path())
                .arg("--list")
                .arg(self.root.join(program)),
        )?;
        text.lines()
            .filter_map(|line| line.split("=> ").nth(1))
            .filter_map(|rest| rest.split(" (").next())
            .map(|path| {
                Path::new(path)
                    .strip_prefix(&self.root)
                    .map(Path::to_path_buf)
                    .with_context(|| {
                        format!(
                            "{} needs {path}, which is in none of the packages",
                            program.display()
                        )
                    })
            })
            .collect()
    }

    fn library_path(&self) -> OsString {
        let mut path = OsString::new();
        for (index, dir) in [LIBRARIES, "usr/lib/x86_64-linux-gnu"].iter().enumerate() {
            if index > 0 {
                path.push(":");
            }
            path.push(self.root.join(dir));
        }
        path
    }

    fn folder(&self, dir: &str) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.root.join(dir))
            .with_context(|| format!("the packages have no {dir}"))?;
        entries
            .map(|entry| Ok(Path::new(dir).join(entry?.file_name())))
            .filter(|file| {
                file.as_ref()
                    .map_or(true, |file| self.root.join(file).is_file())
            })
            .collect()
    }

    fn is_elf(&self, file: &Path) -> bool {
        fs::read(self.root.join(file)).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
            && !file.to_string_lossy().contains("ld-linux")
    }
}

/// Returns the tools, downloading them if needed.
pub(crate) fn make(context: &Context) -> Result<GuestTools> {
    let root = context.cache.join("guest-tools");
    if let Some(tools) = cached(context, &root)? {
        return Ok(tools);
    }
    let _lock = context.cache.lock("guest-tools")?;
    if let Some(tools) = cached(context, &root)? {
        return Ok(tools);
    }
    let tools = install(context).map_err(|error| Unavailable {
        what: "the user space of the virtual machines".to_owned(),
        why: format!("{error:#}"),
        todo: "check that apt reaches a Debian mirror that has bookworm, then run this again"
            .to_owned(),
    })?;
    Ok(tools)
}

fn cached(context: &Context, root: &Path) -> Result<Option<GuestTools>> {
    let manifest = Manifest::check(root, context.depth)?;
    Ok(manifest
        .filter(|manifest| manifest.source == source())
        .map(|manifest| GuestTools::new(root.to_path_buf(), &manifest)))
}

/// A change of the list is a change of the entry.
fn source() -> String {
    format!("packages of bookworm: {}", PACKAGES.join(" "))
}

fn install(context: &Context) -> Result<GuestTools> {
    let apt = AptRoot::open(context, Suite::Bookworm)?;
    context.say("downloading busybox, iptables, nftables, iproute2, kmod and their libraries");
    let root = context.cache.fresh("guest-tools")?;
    let debs = root.join("debs");
    let packages = apt.download_all(&PACKAGES, &debs)?;
    apt.unpack(&packages, &root)?;
    crate::cache::remove(&debs)?;
    let mut tools = GuestTools {
        root,
        fingerprint: String::new(),
    };
    let files: Vec<PathBuf> = tools.closure()?.into_iter().collect();
    let manifest = Manifest::write(&tools.root, source(), &files)?;
    tools.fingerprint = GuestTools::new(tools.root.clone(), &manifest).fingerprint;
    Ok(tools)
}
