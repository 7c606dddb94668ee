//! Which namespaces have a connection that waits, asked of the kernel's sockets themselves.
//!
//! The kernel's own table of connections is one for the whole machine and walked by whoever asks
//! about any namespace. The probes keep a table of what is open; once a second the places of
//! connections that have stayed are handed to a program that looks at those sockets. A namespace
//! in which one waits is worth a walk, and all others are left alone.

use std::{
    collections::BTreeSet,
    mem::offset_of,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    programs::{RawTracePointRunOptions, TestRun as _},
};
use sidestep_abi::{
    ABSENT, FIELDS, LOOK_ARGUMENTS, LOOK_AT, OPEN_SLOTS, OPEN_STAYS, OPEN_TIME_SHIFT, Open, WAITING,
};

use super::{
    ProbeError, clock,
    datagrams::Taker,
    load::{chain, raw_tracepoint, shared},
    sys::Shared,
};
use crate::model::{NetnsId, SignalCoverage};

const PROGRAM: &str = "open_look";
/// Sockets looked at in one round, a multiple of those in one run: a millisecond.
const MOST: usize = 42 * LOOK_AT;
const PLACES: usize = OPEN_SLOTS as usize;
/// With more in use, connections that find no place are likely.
const CROWDED: usize = PLACES / 4 * 3;
/// What a look reads besides what every probe does.
const NEEDED: [&str; 6] = [
    "tcp_bytes_received",
    "tcp_bytes_sent",
    "tcp_rcv_nxt",
    "tcp_copied_seq",
    "tcp_snd_una",
    "tcp_write_seq",
];
/// Places looked at at once; most blocks of a node that rests are free.
const BLOCK: usize = 64;
const _: () = assert!(PLACES < u16::MAX as usize && PLACES.is_multiple_of(BLOCK));

/// The table, and the program that looks.
pub(super) struct OpenSockets {
    places: Shared,
    /// Namespaces noted since they were taken out last.
    waiting: Taker<u32, u32>,
    /// Why there is no program.
    trouble: Option<String>,
    /// Where the next round begins.
    next: usize,
    /// Places in use at the last round.
    in_use: usize,
}

impl OpenSockets {
    /// Takes over the maps, and finds out whether looks work here.
    ///
    /// # Errors
    /// [`ProbeError`] if the object is not what it should be.
    pub(super) fn new(ebpf: &mut Ebpf, offsets: &[u32]) -> Result<Self, ProbeError> {
        let len = PLACES * size_of::<Open>();
        let places = shared(ebpf.map("OPEN"), "OPEN", len)?;
        let waiting = Taker::new(ebpf.take_map("WAITING"), "WAITING", WAITING as usize)?;
        Ok(Self {
            places,
            waiting,
            trouble: load(ebpf, offsets).err(),
            next: 0,
            in_use: 0,
        })
    }

    /// Places in use at the last round, and how many there are.
    pub(super) const fn fill(&self) -> (u64, u64) {
        (self.in_use as u64, PLACES as u64)
    }

    /// Looks at what has stayed; the namespaces in which something waits, `None` if it is not
    /// known. Meant for once a second.
    pub(super) fn round(&mut self, ebpf: &mut Ebpf) -> Option<BTreeSet<NetnsId>> {
        if self.trouble.is_some() {
            return None;
        }
        let stayed = self.stayed();
        let found = look(ebpf, &stayed).and_then(|()| {
            let noted = self.waiting.take(|netns, _| NetnsId(*netns));
            noted.map_err(|error| error.to_string())
        });
        match found {
            Ok(found) if found.len() < WAITING as usize && self.in_use < CROWDED => {
                Some(found.into_iter().collect())
            }
            Ok(_) => None,
            Err(reason) => {
                self.trouble = Some(reason);
                None
            }
        }
    }

