//! What a proxy or server counted, in a file that the harness reads.
//!
//! The agent must be judged by facts that it did not deliver itself; these counters are the facts. Each change
//! rewrites one short line in place, which costs a microsecond and survives SIGKILL. One thread at a time counts and
//! writes: a thread that was kept waiting between the two would take back what others counted meanwhile.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, chown};
use std::path::Path;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};

/// Makes the file while the process is still root, for the user that will write it.
pub(crate) fn make(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    File::create(path)
        .and_then(|_| chown(path, uid, gid))
        .with_context(|| format!("cannot make {}", path.display()))
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    file: Mutex<Option<File>>,
    /// Accepted on the outbound capture port.
    pub(crate) outbound: AtomicU64,
    /// Accepted on the inbound capture port.
    pub(crate) inbound: AtomicU64,
    /// Accepted by a server, or on the proxy's own ports.
    pub(crate) served: AtomicU64,
    /// Connections opened by the proxy.
    pub(crate) dialed: AtomicU64,
    /// Connections the proxy could not open.
    pub(crate) dial_failed: AtomicU64,
}

impl Counters {
    /// Counts into a file that [`make`] made, or nowhere.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let file = match path {
            Some(path) => Some(
                OpenOptions::new()
                    .write(true)
                    .open(path)
                    .with_context(|| format!("cannot open {}", path.display()))?,
            ),
            None => None,
        };
        Ok(Self {
            file: Mutex::new(file),
            ..Self::default()
        })
    }

    /// Adds one to a counter of this set.
    pub(crate) fn add(&self, counter: &AtomicU64) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        counter.fetch_add(1, Ordering::Relaxed);
        let Some(file) = file.as_ref() else { return };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let line = format!(
            "{{\"outbound\":{:<9},\"inbound\":{:<9},\"served\":{:<9},\"dialed\":{:<9},\"dial_failed\":{:<9}}}\n",
            get(&self.outbound),
            get(&self.inbound),
            get(&self.served),
            get(&self.dialed),
            get(&self.dial_failed),
        );
        if let Err(error) = file.write_all_at(line.as_bytes(), 0) {
            eprintln!("cannot write the counters: {error}");
        }
    }
}
