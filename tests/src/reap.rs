//! Clean-up that survives the harness: signals, and a process that outlives it.
//!
//! `Drop` cleans up after errors and panics. SIGINT and SIGTERM set a flag that ends the run early, so that `Drop` runs
//! then, too. For SIGKILL there is the reaper: a child that waits for the end of a pipe whose other end only the harness
//! holds, and then removes everything that carries the run's id.
//!
//! It must never remove what carries another id: several runs share a machine.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use crate::world;

/// What to remove when standard input ends.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Beginning of the runs' ids
    id: String,
    /// Folder of the runs' files
    dir: PathBuf,
}

/// The reaper's side of it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut rest = Vec::new();
    // An error means the same as the end: the harness is gone.
    let _ = std::io::stdin().read_to_end(&mut rest);
    if rest.is_empty() {
        for problem in world::remove(&options.id) {
            eprintln!("clean-up: {problem}");
        }
        let _ = std::fs::remove_dir_all(&options.dir);
    }
    Ok(ExitCode::SUCCESS)
}

/// Ids, files and clean-up of one invocation of the harness.
#[derive(Debug)]
pub(crate) struct Session {
    /// Beginning of every run's id: 6 hex digits.
    pub(crate) id: String,
    /// Parent of the runs' folders.
    pub(crate) dir: PathBuf,
    /// Set by SIGINT and SIGTERM.
    pub(crate) stop: Arc<AtomicBool>,
    keep: bool,
    reaper: Child,
    pipe: Option<ChildStdin>,
}

/// The run that is none: what all runs of a session share. The highest of three hex digits.
pub(crate) const HUB: usize = 0xfff;

impl Session {
    /// Must be opened before any other thread starts, because it blocks signals for all of them.
    pub(crate) fn open(keep: bool) -> Result<Self> {
        let id = fresh_id();
        let dir = Path::new("/tmp").join(format!("sidestep-test-{id}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Sidecars read their configuration under their own user.
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let stop = Arc::new(AtomicBool::new(false));
        watch_signals(&stop)?;
        let mut reaper = crate::process::myself()
            .args(["reap", &id])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the reaper")?;
        let pipe = reaper.stdin.take();
        Ok(Self {
            id,
            dir,
            stop,
            keep,
            reaper,
            pipe,
        })
    }

    /// The id of a run: 8 hex digits, the last three of them the run's own.
    pub(crate) fn run_id(&self, index: usize) -> String {
        format!("{}{:03x}", self.id, index.min(HUB))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            if self.keep {
                // A byte tells it to leave everything.
                let _ = std::io::Write::write_all(&mut pipe, b"k");
            }
            drop(pipe);
        }
        let _ = self.reaper.wait();
    }
}

fn fresh_id() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mixed = (now.as_secs().rotate_left(32)
        ^ u64::from(now.subsec_nanos())
        ^ u64::from(std::process::id()) << 8)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:05x}", mixed >> 44)
}

fn watch_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if stop.swap(true, Ordering::Relaxed) {
                // Asked twice: leave the rest to the reaper.
                std::process::exit(128 + signal as i32);
            }
            eprintln!("{signal}: cleaning up; once more to leave at once");
        }
    });
    Ok(())
}
