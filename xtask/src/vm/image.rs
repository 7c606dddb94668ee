//! The root file system of a test machine: a base per kernel, made once, and a few files per run behind it.
//!
//! The base (tools, libraries, modules, init) is cached outside the checkout under a name that changes with everything in
//! it. A run's image is the base followed by a second archive; it is an unlinked temporary file, so it disappears
//! with the process, however that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::cpio::Archive;
use super::guest::Guest;
use crate::cache::{self, Cache};
use crate::setup::{self, GuestTools, KernelFiles};

const INIT: &str = include_str!("init.sh");
/// Changed by hand when what goes into a base changes in a way its other inputs do not show.
const LAYOUT: &str = "2";
/// Folders of modules that are in every base, below `kernel/`; modules they depend on follow by themselves.
const MODULE_FOLDERS: [&str; 9] = [
    "net/",
    "lib/",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/virtio/",
    "fs/fuse/",
    "fs/overlayfs/",
];
/// Names that busybox answers to in the guest, behind the real tools in `PATH`.
const APPLET_FOLDER: &str = "usr/libexec/busybox";
const MOUNT_POINTS: [&str; 9] = [
    "dev",
    "proc",
    "root",
    "run/netns",
    "sys",
    "tmp",
    "usr/local/bin",
    "var/lib",
    "var/log",
];
/// The kernel's modprobe is found from a root that may be covered by another, into which ".." would lead.
const LINKS: [(&str, &str); 13] = [
    ("bin/sh", "dash"),
    ("sbin/modprobe", "/bin/kmod"),
    ("sbin/depmod", "/bin/kmod"),
    ("sbin/insmod", "/bin/kmod"),
    ("sbin/rmmod", "/bin/kmod"),
    ("bin/lsmod", "kmod"),
    ("usr/sbin/iptables-legacy-save", "iptables-legacy"),
    ("usr/sbin/iptables-legacy-restore", "iptables-legacy"),
    ("usr/sbin/ip6tables-legacy-save", "ip6tables-legacy"),
    ("usr/sbin/ip6tables-legacy-restore", "ip6tables-legacy"),
    ("var/run", "../run"),
    ("etc/mtab", "../proc/mounts"),
    ("init", "vm/init"),
];
/// The nft backend's names; plain `iptables` is this one, as on Debian since 10.
const NFT_NAMES: [&str; 10] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
    "iptables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
];
const FILES: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nistio-proxy:x:1337:1337::/:/bin/false\nproxy:x:2102:2102::/:/bin/false\n",
    ),
    (
        "etc/group",
        "root:x:0:\nistio-proxy:x:1337:\nproxy:x:2102:\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "sidestep-vm\n"),
];

/// The image for one run, positioned nowhere in particular; read it through `/proc/PID/fd`.
pub(crate) fn make(guest: &Guest, kernel: &KernelFiles) -> Result<File> {
    let base = base(kernel)?;
    let mut image = tempfile::tempfile().context("cannot make a temporary file for the image")?;
    let mut source =
        File::open(&base).with_context(|| format!("cannot read {}", base.display()))?;
    io::copy(&mut source, &mut image)?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, image));
    archive.text(Path::new("vm/settings"), 0o644, &settings(guest))?;
    archive.text(Path::new("vm/command"), 0o755, &command(guest))?;
    for (host, path) in &guest.files {
        archive.copy(host, path)?;
    }
    let mut image = archive
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    image.rewind()?;
    Ok(image)
}

/// Returns the cached base of a kernel, making it if anything in it changed.
fn base(kernel: &KernelFiles) -> Result<PathBuf> {
    let tools = setup::need_guest_tools()?;
    let mut hash = Sha256::new();
    for part in [
        LAYOUT,
        INIT,
        &kernel.release,
        &kernel.fingerprint,
        &tools.fingerprint,
    ] {
        hash.update(part);
        hash.update([0]);
    }
    let cache = Cache::open()?;
    let name = format!(
        "{}-{}.cpio",
        kernel.release,
        &cache::hex(&hash.finalize())[..16]
    );
    let path = cache.join("images").join(&name);
    if path.is_file() {
        return Ok(path);
    }
    let _lock = cache.lock(&format!("image-{}", kernel.release))?;
    if path.is_file() {
        return Ok(path);
    }
    let dir = cache.join("images");
    fs::create_dir_all(&dir)?;
    forget_older(&dir, &kernel.release)?;
    let unfinished = tempfile::NamedTempFile::new_in(&dir)?;
    let mut out = write_base(unfinished.as_file(), kernel, &tools)?;
    out.flush()?;
    drop(out);
    unfinished.persist(&path)?;
    Ok(path)
}

