//! When to scan, and what is worth a scan of its own.
//!
//! Quick when something happens, and still only a share of the time however much happens:
//! a node that starts a thousand pods a minute must not pay for being watched. Pure: times
//! are handed in.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::scanner::Scanner;
use crate::model::{CgroupId, NetnsId};

/// After a notice, scans follow at these times: a runtime takes a while from making a
/// cgroup to running the container in it.
const FOLLOW_MS: [u64; 5] = [2, 20, 80, 250, 600];
/// Scans take at most one part of so many of the time.
const SHARE: u32 = 10;
/// What was not found is not looked for again for so long.
const AGAIN: Duration = Duration::from_secs(5);
/// Most things remembered as not found.
const MAX_ASKED: usize = 4_096;

/// When to scan next.
#[derive(Debug)]
pub(super) struct Schedule {
    pub next: Instant,
    /// Not before: scans take only their share of the time.
    earliest: Instant,
    follow: Vec<Instant>,
}

impl Schedule {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            next: now,
            earliest: now,
            follow: Vec::new(),
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Something happened: several scans, soon.
    pub(super) fn notice(&mut self, now: Instant) {
        self.follow = FOLLOW_MS.map(|ms| now + Duration::from_millis(ms)).to_vec();
        self.next = self
            .next
            .min(now + Duration::from_millis(FOLLOW_MS[0]))
            .max(self.earliest);
    }

    /// A scan that took so much of a processor's time. On a node that is short of it a scan takes
    /// many times as long, which must not keep the next one away: pods come and go meanwhile.
    pub(super) fn done(
        &mut self,
        (started, ended): (Instant, Instant),
        cost: Duration,
        every: Duration,
    ) {
        self.earliest = ended + (cost * (SHARE - 1)).max(ended - started);
        self.follow.retain(|at| *at > started);
        let soon = self.follow.first().map(|at| (*at).max(self.earliest));
        self.next = soon
            .unwrap_or(ended + every)
            .min(ended + every)
            .max(self.earliest);
    }
}

/// What the last scan found, and what was looked for in vain.
#[derive(Debug, Default)]
pub(super) struct Known {
    netns: BTreeSet<NetnsId>,
    cgroups: BTreeSet<CgroupId>,
    asked: HashMap<(NetnsId, CgroupId), Instant>,
    /// Whose connections were told of since that was asked last.
    busy: BTreeSet<NetnsId>,
}

impl Known {
    pub(super) fn learn(&mut self, scanner: &Scanner) {
        self.netns = scanner.namespaces().collect();
        self.cgroups = scanner.cgroups().collect();
        let (netns, cgroups) = (&self.netns, &self.cgroups);
        self.asked
            .retain(|(n, c), _| !(netns.contains(n) && is_known(cgroups, *c)));
    }

    /// Namespaces seen since the last call.
    pub(super) fn take_busy(&mut self) -> BTreeSet<NetnsId> {
        std::mem::take(&mut self.busy)
    }

    /// The kernel told of them. Whether to look for them now; if so, they count as looked for.
    pub(super) fn seen(&mut self, netns: NetnsId, cgroup: CgroupId, now: Instant) -> bool {
        if self.netns.contains(&netns) {
            self.busy.insert(netns);
            if is_known(&self.cgroups, cgroup) {
                return false;
            }
        }
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
        }
        let asked = self.asked.insert((netns, cgroup), now);
        match asked {
            Some(asked) if now.duration_since(asked) < AGAIN => {
                self.asked.insert((netns, cgroup), asked);
                false
            }
            _ => true,
        }
    }
}

/// The root holds everything that nobody put elsewhere; 0 is what the kernel did not tell.
fn is_known(cgroups: &BTreeSet<CgroupId>, cgroup: CgroupId) -> bool {
    cgroup.0 <= 1 || cgroups.contains(&cgroup)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Known, Schedule};
    use crate::model::{CgroupId, NetnsId};

    const EVERY: Duration = Duration::from_secs(2);

    #[test]
    fn a_notice_brings_several_scans_soon() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start);
        assert!(schedule.is_due(start));
        schedule.done((start, start), Duration::ZERO, EVERY);
        assert_eq!(schedule.next, ms(2000));
        schedule.notice(ms(100));
        let mut scans = Vec::new();
        while schedule.next < ms(1000) {
            let at = schedule.next;
            scans.push((at - start).as_millis());
            schedule.done((at, at), Duration::ZERO, EVERY);
        }
        assert_eq!(scans, [102, 120, 180, 350, 700]);
        assert_eq!(schedule.next, ms(2700));
    }

    #[test]
    fn notices_without_end_leave_the_scans_their_share() {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(10);
        let cost = Duration::from_millis(10);
        let mut schedule = Schedule::new(now);
        let mut spent = Duration::ZERO;
        while now < end {
            if schedule.is_due(now) {
                schedule.done((now, now + cost), cost, EVERY);
                spent += cost;
                now += cost;
            }
            schedule.notice(now);
            now += Duration::from_millis(1);
        }
        assert!(spent <= Duration::from_millis(1100), "{spent:?}");
        assert!(spent >= Duration::from_millis(800), "{spent:?}");
    }

    #[test]
    fn a_scan_that_had_to_wait_for_a_processor_was_not_dear() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start);
        schedule.done((start, ms(800)), Duration::from_millis(8), EVERY);
        schedule.notice(ms(800));
        // The sampling has its turn, too.
        assert_eq!(schedule.next, ms(1600));
    }

    #[test]
    fn what_is_unknown_is_looked_for_once_in_a_while() {
        let now = Instant::now();
        let (netns, cgroup) = (NetnsId(7), CgroupId(9));
        let mut known = Known::default();
        assert!(known.seen(netns, cgroup, now));
        assert!(!known.seen(netns, cgroup, now + Duration::from_secs(1)));
        assert!(!known.seen(netns, cgroup, now + Duration::from_secs(4)));
        assert!(known.seen(netns, cgroup, now + Duration::from_secs(5)));
        known.netns.insert(netns);
        known.cgroups.insert(cgroup);
        assert!(!known.seen(netns, cgroup, now + Duration::from_secs(60)));
        assert!(!known.seen(netns, CgroupId(1), now));
    }

    #[test]
    fn whoever_is_known_and_seen_is_busy_until_that_is_asked() {
        let mut known = Known::default();
        known.netns.insert(NetnsId(7));
        for netns in [NetnsId(7), NetnsId(8)] {
            known.seen(netns, CgroupId(1), Instant::now());
        }
        assert!(known.take_busy().into_iter().eq([NetnsId(7)]));
        assert!(known.take_busy().is_empty());
    }
}
