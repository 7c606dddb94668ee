//! Settles connections whose arrival nobody reported: they came out nowhere.
//!
//! The kernel settles most of them itself when they close; what stays open longer than a
//! grace time is settled here, from the memory shared with the probes. A place is taken by
//! the same compare-and-exchange the probes use, so exactly one side counts it.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use sidestep_abi::{
    ARRIVAL_NOWHERE, AWAIT_BUCKETS, AWAIT_WAYS, AwaitSlot, EdgeKey, EdgeValue, STATE_BUSY,
    STATE_FREE, STATE_MIN_TAG,
};

use super::{ProbeError, clock, decode, drain::EdgeReader, load::shared, sys::Shared};
use crate::model::{EdgeDelta, Signal};

/// A child follows its client within microseconds, or within a delayed acknowledgement (200 ms).
const GRACE_NS: u64 = 300_000_000;
/// A connection known to have been answered on this host gets longer: its child comes when
/// the accept queue has room, and saying at once that it hangs gains nothing.
const ANSWERED_GRACE_NS: u64 = 1_000_000_000;
/// Edges remembered as told; beyond it one may be told twice.
const MAX_TOLD: usize = 16_384;
/// Places of the table.
const PLACES: usize = (AWAIT_BUCKETS * AWAIT_WAYS) as usize;

/// Places looked at at once; nearly all are free nearly always.
const BLOCK: usize = 256;
const _: () = assert!(PLACES.is_multiple_of(BLOCK) && STATE_FREE == 0);

/// The shared table.
pub(super) struct Sweeper {
    states: Shared,
    slots: Shared,
    told: HashSet<EdgeKey>,
    /// Places in use at the last sweep.
    in_use: u64,
    /// Payloads that made no sense.
    malformed: u64,
}

impl Sweeper {
    /// Maps the table's two arrays.
    ///
    /// # Errors
    /// [`ProbeError`] if they are missing or cannot be mapped.
    pub(super) fn new(states: Option<&Map>, slots: Option<&Map>) -> Result<Self, ProbeError> {
        Ok(Self {
            states: shared(states, "AWAIT_STATES", PLACES * size_of::<u64>())?,
            slots: shared(slots, "AWAIT_SLOTS", PLACES * size_of::<AwaitSlot>())?,
            told: HashSet::new(),
            in_use: 0,
            malformed: 0,
        })
    }

    /// Places in use at the last sweep, and how many there are.
    pub(super) const fn fill(&self) -> (u64, u64) {
        (self.in_use, PLACES as u64)
    }

    /// Payloads that made no sense.
    pub(super) const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Settles what is due; edges not told before go to `signals` with their process. Nobody waits if
    /// nobody did at the last sweep, and nothing was `counted` since.
    pub(super) fn sweep(
        &mut self,
        counted: bool,
        edges: &EdgeReader,
        signals: &mut Vec<(u64, Signal)>,
    ) -> Vec<EdgeDelta> {
        if !counted && self.in_use == 0 {
            return Vec::new();
        }
        let now = clock::monotonic_ns();
        let mut settled: HashMap<EdgeKey, EdgeValue> = HashMap::new();
        self.in_use = 0;
        for start in (0..PLACES).step_by(BLOCK) {
            if !self.is_in_use(start) {
                continue;
            }
            for place in start..start + BLOCK {
                if self.state(place).load(Ordering::Relaxed) == STATE_FREE {
                    continue;
                }
                self.in_use += 1;
                if let Some(slot) = self.settle(place, now) {
                    self.tell(&slot, edges, signals);
                    decode::add_settled(settled.entry(slot.key).or_default(), slot.duration_us);
                }
            }
        }
        let nothing = EdgeValue::default();
        settled
            .iter()
            .filter_map(|(key, value)| decode::delta(key, value, &nothing))
            .collect()
    }

    /// Takes a place that is due.
    fn settle(&mut self, place: usize, now: u64) -> Option<AwaitSlot> {
        let tag = self.state(place).load(Ordering::Acquire);
        if tag < STATE_MIN_TAG || !is_due(&self.payload(place)?, now) {
            return None;
        }
        self.state(place)
            .compare_exchange(tag, STATE_BUSY, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        let slot = self.payload(place);
        // The place may have changed hands between the look and the exchange.
        let due = slot.is_some_and(|slot| is_due(&slot, now));
        let next = if due || slot.is_none() {
            STATE_FREE
        } else {
            tag
        };
        self.state(place).store(next, Ordering::Release);
        if slot.is_none() {
            self.malformed += 1;
        }
        slot.filter(|_| due)
    }

    fn tell(&mut self, slot: &AwaitSlot, edges: &EdgeReader, signals: &mut Vec<(u64, Signal)>) {
        if edges.knows(&slot.key) || self.told.contains(&slot.key) {
            return;
        }
        if self.told.len() >= MAX_TOLD {
            self.told.clear();
        }
        self.told.insert(slot.key);
        let signal = Signal::FirstSeen {
            key: decode::edge_key(&slot.key),
            process: decode::process(&slot.task),
        };
        signals.push((slot.since_ns, signal));
    }

    /// Whether any place of a block is taken, as far as can be told without looking at each: four
    /// times a second, atomic loads of all would be a sixth of the agent's work on a quiet node.
    fn is_in_use(&self, start: usize) -> bool {
        debug_assert!((start + BLOCK) * size_of::<u64>() <= self.states.len());
        let mut block = [0_u64; BLOCK];
        // SAFETY: `start` is that of a block, so all of it is inside the mapping. A probe may be
        // writing the same words: copied as raw memory, they only say where to look properly, and
        // a place missed is found by the next sweep.
        unsafe {
            let from = self.states.start().cast::<u64>().add(start);
            std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), BLOCK);
        }
        block.iter().fold(0, |all, state| all | state) != STATE_FREE
    }

    fn state(&self, place: usize) -> &AtomicU64 {
        debug_assert!((place + 1) * size_of::<u64>() <= self.states.len());
        // SAFETY: `place` is below PLACES and the mapping holds PLACES aligned words that
        // live as long as `self`; all sides use atomic instructions on them.
        unsafe { AtomicU64::from_ptr(self.states.start().cast::<u64>().add(place)) }
    }

    fn payload(&self, place: usize) -> Option<AwaitSlot> {
        debug_assert!((place + 1) * size_of::<AwaitSlot>() <= self.slots.len());
        let mut bytes = [0_u8; size_of::<AwaitSlot>()];
        // SAFETY: inside the mapping as above. A probe may be writing the same bytes: they
        // are copied as raw memory, checked, and believed only while the place is held.
        unsafe {
            let from = self.slots.start().add(place * size_of::<AwaitSlot>());
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
        AwaitSlot::from_bytes(&bytes).ok()
    }
}

fn is_due(slot: &AwaitSlot, now: u64) -> bool {
    let grace = if slot.key.arrival == ARRIVAL_NOWHERE {
        GRACE_NS
    } else {
        ANSWERED_GRACE_NS
    };
    now.saturating_sub(slot.since_ns) > grace
}
