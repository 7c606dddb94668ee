//! The edges seen lately, with their last verdict: the most recent ones, bounded.
//!
//! For people and for evidence only; counters never depend on an edge still being here.
//! Rows are compact (no strings: a pod is a number, a process name 16 bytes) and linked in
//! order of use, so that the oldest falls off at once. The index holds numbers of rows, not
//! keys a second time: those would be half as much memory again. What falls off is counted.

use std::cmp::Ordering;

use super::{Leg, Verdict, directory::PodId, ledger};
use crate::model::{Counts, EdgeKey, Process, Time};

const NONE: u32 = u32::MAX;
/// Rows are made room for in steps: doubling would leave megabytes unused.
const STEP: usize = 1_024;

/// A process name as the kernel keeps it: 15 bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Comm {
    bytes: [u8; 15],
    len: u8,
    pid: u32,
}

impl Comm {
    pub(super) fn of(process: &Process) -> Option<Self> {
        if process.pid == 0 && process.comm.is_empty() {
            return None;
        }
        let mut end = process.comm.len().min(15);
        while !process.comm.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; 15];
        let text = process.comm.as_bytes().get(..end).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(text) {
            *to = *from;
        }
        Some(Self {
            pid: process.pid,
            len: u8::try_from(end).unwrap_or(15),
            bytes,
        })
    }

    /// `comm[pid]`.
    pub(super) fn show(&self) -> String {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        format!("{}[{}]", String::from_utf8_lossy(text), self.pid)
    }
}

/// An edge.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) key: EdgeKey,
    pub(super) pod: Option<PodId>,
    pub(super) container: Option<u16>,
    pub(super) process: Option<Comm>,
    pub(super) judged: (Leg, Verdict),
    pub(super) counts: Counts,
    pub(super) first: Time,
    pub(super) last: Time,
    newer: u32,
    older: u32,
}

/// The most recent edges.
#[derive(Debug)]
pub(super) struct Edges {
    /// Numbers of rows, sorted by the rows' keys.
    index: Vec<u32>,
    slots: Vec<Edge>,
    newest: u32,
    oldest: u32,
    max: usize,
    pub(super) evicted: u64,
}

impl Edges {
    pub(super) fn new(max: usize) -> Self {
        Self {
            index: Vec::new(),
            slots: Vec::new(),
            newest: NONE,
            oldest: NONE,
            max: max.clamp(1, 1 << 24),
            evicted: 0,
        }
    }

    /// The edge of this key, made if it is new, now the most recent one.
    pub(super) fn touch(&mut self, at: Time, key: &EdgeKey) -> Option<&mut Edge> {
        let ix = match self.find(key) {
            Ok(place) => {
                let ix = self.index.get(place).copied().unwrap_or(NONE);
                self.unlink(ix);
                ix
            }
            Err(_) => self.make(at, key),
        };
        self.link_newest(ix);
        self.slot(ix)
    }

    /// The edge of this key, its place in the order unchanged.
    pub(super) fn get(&self, key: &EdgeKey) -> Option<&Edge> {
        let ix = *self.index.get(self.find(key).ok()?)?;
        self.slots.get(usize::try_from(ix).ok()?)
    }

    /// The place of a key's row in the index, or where it would be.
    fn find(&self, key: &EdgeKey) -> Result<usize, usize> {
        self.index.binary_search_by(|ix| {
            let row = usize::try_from(*ix).ok().and_then(|ix| self.slots.get(ix));
            row.map_or(Ordering::Greater, |row| row.key.cmp(key))
        })
    }

