//! Time as the core sees it: a number handed in from outside.

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, from a clock that never goes back.
///
/// The edge anchors the kernel's monotonic clock to the wall clock once at start, so
/// that intervals are exact and a clock step does not close or open findings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The instant `micros` microseconds after this one.
    #[must_use]
    pub const fn plus_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The instant `secs` seconds after this one.
    #[must_use]
    pub const fn plus_secs(self, secs: u64) -> Self {
        self.plus_micros(secs.saturating_mul(1_000_000))
    }

    /// Microseconds from `earlier` to this instant, 0 if `earlier` is later.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
