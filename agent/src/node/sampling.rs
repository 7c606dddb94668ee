//! Which namespace's accept queues to look at next, and which samples are worth telling.
//!
//! A visit to each of 250 namespaces every second would cost more than all else on the node: those in which somebody
//! waits come first, the others in turns. Must never forget one: a queue that nobody looks at may be full. Pure.

use std::collections::BTreeMap;

use super::{looks::Told, turns::Turns};
use crate::model::{ListenerQueue, NetnsId};

/// Namespaces in a round in which nobody is known to wait. A visit is a thread, a socket and a
/// dump, and on a full node they are most of what the agent does.
pub(super) const QUIET: usize = 40;

/// So many samples after something happened a namespace is still busy: long enough for a count of its sockets.
const BUSY: u32 = 4;
/// A namespace in which nothing happens has its turn after so many rounds, or up to twice as many: all of
/// them at once would keep those waiting in which something does.
const REST: u64 = 20;
/// So many samples after the last in which somebody waited a queue is still in use: who accepts in bursts, as one
/// does that may not run all the time, empties it again and again, and a sample may fall there.
const IN_USE: u32 = 5;

/// What is remembered of the samples.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    turns: Turns,
    last: BTreeMap<NetnsId, Past>,
    /// Where something happened lately, and for how many samples that is so.
    busy: BTreeMap<NetnsId, u32>,
}

/// The samples of one namespace.
#[derive(Debug, Default)]
struct Past {
    queues: Option<Vec<ListenerQueue>>,
    overflows: Option<u64>,
    /// Samples for which its queues are still in use.
    in_use: u32,
}

impl Sampling {
    /// Whose turn it is, see [`Turns::next`]; where it is known who waits, [`Turns::among`]: a queue fills by
    /// connections, and the kernel tells of each.
    pub(super) fn next(&mut self, there: Vec<NetnsId>, most: usize, told: &Told) -> Vec<NetnsId> {
        self.last.retain(|netns, _| there.contains(netns));
        self.turns.keep(&there);
        let busy = told.busy.iter().map(|netns| (*netns, BUSY));
        self.busy.extend(busy);
        self.busy.retain(|netns, _| there.contains(netns));
        let busy = &self.busy;
        let is_worth = |netns: NetnsId, rounds| {
            rounds >= REST + u64::from(netns.0) % REST || busy.contains_key(&netns)
        };
        let next = match &told.waiting {
            Some(waiting) => self.turns.among(there, waiting, most, (QUIET, is_worth)),
            None => self.turns.next(there, most),
        };
        for netns in &next {
            self.busy.entry(*netns).and_modify(|left| *left -= 1);
        }
        self.busy.retain(|_, left| *left > 0);
        next
    }

    /// There is more to be seen in the next rounds, whatever happens.
    pub(super) fn stays_busy(&mut self, netns: NetnsId) {
        self.busy.insert(netns, BUSY);
    }

    /// The namespace's next sample is soon, and news.
    pub(super) fn forget(&mut self, netns: NetnsId) {
        self.last.remove(&netns);
        self.turns.forget(netns);
    }

    /// Whether somebody waited in one of its queues lately.
    pub(super) fn is_in_use(&self, netns: NetnsId) -> bool {
        self.last.get(&netns).is_some_and(|past| past.in_use > 0)
    }

    /// Notes a sample; whether it says anything that the one before did not. Queues in which
    /// somebody waits always do: that nothing moves in them is the news.
    pub(super) fn note(
        &mut self,
        netns: NetnsId,
        queues: &[ListenerQueue],
        overflows: Option<u64>,
    ) -> bool {
        let last = self.last.entry(netns).or_default();
        let same = last.queues.as_deref() == Some(queues);
        let quiet = queues.iter().all(|queue| queue.length == 0);
        let empty = last.queues.is_none() && queues.is_empty();
        let lost = overflows.is_some() && overflows != last.overflows;
        let in_use = match quiet {
            true => last.in_use.saturating_sub(1),
            false => IN_USE,
        };
        *last = Past {
            queues: Some(queues.to_vec()),
            overflows: overflows.or(last.overflows),
            in_use,
        };
        self.turns.note(netns, in_use > 0);
        !(empty || (same && quiet && !lost))
    }
}

#[cfg(test)]
mod tests {
    use super::{BUSY, QUIET, REST, Sampling};
    use crate::{
        model::{Listener, ListenerQueue, NetnsId},
        node::looks::Told,
    };

    fn places(count: u32) -> Vec<NetnsId> {
        (1..=count).map(NetnsId).collect()
    }

    fn queue(length: u32) -> ListenerQueue {
        ListenerQueue {
            listener: Listener {
                addr: std::net::Ipv4Addr::UNSPECIFIED.into(),
                port: 80,
                dual_stack: false,
            },
            length,
            max: 128,
            uid: 0,
        }
    }

