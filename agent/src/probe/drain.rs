//! From the kernel's running totals to what is new since the last look.
//!
//! One batch lookup reads thousands of edges per system call; totals of the last look are
//! kept here and subtracted. Its cost follows the number of distinct edges, not the rate
//! of connections; the walk through an empty map's buckets is spared while nothing is counted.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Map, MapData};
use sidestep_abi::{EdgeKey, EdgeValue};

use super::{
    ProbeError, decode,
    load::shared,
    sys::{self, Shared},
    totals::{Last, Totals},
};
use crate::model::EdgeDelta;

/// Entries per system call; more than the longest bucket of the hash by far, and few enough
/// that the two buffers are small beside what is remembered.
const BATCH: usize = 512;
/// Looks without a change after which an edge is forgotten: two minutes at one per second.
const IDLE_LOOKS: u16 = 120;
/// The map is walked with every so many looks, though nothing was counted: what is idle goes.
const WALK_ANYWAY: u16 = 10;

/// The word in which the probes say that they counted something, or that somebody waits to be counted.
pub(super) struct Counted(Shared);

impl Counted {
    /// Maps the word.
    ///
    /// # Errors
    /// [`ProbeError`] if it is missing or cannot be mapped.
    pub(super) fn new(map: Option<&Map>) -> Result<Self, ProbeError> {
        shared(map, "COUNTED", size_of::<u64>()).map(Self)
    }

    /// Whether anything was counted since this was last asked. What is counted from now on is told next time, even if
    /// it is read already.
    pub(super) fn take(&self) -> bool {
        self.word().swap(0, Ordering::AcqRel) != 0
    }

    /// The same, and it is told again.
    pub(super) fn is_any(&self) -> bool {
        self.word().load(Ordering::Acquire) != 0
    }

    /// What was taken could not be read.
    pub(super) fn put_back(&self) {
        self.word().store(1, Ordering::Release);
    }

    fn word(&self) -> &AtomicU64 {
        debug_assert!(self.0.len() == size_of::<u64>());
        // SAFETY: the mapping begins with an aligned word that lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.0.start().cast()) }
    }
}

/// One edge map and what was read of it.
pub(super) struct EdgeReader {
    map: Map,
    last: Totals,
    keys: Vec<EdgeKey>,
    values: Vec<EdgeValue>,
    look: u32,
    /// Looks since the last walk, that of the walk included.
    looks: u16,
}

impl EdgeReader {
    /// Takes over a hash map of the object.
    ///
    /// # Errors
    /// [`ProbeError::Object`] if it is no hash map.
    pub(super) fn new(map: Option<Map>, name: &str) -> Result<Self, ProbeError> {
        let map = map.filter(|map| matches!(map, Map::HashMap(_)));
        Ok(Self {
            map: map.ok_or_else(|| ProbeError::Object {
                reason: format!("no hash map {name}"),
            })?,
            last: Totals::new(),
            keys: vec![EdgeKey::default(); BATCH],
            values: vec![EdgeValue::default(); BATCH],
            look: 0,
            looks: 0,
        })
    }

    /// Edges known at the last look.
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether an edge was there at the last look.
    pub(super) fn knows(&self, key: &EdgeKey) -> bool {
        self.last.knows(key)
    }

    /// Adds what is new since the last look to `out`; `counted`: whether there is anything.
    ///
    /// # Errors
    /// [`ProbeError::System`] if the map cannot be read.
    pub(super) fn drain(
        &mut self,
        counted: bool,
        out: &mut Vec<EdgeDelta>,
    ) -> Result<(), ProbeError> {
        self.looks = self.looks.saturating_add(1);
        if !counted && self.looks < WALK_ANYWAY {
            return Ok(());
        }
        self.look = self.look.wrapping_add(1);
        let mut cursor = 0_u64;
        let mut first = true;
        loop {
            let fd = fd(&self.map)?;
            let batch = sys::lookup_batch(fd, first, &mut cursor, &mut self.keys, &mut self.values);
            let batch = match batch {
                Ok(batch) => batch,
                Err(source) => {
                    return Err(ProbeError::System {
                        what: "cannot read the edge map".into(),
                        source,
                    });
                }
            };
            for index in 0..batch.count {
                self.take_in(index, out);
            }
            if batch.done {
                break;
            }
            first = false;
        }
        self.looks = 0;
        self.forget_idle(out);
        Ok(())
    }

    fn take_in(&mut self, index: usize, out: &mut Vec<EdgeDelta>) {
        let (key, value) = (self.keys[index], self.values[index]);
        let (look, looks) = (self.look, self.looks);
        let Some(last) = self.last.of(&key, look) else {
            return;
        };
        last.look = look;
        match decode::delta(&key, &value, &last.value) {
            Some(delta) => {
                last.value = value;
                last.idle = 0;
                out.push(delta);
            }
            None => last.idle = last.idle.saturating_add(looks),
        }
    }

    /// Removes edges nothing happened on for long, and forgets those that are gone.
    fn forget_idle(&mut self, out: &mut Vec<EdgeDelta>) {
        let look = self.look;
        let idle = |last: &&Last| last.look == look && last.idle >= IDLE_LOOKS;
        let idle: Vec<Last> = self.last.iter().filter(idle).copied().collect();
        let mut kept = Vec::new();
        for last in idle {
            // What was counted since the look is in the value taken. A count that another
            // CPU adds in the same nanoseconds to the entry being removed is lost.
            match self.take(&last.key) {
                Ok(value) => out.extend(decode::delta(&last.key, &value, &last.value)),
                // It stays in the map: forgotten here, it would be counted again from the start.
                Err(error) if error.kind() != io::ErrorKind::NotFound => kept.push(last.key),
                Err(_) => {}
            }
        }
        self.last
            .keep(|last| last.look == look && (last.idle < IDLE_LOOKS || kept.contains(&last.key)));
    }

    fn take(&mut self, key: &EdgeKey) -> io::Result<EdgeValue> {
        let fd = fd(&self.map).map_err(io::Error::other)?;
        match sys::take(fd, key, EdgeValue::default()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.take_in_two(key),
            taken => taken,
        }
    }

    /// Before 5.14 a hash has no call for both.
    fn take_in_two(&mut self, key: &EdgeKey) -> io::Result<EdgeValue> {
        let mut map: aya::maps::HashMap<
            &mut MapData,
            [u8; size_of::<EdgeKey>()],
            [u8; size_of::<EdgeValue>()],
        > = aya::maps::HashMap::try_from(&mut self.map).map_err(io::Error::other)?;
        let bytes = key_bytes(key);
        let value = map.get(&bytes, 0).map_err(io::Error::other)?;
        map.remove(&bytes).map_err(io::Error::other)?;
        EdgeValue::from_bytes(&value).map_err(io::Error::other)
    }
}

fn fd(map: &Map) -> Result<BorrowedFd<'_>, ProbeError> {
    match map {
        Map::HashMap(data) => Ok(data.fd().as_fd()),
        _ => Err(ProbeError::Object {
            reason: "an edge map that is no hash map".into(),
        }),
    }
}

fn key_bytes(key: &EdgeKey) -> [u8; size_of::<EdgeKey>()] {
    // SAFETY: plain bytes without padding, asserted where the key is declared.
    unsafe {
        std::ptr::from_ref(key)
            .cast::<[u8; size_of::<EdgeKey>()]>()
            .read_unaligned()
    }
}
