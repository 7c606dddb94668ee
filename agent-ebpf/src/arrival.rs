//! Where a connection came out: at a listener of its own namespace, or nowhere.
//!
//! The client is established before its child exists (measured: the child follows in the
//! same softirq chain), so an established client waits in a small table under its own
//! address and port; a child that has that pair as its peer, in the same namespace, claims
//! it. What nobody claims is counted when the client leaves ESTABLISHED, when the place is
//! needed, or by the agent's sweep.
//!
//! A full accept queue looks like a direct connection here: the client is established and
//! no child appears. NAT's decision, or a peer that announced a segment size only loopback
//! has, says otherwise; such a connection is never counted as having arrived nowhere.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sidestep_abi::{
    ARRIVAL_DECIDED, ARRIVAL_LOOPBACK, ARRIVAL_NOWHERE, ARRIVAL_PORT, ARRIVAL_UNKNOWN,
    AWAIT_BUCKETS, AWAIT_WAYS, AwaitBucket, AwaitSlot, Counter, DIRECTION_INBOUND, EdgeKey, NO_ID,
    OUTCOME_ESTABLISHED, STATE_BUSY, STATE_FREE, STATE_MIN_TAG,
};

use crate::{
    accept,
    addr::{Addr, halves, words},
    connect,
    edges::{self, NO_DURATION},
    events,
    kernel::{Kernel, Sock},
    maps::{
        AWAIT_SLOTS, AWAIT_STATES, DECISION_NONE, DECISION_REDIRECT, DECISION_UNKNOWN, Pending,
        end_hash, lost,
    },
    verifier::forget,
};

/// An unclaimed connection older than this arrived nowhere; see docs/decisions/0001.
const GRACE_NS: u64 = 50_000_000;
/// Segment sizes above this are loopback's (65 495): the largest Ethernet frames stay below 9 KiB.
const LOOPBACK_MSS: u16 = 16_384;

/// One place of the table: its state word and its payload.
struct Place {
    state: *mut u64,
    slot: *mut AwaitSlot,
    /// Its number, from 1.
    number: u32,
}

/// The bucket of a hash and its index.
#[inline(always)]
fn bucket(hash: u64) -> Option<(*mut AwaitBucket, u32)> {
    let index = (hash >> 40) as u32 & (AWAIT_BUCKETS - 1);
    AWAIT_STATES
        .get_ptr_mut(index)
        .map(|states| (states, index))
}

#[inline(always)]
fn tag(hash: u64) -> u64 {
    hash | STATE_MIN_TAG
}

#[inline(always)]
fn place(states: *mut AwaitBucket, index: u32, way: u32) -> Option<Place> {
    let way = way & (AWAIT_WAYS - 1);
    let number = index * AWAIT_WAYS + way;
    let slot = AWAIT_SLOTS.get_ptr_mut(number)?;
    // SAFETY: a map value, and `way` is inside the bucket.
    let state = unsafe { states.cast::<u64>().add(way as usize) };
    Some(Place {
        state,
        slot,
        number: number + 1,
    })
}

/// The place of a number that [`place`] gave.
#[inline(always)]
fn numbered(number: u32) -> Option<Place> {
    let number = number.wrapping_sub(1);
    let index = (number / AWAIT_WAYS) & (AWAIT_BUCKETS - 1);
    place(AWAIT_STATES.get_ptr_mut(index)?, index, number)
}

/// SYN_SENT→ESTABLISHED, in anybody's context.
#[inline(never)]
pub(crate) fn established<K: Kernel>(sock: &Sock<K>) {
    let Some(pending) = connect::find(sock.cookie()) else {
        return;
    };
    // SAFETY: a map value that nobody else frees while this socket is in SYN_SENT; a helper
    // without arguments.
    unsafe {
        let now = bpf_ktime_get_ns();
        let duration = connect::duration(pending, now);
        wait(sock, now, duration, &mut *pending);
    }
}