    #[test]
    fn everybody_has_a_turn_and_those_with_a_queue_have_more() {
        let mut sampling = Sampling::default();
        let mut looked = [0; 11];
        for _ in 0..10 {
            let next = sampling.next(places(10), 4, &Told::default());
            assert_eq!(next.len(), 4);
            for netns in next {
                looked[netns.0 as usize] += 1;
                sampling.note(netns, &[queue(u32::from(netns.0 == 7))], None);
            }
        }
        assert!((1..=10).all(|id| looked[id] >= 3), "{looked:?}");
        assert!(looked[7] >= 8, "{looked:?}");
    }

    #[test]
    fn many_with_a_queue_do_not_starve_the_rest() {
        let mut sampling = Sampling::default();
        let mut looked = [0; 11];
        for _ in 0..40 {
            for netns in sampling.next(places(10), 2, &Told::default()) {
                looked[netns.0 as usize] += 1;
                sampling.note(netns, &[queue(u32::from(netns.0 > 2))], None);
            }
        }
        assert!((1..=10).all(|id| looked[id] >= 3), "{looked:?}");
    }

    /// How often each of 250 namespaces is looked at in 100 rounds, in all of which these are busy.
    fn looked(busy: &[u32]) -> [u64; 251] {
        let mut sampling = Sampling::default();
        let told = Told {
            waiting: Some([NetnsId(77)].into()),
            busy: busy.iter().copied().map(NetnsId).collect(),
        };
        let mut looked = [0; 251];
        for round in 0..100 {
            let next = sampling.next(places(250), 64, &told);
            assert!(round < 6 || next.len() <= 1 + QUIET, "{}", next.len());
            for netns in next {
                looked[netns.0 as usize] += 1;
                sampling.note(netns, &[queue(0)], None);
            }
        }
        // At first there is somebody new in every place.
        assert!(looked[77] >= 96, "somebody waits there: {}", looked[77]);
        sampling.forget(NetnsId(5));
        let next = sampling.next(places(250), 64, &told);
        assert!(next.contains(&NetnsId(5)));
        looked
    }

    #[test]
    fn where_it_is_known_who_waits_the_busy_share_the_other_turns() {
        let all: Vec<u32> = (1..=250).collect();
        let looked = looked(&all);
        assert!((1..=250).all(|id| looked[id] >= 14), "{looked:?}");
    }

    #[test]
    fn where_nothing_happens_nobody_looks_but_rarely() {
        let looked = looked(&[9]);
        assert!(looked[9] >= 95, "it is busy: {}", looked[9]);
        let quiet = (1..=250).filter(|id| ![9, 77].contains(id));
        let rarely = 100 / (2 * REST)..=100 / REST + 1;
        assert!(
            quiet.map(|id| looked[id]).all(|n| rarely.contains(&n)),
            "{looked:?}"
        );
    }

    #[test]
    fn what_happened_is_looked_at_for_some_rounds() {
        let mut sampling = Sampling::default();
        let mut told = Told {
            waiting: Some([].into()),
            busy: [NetnsId(1)].into(),
        };
        let mut rounds = 0;
        while !sampling.next(places(1), 64, &told).is_empty() {
            sampling.note(NetnsId(1), &[queue(0)], None);
            told.busy.clear();
            rounds += 1;
        }
        assert_eq!(rounds, BUSY);
        sampling.stays_busy(NetnsId(1));
        assert_eq!(sampling.next(places(1), 64, &told), places(1));
    }

    #[test]
    fn only_news_is_told() {
        let mut sampling = Sampling::default();
        let one = NetnsId(1);
        for (queues, told) in [
            (vec![], false),
            (vec![queue(0)], true),
            (vec![queue(0)], false),
            (vec![queue(3)], true),
            (vec![queue(3)], true),
            (vec![queue(0)], true),
            (vec![], true),
            (vec![], false),
        ] {
            assert_eq!(sampling.note(one, &queues, None), told, "{queues:?}");
        }
    }

    #[test]
    fn a_queue_that_is_emptied_again_and_again_stays_in_use() {
        let mut sampling = Sampling::default();
        let one = NetnsId(1);
        sampling.note(one, &[queue(0)], None);
        assert!(!sampling.is_in_use(one));
        assert!(sampling.note(one, &[queue(3)], Some(7)));
        assert!(sampling.note(one, &[queue(0)], Some(7)), "it is empty");
        assert!(sampling.note(one, &[queue(0)], Some(9)), "it was full");
        assert!(!sampling.note(one, &[queue(0)], Some(9)));
        assert!(sampling.is_in_use(one));
        (0..2).for_each(|_| assert!(!sampling.note(one, &[queue(0)], Some(9))));
        assert!(!sampling.is_in_use(one));
    }
}
