//! This machine's own files in a guest: all of them to be read, none to be changed.
//!
//! What is installed here is there under the same path, and nothing has to be packed: a Kubernetes node needs half a gigabyte
//! of programs. The guest sees them through virtiofs (9p is in none of the kernels). QEMU's file server looks at a copy of the
//! mount table in which they are read-only, and ends with the guest; what the guest writes is in its memory.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::cache::Cache;
use crate::setup::{self, Component};
use crate::{paths, process};

/// What the guest mounts it by; `init.sh` knows it, too.
const TAG: &str = "host";
/// A folder that is everywhere and that the server does not need: the read-only view is put there, in its own mount table.
const VIEW: &str = "/mnt";
/// Binds the folders given behind the first word, which is the server.
const SCRIPT: &str = r#"
set -e
server=$1 view=$2
shift 2
for folder do
    mount --bind "$folder" "$view$folder"
    mount -o remount,bind,ro "$view$folder"
done
ulimit -n "$(ulimit -Hn)"
exec "$server" --fd="$SIDESTEP_VM_SOCKET" --rlimit-nofile=0 -o "source=$view,cache=always,sandbox=chroot,log_level=err"
"#;

/// A guest has them; nothing it writes leaves it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFiles {
    /// Folders that are empty there and in memory: for whoever makes overlays in them, which the overlay of all files
    /// does not take.
    pub(crate) fresh: Vec<PathBuf>,
}

/// The running file server; ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// What it said.
    said: File,
    /// QEMU's end.
    socket: UnixStream,
}

impl Server {
    /// Starts it. Nobody else can connect: the only connection is made before, and the name is gone before it serves.
    pub(crate) fn start() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "only root may give a guest this machine's files"
        );
        let program = setup::need(Component::FileServer)?;
        let dir = tempfile::tempdir().context("cannot make a folder for a socket")?;
        let path = dir.path().join("files");
        let listener = UnixListener::bind(&path).context("cannot make a socket")?;
        let socket = UnixStream::connect(&path).context("cannot connect to our own socket")?;
        drop(dir);
        inherit(&listener)?;
        let said = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut command = process::dies_with_us(Path::new("unshare"));
        let child = command
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
            .arg("sh")
            .arg(program)
            .arg(VIEW)
            .args(folders()?)
            .env("SIDESTEP_VM_SOCKET", listener.as_raw_fd().to_string())
            .stdin(Stdio::null())
            // Ours is for what the guest says.
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", process::line(&command)))?;
        Ok(Self {
            child,
            said,
            socket,
        })
    }

    /// Makes it a device of a guest that has so much memory, which the server must share.
    pub(crate) fn attach(&self, qemu: &mut Command, mem_mib: u32) -> Result<()> {
        inherit(&self.socket)?;
        qemu.arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={mem_mib}M,share=on"
            ))
            .args(["-machine", "memory-backend=memory"])
            .arg("-chardev")
            .arg(format!("socket,id=files,fd={}", self.socket.as_raw_fd()))
            .arg("-device")
            .arg(format!("vhost-user-fs-pci,chardev=files,tag={TAG}"));
        Ok(())
    }

    /// Ends it, which it would do by itself without QEMU, and returns what it said.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = Vec::new();
        // Nothing is lost but an explanation.
        let _ = self.said.rewind();
        let _ = self.said.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lets programs that are started from now on have it.
fn inherit(socket: &impl AsFd) -> Result<()> {
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a socket on")?;
    Ok(())
}

/// The root, and of our own folders those that are on another file system: mounts below a folder do not come with it.
fn folders() -> Result<Vec<PathBuf>> {
    let root = PathBuf::from("/");
    let device = fs::metadata(&root)?.dev();
    let mut folders = vec![root];
    for folder in [paths::workspace(), paths::target(), Cache::open()?.join("")] {
        if fs::metadata(&folder).is_ok_and(|meta| meta.dev() != device) {
            folders.push(folder.canonicalize()?);
        }
    }
    Ok(folders)
}
