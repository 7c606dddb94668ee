//! What the engine wants to know and nobody tells by itself: read once when asked, with the next round
//! of samples, so that no thread wakes up for it and a healthy node reads nothing.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
};

use super::{conntrack, cpu, enter, marked, memory, passage, scanner::Scanner, streams};
use crate::{
    engine::{Input, Inquiry},
    model::NetnsId,
};

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
        let places = scanner.places_and_node();
        let answer = |inquiry| {
            Some(match inquiry {
                Inquiry::Conntrack(netns) => {
                    let asked = |id: NetnsId| id == netns || Some(id) == scanner.node();
                    let both = places.iter().filter(|(id, _)| asked(*id));
                    let both: Vec<_> = both.cloned().collect();
                    let look = |_| Ok(conntrack::table());
                    let found = enter::visit(&both, look).into_iter();
                    let found: Vec<_> = found
                        .map(|(id, table)| (id, table.ok().flatten()))
                        .collect();
                    let of = |own: bool| {
                        let mut found = found.iter().filter(|(id, _)| (*id == netns) == own);
                        found.next().and_then(|(_, table)| *table)
                    };
                    Input::Conntrack {
                        netns,
                        own: of(true),
                        node: of(false),
                    }
                }
                Inquiry::Streams(netns) => {
                    let asked = places.iter().filter(|(id, _)| *id == netns);
                    let asked: Vec<_> = asked.cloned().collect();
                    let (_, look) = enter::visit(&asked, |_| streams::connected()).pop()?;
                    let look = look.ok()?;
                    Input::Streams {
                        netns,
                        streams: look.streams,
                        left: look.left,
                    }
                }
                Inquiry::Cpu(cgroup) => Input::Cpu {
                    cgroup,
                    limits: cpu::limits(&scanner.limited(cgroup)),
                },
                Inquiry::Memory(cgroup) => Input::Memory {
                    cgroup,
                    uses: memory::of_pod(&scanner.pods_memory(cgroup)),
                },
                Inquiry::Passage(ends) => Input::Passage(passage::of(ends, &places)),
                Inquiry::Marked(ends) => Input::Marked(marked::of(ends, &places)?),
            })
        };
        waiting.into_iter().filter_map(answer).collect()
    }
}
