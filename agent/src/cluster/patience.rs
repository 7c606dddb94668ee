//! How long a watch waits before it tries again.
//!
//! The wait grows while the API server is away, so that a cluster's agents do not storm it when it comes back. What is said
//! by a server that answers again, as that the place in the watch is too old, must not wait for what an outage built up:
//! pods come and go meanwhile.

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};

use super::account::Account;

/// From 0.8 s to 30 s, jittered; from the start again once the API server answers.
pub(super) struct Patience {
    account: Account,
    path: &'static str,
    /// Requests that had succeeded when it waited last.
    answered: u64,
    growing: DefaultBackoff,
}

impl Patience {
    /// Of the watch of a path.
    pub(super) fn new(account: Account, path: &'static str) -> Self {
        Self {
            account,
            path,
            answered: 0,
            growing: DefaultBackoff::default(),
        }
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let answered = self.account.answered(self.path);
        if answered > self.answered {
            self.answered = answered;
            self.growing.reset();
        }
        self.growing.next()
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.growing.reset();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::{super::account::PODS_PATH, *};

    #[test]
    fn it_grows_without_an_answer_and_begins_anew_with_one() {
        let account = Account::default();
        let mut patience = Patience::new(account.clone(), PODS_PATH);
        let long = patience.by_ref().take(12).last().unwrap();
        assert!(long >= Duration::from_secs(30), "{long:?}");
        account.answer(PODS_PATH);
        let short = patience.next().unwrap();
        assert!(short < Duration::from_secs(2), "{short:?}");
        // One answer is one new beginning.
        assert!(patience.by_ref().take(12).last().unwrap() >= Duration::from_secs(30));
    }
}
