//! CPU limits of proxies: whether one keeps its proxy from running while connections wait for it.
//!
//! Read only while somebody waits: a healthy proxy costs nothing. Two readings tell how much of the time
//! between them was denied; the kernel's counts alone, which reach back to the container's start,
//! say nothing about now. Whoever does not keep up is told about only when two readings since that began say
//! that the limit is not why: on a busy node they take their time, and what was said first is what is believed.

use std::collections::{BTreeMap, BTreeSet};

use super::Inquiry;
use crate::model::{CgroupId, CpuLimit, Time};

/// Control groups looked at; a node has some 250 pods.
const MAX_CGROUPS: usize = 1_024;
/// Between two readings, at least: less than between two looks at who waits, also where the first was late.
const EVERY_US: u64 = 600_000;
/// What was last asked about earlier is asked about anew.
const STALE_US: u64 = 10_000_000;
/// Two readings are there by then, even on a node that is short of CPU itself, or will not be. Where all is
/// as it should be they take two seconds, and one is enough where there is no limit.
const PATIENCE_US: u64 = 5_000_000;
/// Denied time is the cause of waiting from this share on: a tenth of the time, and a quarter of the
/// periods. Short throttling is everyday life of every container with a limit.
const DENIED_PART: u64 = 10;
const PERIODS_PART: u64 = 4;

/// What is known about the limit of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpu {
    /// Asked about a moment ago, and nothing speaks against it so far.
    Asked,
    /// It is let run, as far as is known.
    Free,
    /// It is kept from running.
    Throttled(Spell),
}

/// A time in which a proxy was kept from running again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spell {
    pub(super) first: Time,
    pub(super) last: Time,
    /// The limit, with what was counted in this spell alone.
    pub(super) limit: CpuLimit,
}

#[derive(Debug)]
struct Group {
    since: Time,
    asked: Time,
    last: Option<(Time, Vec<CpuLimit>)>,
    /// Since when, at the earliest, the last two readings tell what was denied.
    told_since: Option<Time>,
    spell: Option<Spell>,
}

/// The limits of all proxies somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Throttles {
    groups: BTreeMap<CgroupId, Group>,
    wanted: BTreeSet<CgroupId>,
}

impl Throttles {
    /// Somebody waits for a process of this control group.
    pub(super) fn ask(&mut self, at: Time, cgroup: CgroupId) {
        let known = self.groups.get(&cgroup);
        let fresh = known.is_none_or(|group| at.micros_since(group.asked) > STALE_US);
        if fresh {
            if self.groups.len() >= MAX_CGROUPS {
                let old = |group: &Group| at.micros_since(group.asked) > STALE_US;
                self.groups.retain(|_, group| !old(group));
            }
            if self.groups.len() >= MAX_CGROUPS {
                return;
            }
            let group = Group {
                since: at,
                asked: at,
                last: None,
                told_since: None,
                spell: None,
            };
            self.groups.insert(cgroup, group);
            self.wanted.insert(cgroup);
        } else if let Some(group) = self.groups.get_mut(&cgroup)
            && at.micros_since(group.asked) >= EVERY_US
        {
            group.asked = at;
            self.wanted.insert(cgroup);
        }
    }

    pub(super) fn next_wanted(&mut self) -> Option<Inquiry> {
        self.wanted.pop_first().map(Inquiry::Cpu)
    }

    /// The answer.
    pub(super) fn read(&mut self, at: Time, cgroup: CgroupId, limits: Vec<CpuLimit>) {
        let Some(group) = self.groups.get_mut(&cgroup) else {
            return;
        };
        if limits.is_empty() {
            // Without a limit there is nothing to compare.
            group.told_since = Some(at);
        } else if let Some((before, old)) = group.last.take() {
            let grown = limits.iter().filter_map(|now| {
                let old = old.iter().find(|old| old.level == now.level)?;
                grown(old, now)
            });
            let most = grown.max_by_key(|limit| limit.throttled_us);
            let span = at.micros_since(before);
            if let Some(limit) = most.filter(|limit| is_denied(limit, span)) {
                group.extend(at, before, limit);
            }
            group.told_since = Some(before);
        }
        group.last = Some((at, limits));
    }

    /// What is known about the limit of a control group.
    pub(super) fn of(&self, at: Time, cgroup: CgroupId) -> Cpu {
        let Some(group) = self.groups.get(&cgroup) else {
            return Cpu::Free;
        };
        match group.spell {
            Some(spell) if at.micros_since(spell.last) <= STALE_US => Cpu::Throttled(spell),
            _ if group.told_since.is_none() && at < group.patience(group.since) => Cpu::Asked,
            _ => Cpu::Free,
        }
    }

    /// Until when the limit may turn out to be the root of what began then; `None` if that is known, or nobody asked.
    pub(super) fn waits(&self, cgroup: CgroupId, begun: Time) -> Option<Time> {
        let group = self.groups.get(&cgroup)?;
        let told = group.told_since.is_some_and(|since| since >= begun);
        (!told).then(|| group.patience(begun))
    }

    pub(super) fn gone(&mut self, cgroup: CgroupId) {
        self.groups.remove(&cgroup);
        self.wanted.remove(&cgroup);
    }
}

impl Group {
    /// When the answer to what began then, or was asked then if that was later, is not waited for any longer.
    fn patience(&self, begun: Time) -> Time {
        begun.max(self.since).plus_micros(PATIENCE_US)
    }

