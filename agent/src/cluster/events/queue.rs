//! Events waiting to be written: merged, bounded, rate-limited. Pure; the time is told.
//!
//! A node whose mesh broke at once has a finding for every pod; the API server must not feel that, and nobody reads 250
//! Events. What happens again while it waits only counts up, so waiting loses nothing but time.

use std::{collections::VecDeque, time::Duration};

use super::draft::Draft;

/// How fast Events may be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refill {
    /// At once.
    pub(super) burst: u32,
    /// One more each.
    pub(super) every: Duration,
}

impl Default for Refill {
    /// As many at once as client-go's recorder lets through for one object, then 20 a minute for the whole node.
    fn default() -> Self {
        Self {
            burst: 25,
            every: Duration::from_secs(3),
        }
    }
}

/// What became of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits.
    New,
    /// One like it waited already; its count is higher now.
    Merged,
    /// There was no room.
    Dropped,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Draft>,
    most: usize,
    refill: Refill,
    /// When the bucket was, or will be, full: each Event taken moves it on.
    full_at: Duration,
}

impl Queue {
    /// Empty, with room for `most`.
    pub(super) const fn new(most: usize, refill: Refill) -> Self {
        Self {
            waiting: VecDeque::new(),
            most,
            refill,
            full_at: Duration::ZERO,
        }
    }

    /// Takes a draft in. One with the same name that waits is brought up to date instead.
    pub(super) fn push(&mut self, draft: Draft) -> Pushed {
        if let Some(same) = self.waiting.iter_mut().find(|d| d.name == draft.name) {
            same.times = same.times.saturating_add(draft.times);
            same.message = draft.message;
            return Pushed::Merged;
        }
        if self.waiting.len() >= self.most {
            return Pushed::Dropped;
        }
        self.waiting.push_back(draft);
        Pushed::New
    }

    /// Puts back what could not be written, before all others; false if there was no room.
    pub(super) fn put_back(&mut self, draft: Draft) -> bool {
        if let Some(newer) = self.waiting.iter_mut().find(|d| d.name == draft.name) {
            newer.times = newer.times.saturating_add(draft.times);
            return true;
        }
        if self.waiting.len() >= self.most {
            return false;
        }
        self.waiting.push_front(draft);
        true
    }

    /// How long until the next may be written; `None` if none waits.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        // `burst` Events may be owed at any time; one more may not.
        let credit = self.refill.every * self.refill.burst.saturating_sub(1);
        let at = self.full_at.saturating_sub(credit);
        (!self.waiting.is_empty()).then(|| at.saturating_sub(now))
    }

    /// The next to be written, if it may be now.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Draft> {
        if self.due(now)? > Duration::ZERO {
            return None;
        }
        self.full_at = self.full_at.max(now) + self.refill.every;
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodKey;

    fn draft(name: &str) -> Draft {
        Draft {
            name: name.to_owned(),
            pod: PodKey {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
            },
            uid: "u".to_owned(),
            reason: "R".to_owned(),
            warning: true,
            message: "m".to_owned(),
            times: 1,
        }
    }

    fn queue(most: usize) -> Queue {
        let refill = Refill {
            burst: 2,
            every: Duration::from_secs(3),
        };
        Queue::new(most, refill)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_burst_then_a_steady_rate() {
        let mut queue = queue(10);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(queue.push(draft(name)), Pushed::New);
        }
        assert!(queue.pop(secs(100)).is_some() && queue.pop(secs(100)).is_some());
        assert_eq!(queue.due(secs(100)), Some(secs(3)));
        assert!(queue.pop(secs(102)).is_none());
        assert!(queue.pop(secs(103)).is_some());
        assert_eq!(queue.due(secs(103)), Some(secs(3)));
        assert!(queue.pop(secs(106)).is_some());
        assert_eq!(queue.due(secs(106)), None);
    }

    #[test]
    fn what_is_told_again_while_it_waits_is_counted_up() {
        let mut queue = queue(10);
        queue.push(draft("a"));
        let again = Draft {
            message: "newer".to_owned(),
            ..draft("a")
        };
        assert_eq!(queue.push(again), Pushed::Merged);
        let one = queue.pop(secs(0));
        assert_eq!(one.as_ref().map(|d| d.times), Some(2));
        assert_eq!(one.map(|d| d.message), Some("newer".to_owned()));
        assert_eq!(queue.pop(secs(0)), None);
    }

    #[test]
    fn what_is_put_back_comes_first_and_keeps_its_count() {
        let mut queue = queue(2);
        queue.push(draft("a"));
        queue.push(draft("b"));
        assert_eq!(queue.push(draft("c")), Pushed::Dropped);
        let Some(one) = queue.pop(secs(0)) else {
            return assert!(queue.waiting.is_empty());
        };
        queue.push(draft("a"));
        assert!(queue.put_back(one));
        assert_eq!(queue.waiting.len(), 2);
        assert_eq!(queue.waiting.iter().map(|d| d.times).sum::<u32>(), 3);
    }
}
