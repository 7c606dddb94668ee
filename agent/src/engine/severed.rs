//! Connections inside a pod whose two ends no longer hear each other, and what conntrack has to do with it.
//!
//! The app's end of a connection and the proxy's are in one namespace, where no link loses packets. Bytes that are
//! sent again and again to somebody who has read all he got, or an end whose other end is gone, are the work of rules
//! or of NAT that is not done. Packets that conntrack calls INVALID are not translated: they are dropped by a rule, or
//! go astray and are reset. A few of those are in every namespace; they matter where connections are severed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    Code, diagnose, directory::PodId, findings::Case, machine::Engine, streams::Page,
    surroundings::Surroundings, tables::Whose,
};
use crate::{
    mesh::Intent,
    model::{NetnsId, Stream, StreamState, Time},
    rules,
};

/// Sent again so often, a segment is not just late: some two seconds.
const UNHEARD: u8 = 3;
/// Ends without another that are no race between a look and a close.
const ALONE: usize = 2;
/// Resets of the app's connections that give cause to look, and within which time.
const RESETS: u32 = 2;
const RESETS_US: u64 = 30_000_000;

/// The severed connections of a pod at one look, by the kernel's number of the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cuts {
    /// Nothing of what they send comes through: how often it was sent again, and to where the app dialled.
    unheard: BTreeMap<u64, (u8, Option<SocketAddr>)>,
    /// The proxy's ends of connections whose other end is gone.
    alone: BTreeSet<u64>,
}

impl Cuts {
    fn is_empty(&self) -> bool {
        self.unheard.is_empty() && self.alone.is_empty()
    }

    /// Segments sent again since `before`, of what is unheard.
    fn resent_since(&self, before: &Self) -> u64 {
        let each = self.unheard.iter().map(|(cookie, (now, _))| {
            let old = before.unheard.get(cookie);
            u64::from(now.saturating_sub(old.map_or(UNHEARD - 1, |(old, _)| *old)))
        });
        each.sum()
    }
}

/// What a pod's severed connections came to so far.
#[derive(Debug, Default)]
pub(super) struct Severed {
    now: Cuts,
    /// What there was when the counter of invalid packets was last compared, and that counter.
    base: Option<(Cuts, u64)>,
    /// Ends alone at the look before: one of them alone is a race.
    before: BTreeSet<u64>,
    resets: (Time, u32),
}

/// Connections are severed, and INVALID packets come with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// Packets counted meanwhile.
    pub(super) invalid: u64,
    pub(super) unheard: usize,
    pub(super) alone: usize,
    pub(super) to: BTreeSet<SocketAddr>,
}

impl Severed {
    /// Whether any are at the last look.
    pub(super) fn any(&self) -> bool {
        !self.now.is_empty()
    }

    fn looked(&mut self, mut now: Cuts) {
        let alone = now.alone.clone();
        now.alone.retain(|cookie| self.before.contains(cookie));
        self.before = alone;
        if now.is_empty() && self.before.is_empty() {
            self.base = None;
        }
        self.now = now;
    }

    /// The counter was read. What was counted since it was last compared must go with what was severed since.
    fn counted(&mut self, invalid: u64) -> Option<Proof> {
        let Some((before, counted)) = &self.base else {
            self.base = Some((self.now.clone(), invalid));
            return None;
        };
        let grown = invalid.saturating_sub(*counted);
        let resent = self.now.resent_since(before);
        let fresh = self.now.alone.difference(&before.alone).count();
        let unheard = resent > 0 && grown.saturating_mul(2) >= resent;
        let alone = fresh > 0 && self.now.alone.len() >= ALONE && grown >= fresh as u64;
        if grown == 0 || !unheard && !alone {
            return None;
        }
        self.base = Some((self.now.clone(), invalid));
        let to = self.now.unheard.values().filter_map(|(_, to)| *to);
        Some(Proof {
            invalid: grown,
            unheard: self.now.unheard.len(),
            alone: self.now.alone.len(),
            to: to.collect(),
        })
    }

    /// One of the app's captured connections was reset; whether that gives cause to look.
    fn was_reset(&mut self, at: Time) -> bool {
        let (since, times) = &mut self.resets;
        if at.micros_since(*since) > RESETS_US {
            (*since, *times) = (at, 0);
        }
        *times = times.saturating_add(1);
        *times >= RESETS
    }
}