    fn extend(&mut self, at: Time, before: Time, limit: CpuLimit) {
        let goes_on = |spell: &Spell| {
            spell.limit.level == limit.level && at.micros_since(spell.last) <= STALE_US
        };
        let spell = self.spell.filter(goes_on);
        let (first, so_far) = spell.map_or((before, None), |s| (s.first, Some(s.limit)));
        let sum =
            |get: fn(&CpuLimit) -> u64| get(&limit).saturating_add(so_far.as_ref().map_or(0, get));
        self.spell = Some(Spell {
            first,
            last: at,
            limit: CpuLimit {
                periods: sum(|l| l.periods),
                throttled: sum(|l| l.throttled),
                throttled_us: sum(|l| l.throttled_us),
                ..limit
            },
        });
    }
}

/// What was counted between two readings; `None` if it is not the same group any more.
fn grown(old: &CpuLimit, now: &CpuLimit) -> Option<CpuLimit> {
    Some(CpuLimit {
        periods: now.periods.checked_sub(old.periods)?,
        throttled: now.throttled.checked_sub(old.throttled)?,
        throttled_us: now.throttled_us.checked_sub(old.throttled_us)?,
        ..*now
    })
}

fn is_denied(limit: &CpuLimit, span_us: u64) -> bool {
    limit.throttled_us.saturating_mul(DENIED_PART) >= span_us.max(1)
        && limit.throttled > 0
        && limit.throttled.saturating_mul(PERIODS_PART) >= limit.periods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CpuLevel;

    const ONE: CgroupId = CgroupId(7);

    fn limit(level: CpuLevel, periods: u64, throttled: u64, ms: u64) -> CpuLimit {
        CpuLimit {
            level,
            quota_us: 20_000,
            period_us: 100_000,
            periods,
            throttled,
            throttled_us: ms * 1_000,
        }
    }

    /// Asks once a second, answered at once, and says what is known after each.
    fn known(answers: &[(u64, u64, u64)]) -> Cpu {
        let mut all = Throttles::default();
        let mut at = Time(0);
        for (periods, throttled, ms) in answers {
            at = at.plus_micros(1_000_000);
            all.ask(at, ONE);
            assert_eq!(all.next_wanted(), Some(Inquiry::Cpu(ONE)));
            assert_eq!(all.next_wanted(), None);
            all.read(
                at,
                ONE,
                vec![limit(CpuLevel::Container, *periods, *throttled, *ms)],
            );
        }
        all.of(at, ONE)
    }

    #[test]
    fn only_what_is_denied_while_somebody_waits_counts() {
        assert_eq!(known(&[]), Cpu::Free);
        // A long past of throttling says nothing about now.
        assert_eq!(known(&[(900, 900, 80_000)]), Cpu::Asked);
        assert_eq!(known(&[(900, 900, 80_000), (910, 901, 80_020)]), Cpu::Free);
        let Cpu::Throttled(spell) =
            known(&[(900, 900, 80_000), (910, 909, 80_700), (920, 918, 81_500)])
        else {
            unreachable!("throttled nine periods of ten");
        };
        assert_eq!((spell.limit.periods, spell.limit.throttled), (20, 18));
        assert_eq!(spell.limit.throttled_us, 1_500_000);
        assert_eq!(spell.last.micros_since(spell.first), 2_000_000);
        // Many periods, hardly any time; or much time in few of many periods.
        assert_eq!(known(&[(0, 0, 0), (10, 9, 40)]), Cpu::Free);
        assert_eq!(known(&[(0, 0, 0), (10, 2, 900)]), Cpu::Free);
    }

    #[test]
    fn nobody_waits_for_an_answer_that_does_not_come() {
        let mut all = Throttles::default();
        all.ask(Time(0), ONE);
        assert_eq!(all.of(Time(1_000_000), ONE), Cpu::Asked);
        assert_eq!(all.of(Time(4_999_999), ONE), Cpu::Asked);
        assert_eq!(all.waits(ONE, Time(1_000_000)), Some(Time(6_000_000)));
        assert_eq!(all.of(Time(5_000_000), ONE), Cpu::Free);
        assert_eq!(all.waits(CgroupId(8), Time(0)), None);
    }

    #[test]
    fn one_reading_is_enough_where_there_is_no_limit() {
        let mut all = Throttles::default();
        all.ask(Time(0), ONE);
        all.read(Time(600_000), ONE, vec![]);
        assert_eq!(all.of(Time(600_000), ONE), Cpu::Free);
        assert_eq!(all.waits(ONE, Time(500_000)), None);
        assert_eq!(all.waits(ONE, Time(700_000)), Some(Time(5_700_000)));
    }

    #[test]
    fn what_was_read_before_it_began_says_nothing_of_it() {
        let mut all = Throttles::default();
        let mut read = |second: u64| {
            let at = Time(second * 1_000_000);
            all.ask(at, ONE);
            all.read(at, ONE, vec![limit(CpuLevel::Container, 9, 0, 0)]);
            all.waits(ONE, Time(2_500_000)).is_some()
        };
        assert!(read(1) && read(2), "it has not begun");
        assert!(read(3), "the time before it is in there");
        assert!(!read(4));
    }

    #[test]
    fn the_pods_limit_counts_too_and_a_new_group_begins_anew() {
        let mut all = Throttles::default();
        let read = |all: &mut Throttles, second: u64, pod: CpuLimit| {
            let at = Time(second * 1_000_000);
            all.ask(at, ONE);
            all.read(at, ONE, vec![limit(CpuLevel::Container, 9, 0, 0), pod]);
            all.of(at, ONE)
        };
        read(&mut all, 1, limit(CpuLevel::Pod, 50, 10, 500));
        assert_eq!(
            read(&mut all, 2, limit(CpuLevel::Pod, 5, 5, 100)),
            Cpu::Free
        );
        let now = read(&mut all, 3, limit(CpuLevel::Pod, 15, 15, 900));
        assert!(matches!(now, Cpu::Throttled(s) if s.limit.level == CpuLevel::Pod));
        assert_eq!(all.of(Time(14_000_000), ONE), Cpu::Free);
    }
}