    /// Numbers plus one of places whose connections have stayed, each in its turn.
    fn stayed(&mut self) -> Vec<u16> {
        let now = clock::monotonic_ns() >> OPEN_TIME_SHIFT;
        // The table counts modulo 2³².
        let now = u32::try_from(now & u64::from(u32::MAX)).unwrap_or_default();
        let mut stayed = Vec::new();
        let first = self.next;
        let used = self.in_use_from(first);
        self.in_use = used.len();
        for place in used {
            let since = self.since(place).load(Ordering::Relaxed);
            if now.wrapping_sub(since) < OPEN_STAYS {
                continue;
            }
            if stayed.len() < MOST {
                stayed.extend(u16::try_from(place + 1));
                self.next = (place + 1) % PLACES;
            }
        }
        stayed
    }

    /// Places in use, beginning with those from `first` on.
    fn in_use_from(&self, first: usize) -> Vec<usize> {
        let used = |place: &usize| self.socket(*place).load(Ordering::Relaxed) != 0;
        let mut places: Vec<usize> = (0..PLACES / BLOCK)
            .map(|block| block * BLOCK..(block + 1) * BLOCK)
            .filter(|block| self.is_in_use(block.start))
            .flatten()
            .filter(used)
            .collect();
        let before = places.partition_point(|place| *place < first);
        places.rotate_left(before);
        places
    }

    /// Whether any place of a block is taken: one look at all of them without a branch.
    fn is_in_use(&self, start: usize) -> bool {
        let sockets = (start..start + BLOCK).map(|place| self.socket(place));
        sockets.fold(0, |all, socket| all | socket.load(Ordering::Relaxed)) != 0
    }

    fn socket(&self, place: usize) -> &AtomicU64 {
        // SAFETY: `field` gives an aligned word inside the mapping, which lives as long as
        // `self`; the probes write it whole.
        unsafe { AtomicU64::from_ptr(self.field(place, offset_of!(Open, sk)).cast()) }
    }

    fn since(&self, place: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.field(place, offset_of!(Open, since)).cast()) }
    }

    fn field(&self, place: usize, offset: usize) -> *mut u8 {
        debug_assert!((place + 1) * size_of::<Open>() <= self.places.len());
        // SAFETY: `place` is below PLACES, and the mapping holds as many.
        unsafe { self.places.start().add(place * size_of::<Open>() + offset) }
    }

    /// Its place in coverage.
    pub(super) fn coverage(&self) -> SignalCoverage {
        SignalCoverage {
            signal: "open_connections".to_owned(),
            variant: self.trouble.is_none().then(|| "test_run".to_owned()),
            target: PROGRAM.to_owned(),
            without_it: "every namespace's connections are walked in turns, which costs more and finds what hangs later".to_owned(),
            reason: self.trouble.clone().unwrap_or_default(),
            required: false,
            idle: false,
        }
    }
}

/// Loads the program and runs it once, for nothing.
fn load(ebpf: &mut Ebpf, offsets: &[u32]) -> Result<(), String> {
    let absent = |name: &&&str| {
        let mut fields = FIELDS.iter().zip(offsets);
        fields.any(|(field, offset)| field.name == **name && *offset == ABSENT)
    };
    if let Some(field) = NEEDED.iter().find(absent) {
        return Err(format!("this kernel has no field {field}"));
    }
    raw_tracepoint(ebpf, PROGRAM)?
        .load()
        .map_err(|error| chain(&error))?;
    look(ebpf, &[0])
}

/// Has the program look at these places.
fn look(ebpf: &mut Ebpf, stayed: &[u16]) -> Result<(), String> {
    if stayed.is_empty() {
        return Ok(());
    }
    let program = raw_tracepoint(ebpf, PROGRAM)?;
    for some in stayed.chunks(LOOK_AT) {
        let mut args = [0_u64; LOOK_ARGUMENTS];
        for (arg, four) in args.iter_mut().zip(some.chunks(4)) {
            *arg = four.iter().rfold(0, |arg, one| arg << 16 | u64::from(*one));
        }
        let options = RawTracePointRunOptions {
            args,
            ..RawTracePointRunOptions::default()
        };
        program.test_run(options).map_err(|error| chain(&error))?;
    }
    Ok(())
}
