//! Which namespace's accept queues to look at next, and which samples are worth telling.
//!
//! Looking at all of 250 pods every second would cost more than all else on the node: those
//! with connections waiting come first, and the rest in turns. Pure.

use std::{collections::BTreeMap, path::PathBuf};

use crate::model::{ListenerQueue, NetnsId};

/// What is remembered of the samples.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    last: BTreeMap<NetnsId, Sampled>,
    round: u64,
}

#[derive(Debug, Default)]
struct Sampled {
    round: u64,
    queues: Option<Vec<ListenerQueue>>,
}

impl Sampled {
    fn waiting(&self) -> bool {
        self.queues.iter().flatten().any(|queue| queue.length > 0)
    }
}

impl Sampling {
    /// At most `most` of the namespaces there are: those with somebody waiting, then those
    /// looked at longest ago. Half of the places are for turns, whoever waits.
    pub(super) fn next(
        &mut self,
        mut places: Vec<(NetnsId, PathBuf)>,
        most: usize,
    ) -> Vec<(NetnsId, PathBuf)> {
        self.round += 1;
        self.last
            .retain(|netns, _| places.iter().any(|(there, _)| there == netns));
        let seen = |netns: &NetnsId| self.last.get(netns);
        places.sort_by_key(|(netns, _)| seen(netns).map_or(0, |sampled| sampled.round));
        let (mut waiting, rest): (Vec<_>, Vec<_>) = places
            .into_iter()
            .partition(|(netns, _)| seen(netns).is_some_and(Sampled::waiting));
        let turns = rest.len().min(most.div_ceil(2));
        waiting.truncate(most - turns);
        let left = most - waiting.len();
        waiting.extend(rest.into_iter().take(left));
        for (netns, _) in &waiting {
            self.last.entry(*netns).or_default().round = self.round;
        }
        waiting
    }

    /// The namespace's next sample is soon, and news.
    pub(super) fn forget(&mut self, netns: NetnsId) {
        self.last.remove(&netns);
    }

    /// Notes a sample; whether it says anything that the one before did not. Queues in use
    /// always do: that nothing moves in them is the news.
    pub(super) fn note(&mut self, netns: NetnsId, queues: &[ListenerQueue]) -> bool {
        let sampled = self.last.entry(netns).or_default();
        let same = sampled.queues.as_deref() == Some(queues);
        let quiet = queues.iter().all(|queue| queue.length == 0);
        let empty = sampled.queues.is_none() && queues.is_empty();
        sampled.queues = Some(queues.to_vec());
        !(empty || (same && quiet))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::Sampling;
    use crate::model::{Listener, ListenerQueue, NetnsId};

    fn places(count: u32) -> Vec<(NetnsId, PathBuf)> {
        (1..=count)
            .map(|id| (NetnsId(id), PathBuf::new()))
            .collect()
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
            let next = sampling.next(places(10), 4);
            assert_eq!(next.len(), 4);
            for (netns, _) in next {
                looked[netns.0 as usize] += 1;
                sampling.note(netns, &[queue(u32::from(netns.0 == 7))]);
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
            for (netns, _) in sampling.next(places(10), 2) {
                looked[netns.0 as usize] += 1;
                sampling.note(netns, &[queue(u32::from(netns.0 > 2))]);
            }
        }
        assert!((1..=10).all(|id| looked[id] >= 3), "{looked:?}");
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
            assert_eq!(sampling.note(one, &queues), told, "{queues:?}");
        }
    }
}
