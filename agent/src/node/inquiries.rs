//! What the engine wants to know and nobody tells by itself: read once when asked, with the next round
//! of samples, so that no thread wakes up for it and a healthy node reads nothing.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
};

use super::{cpu, passage, scanner::Scanner};
use crate::engine::{Input, Inquiry};

/// Inquiries that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Inquiries(Mutex<BTreeSet<Inquiry>>);

impl Inquiries {
    pub(super) fn put(&self, inquiry: Inquiry) {
        let waiting = self.0.lock();
        waiting
            .unwrap_or_else(PoisonError::into_inner)
            .insert(inquiry);
    }

    /// The answers to all that were put since the last call.
    pub(super) fn answers(&self, scanner: &Scanner) -> Vec<Input> {
        let waiting = self.0.lock();
        let waiting = mem::take(&mut *waiting.unwrap_or_else(PoisonError::into_inner));
        let answer = |inquiry| match inquiry {
            Inquiry::Cpu(cgroup) => Input::Cpu {
                cgroup,
                limits: cpu::limits(&scanner.limited(cgroup)),
            },
            Inquiry::Passage(ends) => Input::Passage(passage::of(ends, &scanner.places_and_node())),
        };
        waiting.into_iter().map(answer).collect()
    }
}
