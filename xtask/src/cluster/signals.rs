//! Ctrl-C that ends the work and not the process, so that everything is taken down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Must be called before any other thread starts, because it blocks signals for all of them.
    pub(crate) fn watch() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("cannot block signals")?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                eprintln!("{signal}: taking the cluster down");
                flag.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self(stop))
    }

    /// An error once somebody asked to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        Ok(())
    }
}
