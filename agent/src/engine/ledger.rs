//! Ledger: every connection the kernel counted, once, under its pod.
//!
//! The invariant that makes the metrics trustworthy: what goes in with a drain comes out
//! exactly once, as one pod's leg and verdict, as the node's own, or as unattributed.
//! Rows are small enums under a pod, so it is bounded by the number of pods.

use std::collections::BTreeMap;

use super::{Accepts, Leg, Verdict, directory::PodId};
use crate::model::{Counts, Direction, Histogram, Loss, LostPackets, Outcome};

/// Reasons of drops told apart in a pod; a kernel has some hundred.
const MAX_REASONS: usize = 32;

/// All outcomes with their field of [`Counts`].
pub(super) fn outcomes(counts: &Counts) -> [(Outcome, u64); 8] {
    [
        (Outcome::Established, counts.established),
        (Outcome::Refused, counts.refused),
        (Outcome::TimedOut, counts.timed_out),
        (Outcome::Unreachable, counts.unreachable),
        (Outcome::Failed, counts.failed),
        (Outcome::Aborted, counts.aborted),
        (Outcome::NoAddress, counts.no_address),
        (Outcome::Denied, counts.denied),
    ]
}

/// Sets the field of one outcome.
pub(super) const fn set(counts: &mut Counts, outcome: Outcome, n: u64) {
    match outcome {
        Outcome::Established => counts.established = n,
        Outcome::Refused => counts.refused = n,
        Outcome::TimedOut => counts.timed_out = n,
        Outcome::Unreachable => counts.unreachable = n,
        Outcome::Failed => counts.failed = n,
        Outcome::Aborted => counts.aborted = n,
        Outcome::NoAddress => counts.no_address = n,
        Outcome::Denied => counts.denied = n,
    }
}

/// Connections of all outcomes.
pub(super) fn total(counts: &Counts) -> u64 {
    outcomes(counts)
        .iter()
        .fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

/// Adds `more` to `counts`.
pub(super) fn add(counts: &mut Counts, more: &Counts) {
    let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
    sum(&mut counts.established, more.established);
    sum(&mut counts.refused, more.refused);
    sum(&mut counts.timed_out, more.timed_out);
    sum(&mut counts.unreachable, more.unreachable);
    sum(&mut counts.failed, more.failed);
    sum(&mut counts.aborted, more.aborted);
    sum(&mut counts.no_address, more.no_address);
    sum(&mut counts.denied, more.denied);
}

/// Adds `more` to `histogram`.
pub(super) fn merge(histogram: &mut Histogram, more: &Histogram) {
    for (bucket, n) in histogram.buckets.iter_mut().zip(more.buckets) {
        *bucket = bucket.saturating_add(n);
    }
    histogram.sum_us = histogram.sum_us.saturating_add(more.sum_us);
}

/// Durations a histogram counted.
pub(super) fn samples(histogram: &Histogram) -> u64 {
    histogram
        .buckets
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
}

/// What one pod's connections came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) connections: BTreeMap<(Leg, Outcome), u64>,
    pub(super) verdicts: BTreeMap<(Direction, Verdict), u64>,
    pub(super) handshakes: BTreeMap<Leg, Histogram>,
    /// Times from established to accepted.
    pub(super) waits: BTreeMap<Accepts, Histogram>,
    /// Packets the kernel dropped while they were watched, by reason.
    pub(super) drops: BTreeMap<(Direction, String), u64>,
    /// Answers of its listeners sent again.
    pub(super) syn_acks: u64,
}

impl Account {
    /// Connections whose verdict fits.
    pub(super) fn verdicts_like(&self, fits: impl Fn(&Verdict) -> bool) -> u64 {
        let fitting = self.verdicts.iter().filter(|((_, v), _)| fits(v));
        fitting.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

/// Every connection, once.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<PodId, Account>,
    /// The node's own connections, outside every pod.
    host: u64,
    /// Every connection that came by, wherever it was counted.
    total: u64,
    /// Connections nobody claimed, by reason.
    unattributed: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Counts `n` connections of the node's own.
    pub(super) fn count_host(&mut self, n: u64) {
        self.host = self.host.saturating_add(n);
        self.total = self.total.saturating_add(n);
    }

    /// Connections of the node's own.
    pub(super) const fn host(&self) -> u64 {
        self.host
    }

    /// Every connection counted so far, also those of pods that are forgotten.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Counts `n` connections of a pod.
    pub(super) fn count(
        &mut self,
        pod: PodId,
        direction: Direction,
        outcome: Outcome,
        (leg, verdict): (Leg, Verdict),
        n: u64,
    ) {
        self.total = self.total.saturating_add(n);
        let account = self.accounts.entry(pod).or_default();
        let connections = account.connections.entry((leg, outcome)).or_default();
        *connections = connections.saturating_add(n);
        let verdicts = account.verdicts.entry((direction, verdict)).or_default();
        *verdicts = verdicts.saturating_add(n);
    }

    /// Adds handshake times of a pod.
    pub(super) fn handshakes(&mut self, pod: PodId, leg: Leg, times: &Histogram) {
        if samples(times) > 0 {
            let account = self.accounts.entry(pod).or_default();
            merge(account.handshakes.entry(leg).or_default(), times);
        }
    }

    /// Adds times that connections waited to be accepted.
    pub(super) fn waits(&mut self, pod: PodId, by: Accepts, times: &Histogram) {
        let account = self.accounts.entry(pod).or_default();
        merge(account.waits.entry(by).or_default(), times);
    }

    /// Counts packets of a pod that the kernel dropped.
    pub(super) fn dropped(&mut self, pod: PodId, lost: &LostPackets) {
        let drops = &mut self.accounts.entry(pod).or_default().drops;
        let known = |why: &str| drops.contains_key(&(lost.direction, why.to_owned()));
        let room = drops.len() < MAX_REASONS || known(lost.why());
        let why = if room { lost.why() } else { "other" };
        let count = drops.entry((lost.direction, why.to_owned())).or_default();
        *count = count.saturating_add(lost.packets);
    }

    /// Counts an answer of a pod's listener that was sent again.
    pub(super) fn syn_ack_resent(&mut self, pod: PodId) {
        let count = &mut self.accounts.entry(pod).or_default().syn_acks;
        *count = count.saturating_add(1);
    }

    /// Counts `n` connections whose pod stayed unknown.
    pub(super) fn unattributed(&mut self, reason: &'static str, n: u64) {
        self.total = self.total.saturating_add(n);
        let count = self.unattributed.entry(reason).or_default();
        *count = count.saturating_add(n);
    }

    pub(super) fn account(&self, pod: PodId) -> Option<&Account> {
        self.accounts.get(&pod)
    }

    /// Lets go of a pod's rows.
    pub(super) fn forget(&mut self, pod: PodId) {
        self.accounts.remove(&pod);
    }

    /// Unattributed connections by reason.
    pub(super) fn unattributed_rows(&self) -> Vec<Loss> {
        let row = |(at, count): (&&'static str, &u64)| Loss {
            at: (*at).to_owned(),
            count: *count,
        };
        self.unattributed.iter().map(row).collect()
    }
}
