//! Every map, its bound, and the records only the kernel side reads.
//!
//! The healthy path touches plain arrays, which the JIT compiles to an index; a hash is
//! only paid to count. All are bounded here and nothing grows.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use sidestep_abi::{
    AWAIT_BUCKETS, AWAIT_WAYS, AwaitBucket, AwaitSlot, COUNTER_COUNT, Counter, DROPS as DROPS_ROOM,
    DatagramValue, DropKey, EdgeKey, EdgeValue, LateOffsets, OPEN_SLOTS, Open, Task,
    WAITING as WAITING_ROOM, WATCHED as WATCHED_ROOM,
};

use crate::addr::Addr;

/// Connects not yet answered; two may share a pair of slots. One more is nobody's.
pub(crate) const PENDING_SLOTS: u32 = 16_384;
/// Threads inside connect(2), by thread id.
pub(crate) const CONNECTING_SLOTS: u32 = 1_024;
/// SYNs that met no listener, of which the client has not heard yet.
pub(crate) const REFUSED_SLOTS: u32 = 1_024;
/// Children not yet accepted.
pub(crate) const ACCEPT_SLOTS: u32 = 8_192;
/// Namespaces with a budget of events of their own, for each kind of event that has one.
pub(crate) const BUDGET_SLOTS: u32 = 256;
/// Kinds of events with a budget.
pub(crate) const BUDGET_KINDS: u32 = 5;
/// Inbound redirects already told.
pub(crate) const TOLD_SLOTS: u32 = 1_024;

/// A connect from its SYN until its socket leaves ESTABLISHED. `sk` is written last and
/// cleared first. Once answered it only says where the connection waits for its arrival,
/// and may be overwritten by a newer one.
#[repr(C)]
pub(crate) struct Pending {
    /// The socket's address, 0 if free.
    pub(crate) sk: u64,
    /// When connect(2) sent the SYN.
    pub(crate) since_ns: u64,
    /// Before the answer: destination asked for, by which NAT's decision is recognised. After it: the tag of the
    /// place it waits at.
    pub(crate) to: u64,
    /// The other half of that: the address of its namespace, which nobody has to look up.
    pub(crate) net: u64,
    /// What NAT decided: see `DECISION_*`.
    pub(crate) decision: u32,
    /// SYNs sent again.
    pub(crate) retransmits: u32,
    /// Who called connect(2).
    pub(crate) task: Task,
    /// After the answer: the number of that place, from 1; 0 before.
    pub(crate) place: u32,
}

/// NAT said nothing (yet).
pub(crate) const DECISION_UNKNOWN: u32 = 0;
/// NAT let it pass.
pub(crate) const DECISION_NONE: u32 = 1;
/// NAT redirects to the port in the low half.
pub(crate) const DECISION_REDIRECT: u32 = 1 << 16;

/// A thread inside connect(2).
#[repr(C)]
pub(crate) struct Connecting {
    /// Thread id in the first pid namespace.
    pub(crate) thread: u32,
    /// Its slot in [`PENDING`].
    pub(crate) slot: u32,
}

/// A SYN that met no listener.
#[repr(C)]
pub(crate) struct Refused {
    /// Hash of namespace, client address and port.
    pub(crate) tag: u64,
    /// When.
    pub(crate) at_ns: u64,
    /// Port asked.
    pub(crate) port: u64,
}

/// A child not yet accepted.
#[repr(C)]
pub(crate) struct Acceptable {
    /// The socket's address, 0 if free.
    pub(crate) sk: u64,
    /// When it was established.
    pub(crate) since_ns: u64,
    /// The edge it was counted under.
    pub(crate) key: EdgeKey,
}

/// A namespace's budget of events of one kind.
#[repr(C)]
pub(crate) struct Budget {
    /// Last refill.
    pub(crate) at_ns: u64,
    /// Namespace the slot serves at the moment.
    pub(crate) netns: u32,
    /// Events left.
    pub(crate) tokens: u32,
    /// What was not told since the last that was.
    pub(crate) untold: u64,
}

#[map]
pub(crate) static EDGES: HashMap<EdgeKey, EdgeValue> = HashMap::with_max_entries(16_384, 0);

/// Edges without addresses, for when [`EDGES`] is full.
#[map]
pub(crate) static OVERFLOW: HashMap<EdgeKey, EdgeValue> = HashMap::with_max_entries(1_024, 0);

/// One word: whether anything was counted in the two above, or waits to be, since the agent read them.
#[map]
pub(crate) static COUNTED: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Flows over UDP; apart, so that they never take an edge's place.
#[map]
pub(crate) static DATAGRAMS: HashMap<EdgeKey, DatagramValue> = HashMap::with_max_entries(1_024, 0);

