//! The agent's clock: the wall clock at start, the monotonic clock from then on.
//!
//! A clock step (NTP, suspend) must neither close findings nor open them, so the wall
//! clock is read exactly once.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Tells the time everything in the engine is stamped with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
    wall: Time,
}

impl Clock {
    /// Reads both clocks now.
    pub(super) fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            wall: Time(micros(wall)),
        }
    }

    /// Now.
    pub(super) fn now(&self) -> Time {
        self.wall.plus_micros(micros(self.start.elapsed()))
    }

    /// The instant at which `at` comes.
    pub(super) fn instant(&self, at: Time) -> Instant {
        self.start + Duration::from_micros(at.micros_since(self.wall))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