fn write_base<'a>(
    file: &'a File,
    kernel: &KernelFiles,
    tools: &GuestTools,
) -> Result<BufWriter<&'a File>> {
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    for dir in MOUNT_POINTS {
        archive.folder(Path::new(dir))?;
    }
    archive.text(Path::new("vm/init"), 0o755, INIT)?;
    for (path, content) in FILES {
        archive.text(Path::new(path), 0o644, content)?;
    }
    for path in tools.closure()? {
        archive.copy(&tools.root.join(&path), &path)?;
    }
    for (path, target) in LINKS {
        archive.link(Path::new(path), target)?;
    }
    for name in NFT_NAMES {
        archive.link(&Path::new("usr/sbin").join(name), "xtables-nft-multi")?;
    }
    for applet in tools.applets()? {
        archive.link(&Path::new(APPLET_FOLDER).join(applet), "/bin/busybox")?;
    }
    let place = Path::new("lib/modules").join(&kernel.release);
    for file in module_files(kernel)? {
        archive.copy(&kernel.modules.join(&file), &place.join(&file))?;
    }
    archive.finish()
}

/// Modules of the wanted folders with all they depend on, and the index files.
fn module_files(kernel: &KernelFiles) -> Result<BTreeSet<PathBuf>> {
    let index = kernel.modules.join("modules.dep");
    let text =
        fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))?;
    let needs: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needed)| (module, needed.split_whitespace().collect()))
        .collect();
    let wanted = |module: &str| {
        module
            .strip_prefix("kernel/")
            .is_some_and(|path| MODULE_FOLDERS.iter().any(|folder| path.starts_with(folder)))
    };
    // modules.dep lists all that a module needs, not only the next: one step is enough.
    let mut files = BTreeSet::new();
    for (module, needed) in needs.iter().filter(|(module, _)| wanted(module)) {
        files.insert(PathBuf::from(module));
        files.extend(needed.iter().map(PathBuf::from));
    }
    for entry in fs::read_dir(&kernel.modules)? {
        let name = PathBuf::from(entry?.file_name());
        if name.to_string_lossy().starts_with("modules.") {
            files.insert(name);
        }
    }
    Ok(files)
}

/// Bases of this kernel made from older inputs.
fn forget_older(dir: &Path, release: &str) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{release}-"))
        {
            cache::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn settings(guest: &Guest) -> String {
    let mut text = format!(
        "cgroup={}\nmodules='{}'\n",
        guest.cgroup,
        guest.modules.join(" ")
    );
    if let Some(host_files) = &guest.host_files {
        let fresh: Vec<String> = host_files
            .fresh
            .iter()
            .map(|folder| quote(&folder.to_string_lossy()))
            .collect();
        text += &format!("host_files=yes\nset -- {}\n", fresh.join(" "));
    }
    text
}

/// The command as a script; each argument is quoted, so that the guest's shell sees what the caller meant.
fn command(guest: &Guest) -> String {
    let words: Vec<String> = guest.command.iter().map(|word| quote(word)).collect();
    format!("{}\n", words.join(" "))
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_folders_reach_init() {
        let mut guest = Guest::new(setup::Kernel::V6_12, Vec::new());
        let shell = |guest: &Guest| {
            let script = settings(guest) + "printf '<%s>' \"$host_files\" \"$cgroup\" \"$@\"";
            std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default()
        };
        assert_eq!(shell(&guest), "<><v2>");
        guest.host_files = Some(crate::vm::HostFiles {
            fresh: vec!["/a b".into(), "/c".into()],
        });
        assert_eq!(shell(&guest), "<yes><v2></a b></c>");
    }

    #[test]
    fn arguments_survive_the_shell() {
        let shell = |word: &str| {
            std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quote(word))])
                .output()
                .map(|output| output.stdout)
                .unwrap_or_default()
        };
        for word in ["plain", "two words", "it's", "$HOME `x` \"q\" \\ ;|&"] {
            assert_eq!(shell(word), word.as_bytes());
        }
    }
}