/// Connections whose destination was rewritten inside connect(2).
#[map]
pub(crate) static REWRITES: HashMap<EdgeKey, DatagramValue> = HashMap::with_max_entries(512, 0);

/// Addresses whose dropped packets are counted, by the agent's wish.
#[map]
pub(crate) static WATCHED: HashMap<[u32; 4], u32> = HashMap::with_max_entries(WATCHED_ROOM, 0);

/// What was dropped of them; the agent takes it out.
#[map]
pub(crate) static DROPS: HashMap<DropKey, u64> = HashMap::with_max_entries(DROPS_ROOM, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[map]
pub(crate) static AWAIT_STATES: Array<AwaitBucket> =
    Array::with_max_entries(AWAIT_BUCKETS, BPF_F_MMAPABLE);

#[map]
pub(crate) static AWAIT_SLOTS: Array<AwaitSlot> =
    Array::with_max_entries(AWAIT_BUCKETS * AWAIT_WAYS, BPF_F_MMAPABLE);

#[map]
pub(crate) static PENDING: Array<Pending> = Array::with_max_entries(PENDING_SLOTS + 1, 0);

#[map]
pub(crate) static CONNECTING: Array<Connecting> = Array::with_max_entries(CONNECTING_SLOTS, 0);

#[map]
pub(crate) static REFUSED: Array<Refused> = Array::with_max_entries(REFUSED_SLOTS, 0);

#[map]
pub(crate) static ACCEPTABLE: Array<Acceptable> = Array::with_max_entries(ACCEPT_SLOTS, 0);

#[map]
pub(crate) static OPEN: Array<Open> = Array::with_max_entries(OPEN_SLOTS, BPF_F_MMAPABLE);

/// Namespaces in which a connection waits; the agent takes them out.
#[map]
pub(crate) static WAITING: HashMap<u32, u32> = HashMap::with_max_entries(WAITING_ROOM, 0);

#[map]
pub(crate) static BUDGETS: Array<Budget> = Array::with_max_entries(BUDGET_SLOTS * BUDGET_KINDS, 0);

#[map]
pub(crate) static TOLD: Array<u64> = Array::with_max_entries(TOLD_SLOTS, 0);

#[map]
pub(crate) static COUNTERS: Array<u64> = Array::with_max_entries(COUNTER_COUNT as u32, 0);

/// Offsets of module fields, written when the module is there.
#[map]
pub(crate) static LATE: Array<LateOffsets> = Array::with_max_entries(1, 0);

/// Offset of [`sidestep_abi::TABLE_FAMILY`], written when the module is there; 0 before, and
/// where it is not known (a table begins with its place in a list).
#[map]
pub(crate) static TABLE_FAMILY: Array<u32> = Array::with_max_entries(1, 0);

/// Logs that something is given up.
#[cfg(feature = "debug")]
#[inline(never)]
fn note(counter: u32) {
    aya_log_ebpf::debug!((), "given up: counter {}", counter);
}

/// Counts something given up.
#[inline(always)]
pub(crate) fn lost(counter: Counter) {
    #[cfg(feature = "debug")]
    note(counter as u32);
    if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a map value, 8-byte aligned.
        unsafe { crate::atomic::add64(count, 1) };
    }
}

/// What a connect asks for, told apart from the other connections a thread may be in the
/// middle of: port (network order), last word of the address.
#[inline(always)]
pub(crate) fn destination(port: u16, word: u32) -> u64 {
    (u64::from(port) << 32) | u64::from(word)
}

/// Mixes what names one end of a connection into 64 bits.
#[inline(always)]
pub(crate) fn end_hash(netns: u32, port: u16, addr: Addr) -> u64 {
    let end = u64::from(netns) | (u64::from(port) << 32);
    let mixed = end.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ addr[0].wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ addr[1].wrapping_mul(0x1656_67b1_9e37_79f9);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Spreads a socket's address over the slots of a table.
///
/// Low half only: the verifier takes a 32-bit copy of a pointer for a number, and refuses
/// any 64-bit arithmetic on it.
#[inline(always)]
pub(crate) fn sk_hash(sk: u64) -> u32 {
    let low: u64;
    // SAFETY: one move between two registers. Spelled out because the compiler widens
    // `sk as u32 >> 6` to 64 bits.
    unsafe { core::arch::asm!("w0 = w1", in("r1") sk, lateout("r0") low, options(pure, nomem)) };
    (low as u32 >> 6).wrapping_mul(0x9e37_79b1) >> 12
}