/// An established client waits for its child; its pending connect remembers where.
#[inline(always)]
fn wait<K: Kernel>(sock: &Sock<K>, now: u64, duration_us: u32, pending: &mut Pending) {
    let ends = sock.ends();
    let netns = sock.netns();
    let port = sock.local_port();
    let hash = end_hash(netns, port, ends.local);
    let Some(place) = take_place::<K>(hash, now) else {
        lost(Counter::EdgeLost);
        return;
    };
    // SAFETY: map values; the state word is BUSY, so the payload is ours.
    unsafe {
        let slot = &mut *place.slot;
        slot.since_ns = now;
        slot.duration_us = duration_us;
        slot.local_port = port;
        // An assignment would go through memmove, byte by byte: two references may overlap.
        core::ptr::copy_nonoverlapping(&raw const pending.task, &raw mut slot.task, 1);
        connect::outbound(sock, &ends, netns, &mut slot.key);
        expect(sock, &mut slot.key, pending.decision);
        // Nobody's slot is shared by all: it must stay empty.
        if pending.sk != 0 {
            pending.to = tag(hash);
            pending.place = place.number;
        }
        K::swap(place.state, STATE_BUSY, tag(hash));
    }
    edges::counted();
}

/// Fills in what to count if no child ever claims the connection.
#[inline(always)]
fn expect<K: Kernel>(sock: &Sock<K>, key: &mut EdgeKey, decision: u32) {
    if decision & DECISION_REDIRECT != 0 {
        key.arrival = ARRIVAL_DECIDED;
        key.arrival_port = decision as u16;
    } else if decision == DECISION_UNKNOWN && !is_local(key) && sock.peer_mss() > LOOPBACK_MSS {
        key.arrival = ARRIVAL_LOOPBACK;
    }
}

/// Whether the destination itself is on this host: loopback, or the own address.
#[inline(always)]
fn is_local(key: &EdgeKey) -> bool {
    let (local, remote) = (halves(key.local), halves(key.remote));
    if local[0] == remote[0] && local[1] == remote[1] {
        return true;
    }
    key.family == sidestep_abi::FAMILY_IPV4 && key.remote[0] & 0xff == 127
}

/// Finds a free place, or frees one by counting who has it. The place is BUSY and ours.
#[inline(always)]
fn take_place<K: Kernel>(hash: u64, now: u64) -> Option<Place> {
    let (states, index) = bucket(hash)?;
    if let Some(way) = way_holding(states, STATE_FREE) {
        let place = place(states, index, forget(way.into(), hash) as u32)?;
        // SAFETY: a map value.
        if unsafe { K::swap(place.state, STATE_FREE, STATE_BUSY) } {
            return Some(place);
        }
    }
    let place = place(states, index, (hash >> 60) as u32)?;
    // SAFETY: map values.
    unsafe {
        let held = *place.state;
        if held < STATE_MIN_TAG || !K::swap(place.state, held, STATE_BUSY) {
            return None;
        }
        if now.wrapping_sub((*place.slot).since_ns) < GRACE_NS {
            lost(Counter::ArrivalUnknown);
            (*place.slot).key.arrival = ARRIVAL_UNKNOWN;
            (*place.slot).key.arrival_port = 0;
        }
        settle(place.slot);
    }
    Some(place)
}

/// The first way of a bucket whose state word is `state`.
#[inline(always)]
fn way_holding(states: *mut AwaitBucket, state: u64) -> Option<u32> {
    (0..AWAIT_WAYS).find(|way| {
        // SAFETY: a map value, and `way` is inside the bucket.
        let held = unsafe { core::ptr::read_volatile(states.cast::<u64>().add(*way as usize)) };
        held == state
    })
}

/// Counts a connection whose place is BUSY and ours.
///
/// # Safety
/// `slot` must be a value of the table.
#[inline(always)]
unsafe fn settle(slot: *mut AwaitSlot) {
    // SAFETY: the caller's promise.
    unsafe {
        edges::count(
            &(*slot).key,
            &(*slot).task,
            OUTCOME_ESTABLISHED,
            (*slot).duration_us,
        );
    }
}

