//! Connections of each namespace where something waits, and what their past says about waiting.
//!
//! One look at a socket shows how long it has been silent; whether that is long depends on whose it
//! is. So the longest wait that did end with an answer is remembered, and what is called silence
//! follows it, within bounds. Nothing here knows pods or proxies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{Inquiry, Stage};
use crate::model::{NetnsId, Stream, StreamState, Time};

/// Namespaces remembered; a node has some 250 pods.
const MAX_NAMESPACES: usize = 1_024;
/// Destinations remembered per namespace, of each kind.
const MAX_DESTINATIONS: usize = 64;
/// Between two looks that somebody wants.
const ASK_US: u64 = 900_000;
/// Silence, before anything is known about this pod. Common default time-outs of clients and of
/// proxies' routes are 15 s.
const SILENT_MS: u32 = 15_000;
/// Bounds of what is called silence once something is known.
const SILENT_MIN_MS: u32 = 10_000;
const SILENT_MAX_MS: u32 = 60_000;
/// Silence, in terms of the longest wait that ended well.
const SILENT_FACTOR: u32 = 3;
/// Where waits of a minute do end well (long polling), half as much again, up to this.
const POLLED_MAX_MS: u32 = 900_000;
/// A pause this long between two sends without an answer is no request being written.
const PAUSE_MS: u32 = 1_000;

/// What is remembered of one socket between two looks.
#[derive(Clone, Copy, Debug)]
struct Mark {
    received: u64,
    sent: u64,
    read: u64,
    /// Nothing was read since.
    still: Time,
    /// The peer had closed it at this look already.
    closed: Option<Time>,
    /// Longest wait seen, milliseconds.
    waited: u32,
}

/// The connections of one namespace.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// As of the last look; empty where nothing waits.
    pub(super) streams: Vec<Stream>,
    /// Sockets there are besides.
    pub(super) left: u64,
    at: Time,
    marks: BTreeMap<u64, Mark>,
    longest: Option<u32>,
    /// Destinations that were seen to answer, and when they last did.
    answering: BTreeMap<SocketAddr, Time>,
    /// Destinations that are told things and need not answer: logs, metrics.
    told: BTreeSet<SocketAddr>,
    /// Connections that hang now, by stage; a stage that was ever seen stays.
    pub(super) hanging: BTreeMap<Stage, u64>,
}

/// The connections of the node's namespaces.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pages: BTreeMap<NetnsId, Page>,
    /// Namespaces to be looked at now, and when that was last wanted of each.
    wanted: BTreeSet<NetnsId>,
    asked: BTreeMap<NetnsId, Time>,
    /// Sockets nobody looked at, and looks at namespaces beyond the bound.
    pub(super) refused: u64,
}

impl Streams {
    pub(super) fn of(&self, netns: NetnsId) -> Option<&Page> {
        self.pages.get(&netns)
    }

    /// Wants a namespace looked at, unless that was wanted a moment ago.
    pub(super) fn ask(&mut self, at: Time, netns: NetnsId) {
        let old = |asked: &Time| at.micros_since(*asked) >= ASK_US;
        if self.asked.len() >= MAX_NAMESPACES {
            self.asked.retain(|_, asked| !old(asked));
            if self.asked.len() >= MAX_NAMESPACES {
                self.refused = self.refused.saturating_add(1);
                return;
            }
        }
        if self.asked.get(&netns).is_none_or(old) {
            self.asked.insert(netns, at);
            self.wanted.insert(netns);
        }
    }

    pub(super) fn next_wanted(&mut self) -> Option<Inquiry> {
        self.wanted.pop_first().map(Inquiry::Streams)
    }

    pub(super) fn gone(&mut self, netns: NetnsId) {
        self.pages.remove(&netns);
        self.asked.remove(&netns);
        self.wanted.remove(&netns);
    }

    /// What the last look came to.
    pub(super) fn hang(&mut self, netns: NetnsId, now: BTreeMap<Stage, u64>) {
        if let Some(page) = self.pages.get_mut(&netns) {
            page.hanging.values_mut().for_each(|count| *count = 0);
            page.hanging.extend(now);
        }
    }

