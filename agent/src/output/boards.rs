//! The board's way from the event loop to the outputs: drawn when somebody asks for it.
//!
//! A board is some thousands of rows of strings, 1.6 MiB on a full node, and twice that while one replaces another.
//! Prometheus asks every 15 or 30 s, people hardly ever. Whoever asks waits for the event loop, but not for long: where
//! that hangs, the last board is shown, and its age tells.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{engine::Board, model::Time};

/// How long an answer waits for a new board. Less than a kubelet's probe does, whose default is 1 s.
const PATIENCE: Duration = Duration::from_millis(500);

/// Both ends; the receiver begins with an empty board.
#[must_use]
pub fn boards() -> (BoardSender, BoardReceiver) {
    let (boards, latest) = watch::channel(Arc::default());
    let wanted = Arc::new(Notify::new());
    let drained = Arc::new(AtomicU64::new(NEVER));
    let receiver = BoardReceiver {
        latest,
        wanted: Arc::clone(&wanted),
        drained: Arc::clone(&drained),
    };
    let sender = BoardSender {
        boards,
        wanted,
        drained,
        current: false,
    };
    (sender, receiver)
}

/// No drain yet.
const NEVER: u64 = 0;

/// The event loop's end.
#[derive(Debug)]
pub struct BoardSender {
    boards: watch::Sender<Arc<Board>>,
    wanted: Arc<Notify>,
    drained: Arc<AtomicU64>,
    /// Nothing worth another board has happened since the last was drawn.
    current: bool,
}

impl BoardSender {
    /// Done when somebody wants a board. Nobody is forgotten if this is dropped.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Shows a board to all that want one: another one only if the last is no longer current, so
    /// that however many ask, it is drawn no more often than something happens.
    pub fn show(&mut self, draw: impl FnOnce() -> Arc<Board>) {
        if self.current {
            self.boards.send_modify(|_| ());
        } else {
            self.boards.send_replace(draw());
            self.current = true;
        }
    }

    /// Something was told that whoever asks next must see.
    pub const fn outdate(&mut self) {
        self.current = false;
    }

    /// The kernel's counters were read.
    pub fn drained(&mut self, at: Time) {
        self.drained.store(at.0.max(NEVER + 1), Ordering::Relaxed);
        self.outdate();
    }
}

/// The outputs' end.
#[derive(Clone, Debug)]
pub struct BoardReceiver {
    latest: watch::Receiver<Arc<Board>>,
    wanted: Arc<Notify>,
    drained: Arc<AtomicU64>,
}

impl BoardReceiver {
    /// Asks for a board of now and waits for it, but not for an event loop that hangs or is gone.
    pub async fn refresh(&self) {
        let mut latest = self.latest.clone();
        latest.mark_unchanged();
        self.wanted.notify_one();
        // Either way the latest there is will be shown, with its age.
        let _ = timeout(PATIENCE, latest.changed()).await;
    }

    /// The latest board.
    #[must_use]
    pub fn latest(&self) -> Arc<Board> {
        Arc::clone(&self.latest.borrow())
    }

    /// When the kernel's counters were read last.
    #[must_use]
    pub fn drained(&self) -> Option<Time> {
        match self.drained.load(Ordering::Relaxed) {
            NEVER => None,
            at => Some(Time(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(at: u64) -> Arc<Board> {
        Arc::new(Board {
            at: Time(at),
            ..Board::default()
        })
    }

    /// Shows boards of growing times to whoever asks; gives how many were drawn.
    async fn event_loop(mut sender: BoardSender, drains: u64) -> u64 {
        let mut drawn = 0;
        for at in 1..=drains {
            sender.drained(Time(at));
            for _ in 0..2 {
                sender.wanted().await;
                sender.show(|| {
                    drawn += 1;
                    board(at)
                });
            }
        }
        drawn
    }

    #[tokio::test]
    async fn a_board_is_drawn_for_who_asks_and_not_twice_between_drains() {
        let (sender, receiver) = boards();
        assert_eq!((receiver.drained(), receiver.latest().at), (None, Time(0)));
        let drawn = tokio::spawn(event_loop(sender, 3));
        for asked in [1, 1, 2, 2, 3, 3] {
            receiver.refresh().await;
            assert_eq!(receiver.latest().at, Time(asked));
        }
        assert_eq!(drawn.await.ok(), Some(3));
        assert_eq!(receiver.drained(), Some(Time(3)));
    }

    #[tokio::test]
    async fn all_that_wait_are_answered_by_one_board() {
        let (mut sender, receiver) = boards();
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let receiver = receiver.clone();
                tokio::spawn(async move {
                    receiver.refresh().await;
                    receiver.latest().at
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.wanted().await;
        sender.show(|| board(7));
        for one in asking {
            assert_eq!(one.await.ok(), Some(Time(7)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_loop_that_hangs_holds_nobody_up() {
        let (mut sender, receiver) = boards();
        sender.show(|| board(5));
        let before = tokio::time::Instant::now();
        receiver.refresh().await;
        assert_eq!(before.elapsed(), PATIENCE);
        assert_eq!(receiver.latest().at, Time(5));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_is_not_waited_for() {
        let (mut sender, receiver) = boards();
        sender.show(|| board(5));
        drop(sender);
        let before = tokio::time::Instant::now();
        receiver.refresh().await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(receiver.latest().at, Time(5));
    }
}