/// The connections inside a pod that are severed.
fn cuts(page: &Page, intent: &Intent, own: &[IpAddr]) -> Cuts {
    let (mut ends, mut clients, mut accepted) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for stream in &page.streams {
        ends.insert((stream.local, stream.remote), stream);
        if intent.is_capture_port(stream.local.port()) {
            accepted.insert(stream.remote, stream);
        } else {
            clients.insert(stream.local, stream);
        }
    }
    let other_end = |one: &Stream| -> Option<&Stream> {
        let plain = ends.get(&(one.remote, one.local));
        let redirected = if intent.is_capture_port(one.local.port()) {
            clients.get(&one.remote)
        } else {
            accepted.get(&one.local)
        };
        plain.or(redirected).copied()
    };
    let mut cuts = Cuts::default();
    for stream in page.streams.iter().filter(|s| s.state == StreamState::Open) {
        let other = other_end(stream);
        let has_read_all = other.is_some_and(|o| o.unread == 0 && o.state == StreamState::Open);
        if stream.unsent > 0 && stream.retransmits >= UNHEARD && has_read_all {
            let app = if intent.is_capture_port(stream.local.port()) {
                other
            } else {
                Some(stream)
            };
            let to = app.map(|app| app.remote);
            cuts.unheard.insert(stream.cookie, (stream.retransmits, to));
        }
        let inside = own.contains(&stream.remote.ip());
        let whole = page.left == 0 && stream.held && intent.is_capture_port(stream.local.port());
        if whole && inside && other.is_none() {
            cuts.alone.insert(stream.cookie);
        }
    }
    cuts
}

impl Engine {
    /// A look at the connections of a pod: asks for the counters where some are severed.
    pub(super) fn look_for_severed(&mut self, pod: PodId, netns: NetnsId) {
        let own = self.known.directory.own_addresses(pod);
        let intent = self.known.directory.pod(pod).and_then(|p| p.intent.clone());
        let (Some(intent), Some(page)) = (intent, self.known.streams.of(netns)) else {
            return;
        };
        let cuts = cuts(page, &intent, &own);
        let watch = self.known.watches.entry(pod).or_default();
        let was = watch.severed.any();
        let some = !cuts.is_empty();
        watch.severed.looked(cuts);
        if some {
            self.known.tables.ask(self.now, netns);
            self.known.rulebook.ask(self.now, netns);
        } else if was {
            self.resolve(pod, Code::FailInvalidPackets);
        }
    }

    /// The counters of a pod's namespace were read.
    pub(super) fn look_for_invalid(&mut self, pod: PodId, netns: NetnsId) {
        let mut own = self.known.tables.of(netns);
        let Some(table) = own.find(|table| table.whose == Whose::Pod) else {
            return;
        };
        let Some(watch) = self.known.watches.get_mut(&pod) else {
            return;
        };
        let Some(proof) = watch.severed.counted(table.now.invalid) else {
            return;
        };
        let page = self
            .known
            .rulebook
            .of(netns)
            .and_then(|page| page.now.as_ref());
        let rule = page.and_then(|now| rules::drops_invalid(&now.rules));
        diagnose::invalid(self.now, pod, &proof, rule, &mut self.findings);
        let surroundings = Surroundings::of(&self.known);
        let render = |case: &Case| surroundings.render(case);
        for symptom in [Code::StuckUpstreamSilent, Code::StuckNoUpstream] {
            let root = Code::FailInvalidPackets;
            self.findings.absorb(self.now, pod, root, symptom, &render);
        }
        self.findings.touched = true;
    }

    /// A captured connection of an app was reset before it was answered: by its proxy, or by somebody who was
    /// never meant to see its packets. Then the proxy's end is still there.
    pub(super) fn app_was_reset(&mut self, pod: PodId, netns: NetnsId) {
        let now = self.now;
        let watch = self.known.watches.entry(pod).or_default();
        if watch.severed.was_reset(now) {
            self.known.streams.ask(now, netns);
            self.known.tables.ask(now, netns);
        }
    }
}