/// Claims the connection that one end names. The place is BUSY and ours.
#[inline(always)]
fn claim<K: Kernel>(netns: u32, port: u16, addr: Addr) -> Option<Place> {
    let hash = end_hash(netns, port, addr);
    let (states, index) = bucket(hash)?;
    let way = way_holding(states, tag(hash))?;
    let place = place(states, index, forget(way.into(), hash) as u32)?;
    // SAFETY: map values.
    unsafe {
        if !K::swap(place.state, tag(hash), STATE_BUSY) {
            return None;
        }
        if (*place.slot).key.netns == netns && (*place.slot).local_port == port {
            return Some(place);
        }
        // Two ends with one 64-bit hash: not ours, give it back.
        K::swap(place.state, STATE_BUSY, tag(hash));
    }
    None
}

/// SYN_RECV→ESTABLISHED: a child, addresses complete. Not accepted yet.
#[inline(never)]
pub(crate) fn child<K: Kernel>(sock: &Sock<K>) {
    let mut key = inbound(sock);
    if let Some(place) = claim::<K>(key.netns, sock.remote_port(), halves(key.remote)) {
        // Whatever address it speaks from: a proxy may take that of the peer it speaks for.
        key.arrival = ARRIVAL_LOOPBACK;
        // SAFETY: map values; the place is BUSY and ours.
        unsafe {
            (*place.slot).key.arrival = ARRIVAL_PORT;
            (*place.slot).key.arrival_port = key.local_port;
            settle(place.slot);
            K::swap(place.state, STATE_BUSY, STATE_FREE);
        }
    }
    edges::count(&key, &events::NOBODY, OUTCOME_ESTABLISHED, NO_DURATION);
    accept::acceptable(sock.cookie(), &key);
}

/// The inbound edge of a child: its owner is its listener's.
#[inline(always)]
pub(crate) fn inbound<K: Kernel>(sock: &Sock<K>) -> EdgeKey {
    let ends = sock.ends();
    EdgeKey {
        cgroup: sock.cgroup(),
        netns: sock.netns(),
        uid: sock.uid(),
        gid: NO_ID,
        local_port: sock.local_port(),
        remote_port: 0,
        arrival_port: 0,
        arrival: ARRIVAL_NOWHERE,
        direction: DIRECTION_INBOUND,
        family: ends.family,
        flags: 0,
        reserved: 0,
        local: words(ends.local),
        remote: words(ends.remote),
    }
}

/// ESTABLISHED→anything: a client that still waits is counted now. When it called connect(2), in
/// nanoseconds; 0 for who did not, or so long ago that another has its place, and for whom NAT let
/// pass: nobody stands between him and his peer.
///
/// Found by its pending connect, not by its ends: accepted sockets come here too, and
/// leave after two looks at an array.
#[inline(never)]
pub(crate) fn left<K: Kernel>(sock: &Sock<K>) -> u64 {
    let Some(pending) = connect::find(sock.cookie()) else {
        return 0;
    };
    // SAFETY: a map value.
    let pending = unsafe { &mut *pending };
    if pending.sk == 0 {
        return 0;
    }
    let since = match pending.decision {
        DECISION_NONE => 0,
        _ => pending.since_ns,
    };
    if pending.place == 0 {
        connect::missed(sock, pending);
    } else if let Some(place) = numbered(pending.place) {
        settle_left::<K>(&place, pending.to);
    }
    pending.sk = 0;
    since
}

#[inline(always)]
fn settle_left<K: Kernel>(place: &Place, tag: u64) {
    // SAFETY: map values. A helper without arguments.
    unsafe {
        if tag < STATE_MIN_TAG || *place.state != tag || !K::swap(place.state, tag, STATE_BUSY) {
            return;
        }
        let young = bpf_ktime_get_ns().wrapping_sub((*place.slot).since_ns) < GRACE_NS;
        if young && (*place.slot).key.arrival != ARRIVAL_NOWHERE {
            // Answered over loopback and closed at once: its child comes with the FIN.
            K::swap(place.state, STATE_BUSY, tag);
            return;
        }
        settle(place.slot);
        K::swap(place.state, STATE_BUSY, STATE_FREE);
    }
}
