//! What every output looks at: the latest board, and the few facts about the agent beside it.
//!
//! A view is cheap to clone and only reads. It has no clock of its own, so that its age
//! arithmetic can be tested and agrees with the times on the board.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use super::BoardReceiver;
use crate::{
    engine::Board,
    model::{Loss, Time},
};

/// Tells the time the board's times are made of.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// The latest board and what belongs to it.
#[derive(Clone)]
pub struct View {
    boards: BoardReceiver,
    clock: Clock,
    created: Time,
    losses: Vec<(&'static str, Arc<AtomicU64>)>,
    config: Arc<serde_json::Value>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl View {
    /// A view of the boards that arrive in `boards`.
    #[must_use]
    pub fn new(boards: BoardReceiver, clock: Clock) -> Self {
        let created = clock();
        Self {
            boards,
            clock,
            created,
            losses: Vec::new(),
            config: Arc::new(serde_json::Value::Null),
        }
    }

    /// The same view with the settings to show at `/v1/config`.
    ///
    /// # Errors
    /// A setting has no JSON form (a path that is not UTF-8).
    pub fn with_config(mut self, config: &impl Serialize) -> Result<Self, serde_json::Error> {
        self.config = Arc::new(serde_json::to_value(config)?);
        Ok(self)
    }

    /// The same view with one more bound at which an edge of the agent drops things (log
    /// lines, recorded inputs); exported beside the kernel's and the engine's losses.
    #[must_use]
    pub fn with_loss(mut self, at: &'static str, count: Arc<AtomicU64>) -> Self {
        self.losses.push((at, count));
        self
    }

    /// Asks for a board of now and waits a moment for it.
    pub async fn refresh(&self) {
        self.boards.refresh().await;
    }

    /// The latest board.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        self.boards.latest()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// Whether the kernel's counters have been read at least once.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.boards.drained().is_some()
    }

    /// Age of the counters on a board of now: time since the kernel's were read, or since the start
    /// while they were not. It grows where the event loop hangs.
    #[must_use]
    pub fn age(&self) -> Duration {
        let read = self.boards.drained().unwrap_or_default();
        Duration::from_micros((self.clock)().micros_since(read.max(self.created)))
    }

    /// Everything dropped at a bound: in the kernel, in the engine, at the edges.
    #[must_use]
    pub fn losses(&self) -> Vec<Loss> {
        let board = self.board();
        let edges = self.losses.iter().map(|(at, count)| Loss {
            at: (*at).to_owned(),
            count: count.load(Ordering::Relaxed),
        });
        board
            .kernel
            .losses
            .iter()
            .chain(&board.losses)
            .cloned()
            .chain(edges)
            .collect()
    }
}