    /// A look at all connections of a namespace.
    pub(super) fn sampled(&mut self, at: Time, netns: NetnsId, streams: Vec<Stream>, left: u64) {
        self.refused = self.refused.saturating_add(left);
        if self.pages.len() >= MAX_NAMESPACES && !self.pages.contains_key(&netns) {
            self.refused = self.refused.saturating_add(1);
            return;
        }
        let page = self.pages.entry(netns).or_default();
        page.sampled(at, streams, left);
    }
}

impl Page {
    /// How long without an answer is silence here, in milliseconds.
    pub(super) fn silent_ms(&self) -> u32 {
        self.longest.map_or(SILENT_MS, |longest| {
            let polled = longest.saturating_add(longest / 2).min(POLLED_MAX_MS);
            longest
                .saturating_mul(SILENT_FACTOR)
                .clamp(SILENT_MIN_MS, SILENT_MAX_MS)
                .max(polled)
        })
    }

    /// Milliseconds for which nothing was read of it.
    pub(super) fn unread_ms(&self, stream: &Stream) -> u64 {
        let mark = self.marks.get(&stream.cookie);
        mark.map_or(0, |mark| self.at.micros_since(mark.still) / 1_000)
    }

    /// Milliseconds for which it is known that its peer closed it.
    pub(super) fn closed_ms(&self, stream: &Stream) -> Option<u64> {
        let closed = self.marks.get(&stream.cookie)?.closed?;
        Some(self.at.micros_since(closed) / 1_000)
    }

    /// Whether this destination was seen to answer.
    pub(super) fn answers(&self, to: SocketAddr) -> bool {
        self.answering.contains_key(&to)
    }

    /// Whether this destination answered somebody within this time.
    pub(super) fn answered_within(&self, to: SocketAddr, ms: u64) -> bool {
        let last = self.answering.get(&to);
        last.is_some_and(|last| self.at.micros_since(*last) < ms.saturating_mul(1_000))
    }

    /// Whether this destination is only told things.
    pub(super) fn is_told(&self, to: SocketAddr) -> bool {
        self.told.contains(&to)
    }

    fn sampled(&mut self, at: Time, streams: Vec<Stream>, left: u64) {
        let before = std::mem::take(&mut self.marks);
        for stream in &streams {
            let old = before.get(&stream.cookie);
            self.learn(at, old, stream);
            self.marks.insert(stream.cookie, mark(at, old, stream));
        }
        (self.streams, self.left, self.at) = (streams, left, at);
    }

    fn learn(&mut self, at: Time, old: Option<&Mark>, stream: &Stream) {
        let both = stream.sent > 0 && stream.received > 0;
        let known = self.answering.contains_key(&stream.remote);
        if both && (known || self.answering.len() < MAX_DESTINATIONS) {
            let last = self.answering.entry(stream.remote).or_default();
            *last = ago(at, stream.received_ms).max(*last);
        }
        let Some(old) = old else { return };
        let one_sided = old.sent == 0 || old.received == 0;
        if both && one_sided && old.waited > 0 {
            self.longest = Some(self.longest.unwrap_or(0).max(old.waited));
        }
        let spoke_again = stream.is_unanswered() && stream.sent > old.sent && old.sent > 0;
        if spoke_again && old.waited >= PAUSE_MS && self.told.len() < MAX_DESTINATIONS {
            self.told.insert(stream.remote);
        }
    }
}

fn ago(at: Time, ms: u32) -> Time {
    Time(at.0.saturating_sub(u64::from(ms) * 1_000))
}

