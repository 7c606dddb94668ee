//! Looks into namespaces: who waits to be accepted, and whose connections make no progress.
//!
//! Once a second a few namespaces are visited, in turns. Accept queues are cheap to read.
//! Connections are not: the kernel has one table of them for the whole machine, walks it whoever
//! asks, and on a large or busy node a walk takes milliseconds. So namespaces are walked where the
//! probes saw something wait, and the others rarely; where probes cannot tell, what a walk took
//! decides how many there are. Either way the agent's own time does not grow with the node's connections.

use std::{
    collections::BTreeSet,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use super::{
    enter,
    ports::{self, Ports},
    queues,
    sampling::{QUIET, Sampling},
    streams,
    turns::{Pace, Turns},
};
use crate::{
    engine::{Change, Input},
    model::{ListenerQueue, NetnsId},
};

/// Rounds from one count of a namespace's sockets to the next.
const COUNTED_EVERY: u64 = 3;
/// Name of the accept queues as a source in [`Change::Source`].
const QUEUES: &str = "queues";

/// What is remembered between the rounds.
#[derive(Debug, Default)]
pub(super) struct Looks {
    sampling: Sampling,
    turns: Turns,
    pace: Pace,
    ports: Ports,
    round: u64,
    trouble: Option<String>,
    /// The last round did not find the way into a namespace any more.
    pub(super) lost: bool,
}

/// Most namespaces in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) queues: usize,
    pub(super) streams: usize,
}

/// What the kernel told since the last round.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Somebody waits in these namespaces, and in no others, if that is known at all.
    pub(super) waiting: Option<BTreeSet<NetnsId>>,
    /// A connection came, went or ended in these.
    pub(super) busy: BTreeSet<NetnsId>,
}

type Queues = (Vec<ListenerQueue>, Option<u64>);

/// What one visit was for, and what it found.
#[derive(Default)]
struct Visit {
    queues: Option<io::Result<Queues>>,
    streams: Option<streams::Look>,
    took: Duration,
    /// Its source ports may be running out.
    crowded: bool,
}

impl Visit {
    /// Nobody came in, and it was for the queues or not.
    fn failed(for_queues: bool, error: io::Error) -> Self {
        Self {
            queues: for_queues.then_some(Err(error)),
            ..Self::default()
        }
    }
}

impl Looks {
    /// The namespace's next accept queues are told whatever they say.
    pub(super) fn anew(&mut self, netns: NetnsId) {
        self.sampling.forget(netns);
    }

    /// One round, `every` so often: what is news.
    pub(super) fn round(
        &mut self,
        places: &[(NetnsId, PathBuf)],
        most: Most,
        every: Duration,
        told: &Told,
    ) -> Vec<Input> {
        let there: Vec<NetnsId> = places.iter().map(|(netns, _)| *netns).collect();
        let streams = self.walked(there.clone(), most.streams, every, told);
        let queues = self.sampling.next(there, most.queues, told);
        let queues: BTreeSet<NetnsId> = queues.into_iter().collect();
        self.round += 1;
        self.lost = false;
        // Where visits are rare, each counts.
        let counted = self.round.is_multiple_of(COUNTED_EVERY) || places.len() > QUIET;
        let wanted = |netns: &NetnsId| queues.contains(netns) || streams.contains(netns);
        let visits: Vec<_> = places.iter().filter(|(n, _)| wanted(n)).cloned().collect();
        let sampling = &self.sampling;
        let found = enter::visit(&visits, |netns| {
            let queues = queues.contains(&netns);
            let in_use = queues.then(|| sampling.is_in_use(netns));
            Ok(visit(in_use, streams.contains(&netns), queues && counted))
        });
        let mut trouble = None;
        let mut news = Vec::new();
        let mut many = BTreeSet::new();
        for (netns, found) in found {
            let visit = found.unwrap_or_else(|error| Visit::failed(queues.contains(&netns), error));
            if visit.crowded {
                many.insert(netns);
                self.sampling.stays_busy(netns);
            }
            match visit.queues {
                Some(Ok(queues)) => news.extend(self.queues(netns, queues)),
                // The namespace went away, or the process that showed it.
                Some(Err(error))
                    if error.kind() == io::ErrorKind::NotFound && is_gone(places, netns) =>
                {
                    self.lost = true;
                }
                Some(Err(error)) => {
                    self.sampling.stays_busy(netns);
                    trouble = Some(queues::trouble(&error));
                }
                None => {}
            }
            if let Some(look) = visit.streams {
                self.pace.took(visit.took);
                news.extend(self.streams(netns, look));
            }
        }
        if !queues.is_empty() {
            news.extend(self.trouble(trouble));
        }
        let crowded = visits.into_iter().filter(|(netns, _)| many.contains(netns));
        news.extend(self.ports.look(Instant::now(), crowded.collect()));
        news
    }

    /// What is wrong with reading accept queues, or that nothing is any more.
    fn trouble(&mut self, trouble: Option<String>) -> Option<Input> {
        if trouble == self.trouble {
            return None;
        }
        self.trouble.clone_from(&trouble);
        Some(Input::Change(Change::Source {
            source: QUEUES.to_owned(),
            trouble,
        }))
    }

    /// Namespaces whose connections are walked through in this round.
    fn walked(
        &mut self,
        there: Vec<NetnsId>,
        most: usize,
        every: Duration,
        told: &Told,
    ) -> BTreeSet<NetnsId> {
        self.turns.keep(&there);
        let most = self.pace.most(most, every);
        let walked = match &told.waiting {
            Some(waiting) => {
                let quiet = usize::from(self.pace.has_turn(every));
                self.turns.among(there, waiting, most, (quiet, |_, _| true))
            }
            None => self.turns.next(there, most),
        };
        walked.into_iter().collect()
    }

    fn queues(&mut self, netns: NetnsId, (queues, overflows): Queues) -> Option<Input> {
        let news = self.sampling.note(netns, &queues, overflows);
        news.then_some(Input::Queues {
            netns,
            queues,
            overflows,
        })
    }

    /// Told where connections wait, and once more when they do no longer.
    fn streams(&mut self, netns: NetnsId, look: streams::Look) -> Option<Input> {
        let did = self.turns.note(netns, look.waits);
        (did || look.waits).then_some(Input::Streams {
            netns,
            streams: look.streams,
            left: look.left,
        })
    }
}

/// In the namespace, whose queues are looked at if it is said whether they were in use. Where the connections
/// cannot be read the queues cannot either, and are told.
fn visit(in_use: Option<bool>, streams: bool, counted: bool) -> Visit {
    let queues = in_use.map(queues::sample);
    let start = processor_time();
    let streams = streams.then(streams::connected).and_then(Result::ok);
    Visit {
        queues,
        streams,
        took: processor_time().saturating_sub(start),
        crowded: counted && ports::could_be_scarce(),
    }
}

/// Of the calling thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn is_gone(places: &[(NetnsId, PathBuf)], netns: NetnsId) -> bool {
    let place = places.iter().find(|(id, _)| *id == netns);
    let now = place.and_then(|(_, path)| enter::inode(&fs::metadata(path).ok()?));
    now != Some(netns)
}
