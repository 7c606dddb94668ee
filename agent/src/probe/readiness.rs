//! Waiting for the ring buffer without polling.
//!
//! The runtime wants to watch a descriptor that stays open as long as it watches; it gets a
//! duplicate of its own, so that neither side can close it under the other.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Says when the ring buffer has something to tell.
#[derive(Debug)]
pub struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Watches a duplicate of `ring`. Needs a tokio runtime.
    pub(super) fn of(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let own = ring.try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, which closes it itself.
        let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?;
        Ok(Self(watched))
    }

    /// Done when there is something to read; the next call waits for something newer, so
    /// read everything in between.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