fn mark(at: Time, old: Option<&Mark>, stream: &Stream) -> Mark {
    let read = stream.received.saturating_sub(u64::from(stream.unread));
    let still = match old {
        _ if stream.unread == 0 => at,
        Some(old) if old.read == read && old.received > old.read => old.still,
        // Nothing was ever read, so not since it came.
        _ if read == 0 => ago(at, stream.received_ms),
        _ => at,
    };
    let one_sided = stream.is_unanswered() || stream.has_not_answered();
    let waits = if one_sided { stream.idle_ms() } else { 0 };
    Mark {
        received: stream.received,
        sent: stream.sent,
        read,
        still,
        closed: (stream.state == StreamState::PeerClosed)
            .then(|| old.and_then(|old| old.closed).unwrap_or(at)),
        waited: old.map_or(0, |old| old.waited).max(waits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: NetnsId = NetnsId(7);

    fn stream(sent: u64, received: u64, idle: u32) -> Stream {
        Stream {
            cookie: 1,
            local: ([10, 0, 0, 1], 40_000).into(),
            remote: ([10, 0, 0, 2], 80).into(),
            state: StreamState::Open,
            uid: 1,
            held: true,
            unread: 0,
            unsent: 0,
            received,
            sent,
            sent_ms: idle,
            received_ms: idle,
            retransmits: 0,
        }
    }

    /// Looks once a second.
    fn look(streams: &[Stream]) -> Streams {
        let mut all = Streams::default();
        for (second, stream) in (100u64..).zip(streams) {
            all.sampled(Time(second * 1_000_000), NS, vec![stream.clone()], 0);
        }
        all
    }

    fn silent(streams: &[Stream]) -> u32 {
        look(streams).of(NS).map_or(0, Page::silent_ms)
    }

    #[test]
    fn silence_follows_what_was_answered_before() {
        assert_eq!(silent(&[stream(9, 0, 1_000)]), 15_000);
        assert_eq!(silent(&[stream(9, 0, 1_000), stream(9, 5, 0)]), 10_000);
        assert_eq!(silent(&[stream(9, 0, 8_000), stream(9, 5, 0)]), 24_000);
        assert_eq!(silent(&[stream(9, 0, 40_000), stream(9, 5, 0)]), 60_000);
        assert_eq!(silent(&[stream(9, 0, 90_000), stream(9, 5, 0)]), 135_000);
        let hours = stream(9, 0, 7_200_000);
        assert_eq!(silent(&[hours, stream(9, 5, 0)]), 900_000);
    }

    #[test]
    fn who_answers_others_meanwhile_is_known() {
        let to = stream(0, 0, 0).remote;
        let all = look(&[stream(9, 0, 1_000), stream(9, 5, 3_000)]);
        let within = |ms| all.of(NS).map(|page| page.answered_within(to, ms));
        assert_eq!(within(3_001), Some(true));
        assert_eq!(within(3_000), Some(false));
    }

    #[test]
    fn who_speaks_again_unasked_needs_no_answer() {
        let to = stream(0, 0, 0).remote;
        let told = |streams: &[Stream]| look(streams).of(NS).map(|page| page.is_told(to));
        assert_eq!(told(&[stream(9, 0, 5_000), stream(20, 0, 0)]), Some(true));
        assert_eq!(told(&[stream(9, 0, 100), stream(20, 0, 0)]), Some(false));
        assert_eq!(told(&[stream(9, 0, 5_000), stream(20, 4, 0)]), Some(false));
    }

    #[test]
    fn reading_is_told_from_waiting() {
        let unread = |received, unread| Stream {
            unread,
            ..stream(0, received, 2_000)
        };
        let ms = |streams: &[Stream]| {
            let all = look(streams);
            all.of(NS).map(|page| page.unread_ms(&page.streams[0]))
        };
        // Never read: as old as the last byte.
        assert_eq!(ms(&[unread(5, 5)]), Some(2_000));
        assert_eq!(ms(&[unread(5, 5), unread(9, 9)]), Some(3_000));
        // Something is read all the time.
        assert_eq!(ms(&[unread(9, 5), unread(9, 4), unread(9, 3)]), Some(0));
        assert_eq!(ms(&[unread(9, 5), unread(9, 5), unread(9, 5)]), Some(2_000));
    }
}
