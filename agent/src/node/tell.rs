//! How the node's threads tell what they found: wait while the channel is full, stop when asked.
//!
//! These threads are not the runtime's and may sleep. They must never lose what they found
//! to a full channel, and never outlive whoever would have received it.

use std::{thread, time::Duration};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::engine::Input;

/// Time between two tries to send while the channel is full.
const FULL: Duration = Duration::from_millis(2);

/// Nobody listens any more.
pub(super) struct Closed;

/// Sends everything in order, unless `stopped` meanwhile.
pub(super) fn tell(
    to: &Sender<Input>,
    stopped: impl Fn() -> bool,
    inputs: impl IntoIterator<Item = Input>,
) -> Result<(), Closed> {
    for mut input in inputs {
        while let Err(error) = to.try_send(input) {
            match error {
                TrySendError::Full(back) if !stopped() => input = back,
                _ => return Err(Closed),
            }
            thread::sleep(FULL);
        }
    }
    Ok(())
}