    /// Most recent first.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Edge> {
        let mut next = self.newest;
        std::iter::from_fn(move || {
            let edge = self.slots.get(usize::try_from(next).ok()?)?;
            next = edge.older;
            Some(edge)
        })
    }

    fn make(&mut self, at: Time, key: &EdgeKey) -> u32 {
        let edge = Edge {
            key: *key,
            pod: None,
            container: None,
            process: None,
            judged: (Leg::Local, Verdict::Neutral),
            counts: Counts::default(),
            first: at,
            last: at,
            newer: NONE,
            older: NONE,
        };
        let free = u32::try_from(self.slots.len()).unwrap_or(NONE);
        let ix = if self.slots.len() < self.max {
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(STEP.min(self.max));
            }
            self.slots.push(edge);
            free
        } else {
            self.reuse_oldest(edge)
        };
        // Not in the index yet, so that it is not found there.
        let place = self.find(key).unwrap_or_else(|place| place);
        self.index.insert(place, ix);
        ix
    }

    fn reuse_oldest(&mut self, edge: Edge) -> u32 {
        let ix = self.oldest;
        self.unlink(ix);
        self.evicted = self.evicted.saturating_add(1);
        // By its key, so before the row is another's.
        let gone = self.slot(ix).map(|slot| slot.key);
        if let Some(place) = gone.and_then(|key| self.find(&key).ok()) {
            self.index.remove(place);
        }
        if let Some(slot) = self.slot(ix) {
            *slot = edge;
        }
        ix
    }

    fn slot(&mut self, ix: u32) -> Option<&mut Edge> {
        self.slots.get_mut(usize::try_from(ix).ok()?)
    }

    fn unlink(&mut self, ix: u32) {
        let Some((newer, older)) = self.slot(ix).map(|e| (e.newer, e.older)) else {
            return;
        };
        match self.slot(newer) {
            Some(edge) => edge.older = older,
            None => self.newest = older,
        }
        match self.slot(older) {
            Some(edge) => edge.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, ix: u32) {
        let second = self.newest;
        if let Some(edge) = self.slot(ix) {
            edge.newer = NONE;
            edge.older = second;
        }
        match self.slot(second) {
            Some(edge) => edge.newer = ix,
            None => self.oldest = ix,
        }
        self.newest = ix;
    }
}

impl Edge {
    /// Adds what a drain told. An edge whose inode numbers now belong to another pod starts anew.
    pub(super) fn update(
        &mut self,
        at: Time,
        pod: Option<PodId>,
        container: Option<u16>,
        counts: &Counts,
    ) {
        if self.pod.is_some() && self.pod != pod {
            self.counts = Counts::default();
            self.first = at;
        }
        self.pod = pod;
        self.container = container;
        self.last = at;
        ledger::add(&mut self.counts, counts);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;
    use crate::model::{Arrival, CgroupId, Direction, NetnsId, Owner};

    fn key(port: u16) -> EdgeKey {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        EdgeKey {
            owner: Owner {
                netns: NetnsId(1),
                cgroup: CgroupId(1),
                uid: 0,
                gid: 0,
            },
            direction: Direction::Outbound,
            local: ip,
            local_port: 0,
            remote: SocketAddr::new(ip, port),
            arrival: Arrival::Nowhere,
        }
    }

    #[test]
    fn the_least_recent_falls_off() {
        let mut edges = Edges::new(3);
        for port in [1, 2, 3, 1, 4, 5] {
            edges.touch(Time(u64::from(port)), &key(port));
        }
        let order: Vec<u16> = edges.recent().map(|e| e.key.remote.port()).collect();
        assert_eq!(order, [5, 4, 1]);
        assert_eq!(edges.evicted, 2);
        assert!(edges.get(&key(2)).is_none() && edges.get(&key(1)).is_some());
    }

    #[test]
    fn the_index_finds_exactly_what_is_there() {
        let mut edges = Edges::new(50);
        for step in 0..5_000_u16 {
            // Jumps about, and comes back to some.
            edges.touch(Time(u64::from(step)), &key(step.wrapping_mul(7_919) % 131));
        }
        let mut there: Vec<u16> = edges.recent().map(|e| e.key.remote.port()).collect();
        assert_eq!((there.len(), edges.index.len()), (50, 50));
        there.sort_unstable();
        for port in 0..131 {
            let found = edges.get(&key(port)).map(|edge| edge.key.remote.port());
            let is_there = there.binary_search(&port).is_ok();
            assert_eq!(found, is_there.then_some(port));
        }
    }

    #[test]
    fn names_keep_whole_characters() {
        let process = Process {
            pid: 7,
            comm: "ääääääää".into(),
        };
        assert_eq!(
            Comm::of(&process).map(|c| c.show()),
            Some("äääääää[7]".into())
        );
    }

    #[test]
    fn rows_stay_compact() {
        assert!(size_of::<Edge>() <= 264, "{}", size_of::<Edge>());
    }
}
