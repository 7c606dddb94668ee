//! The contract between Sidestep's probes and its agent, and nothing else.
//!
//! Fixed-size records of plain integers and byte arrays: no Rust `enum`, no `bool`, no
//! pointer crosses the kernel boundary, because the other side may be an older build of
//! the probes and any bit pattern must be representable. Whatever is read is checked
//! ([`Malformed`]) before it is believed. Layouts are asserted at compile time, and
//! [`ABI_VERSION`] is part of a symbol's name in the probes' object, so that a mismatched
//! pair fails at load with a clear message and never misreads a byte.
//!
//! Must never: depend on std or on another crate, hold behaviour of either side.
#![no_std]

mod counters;
mod drop;
mod event;
mod fields;
mod key;
mod open;
mod slot;

pub use counters::{COUNTER_COUNT, COUNTER_NAMES, Counter};
pub use drop::{DROPS, DropKey, TCP_ACK, TCP_SYN, WATCHED};
pub use event::{
    COMM_LEN, EVENT_CLOSED, EVENT_FAILED, EVENT_FIRST_SEEN, EVENT_INBOUND_REDIRECT,
    EVENT_LISTENING, EVENT_LISTENING_ENDED, EVENT_NO_LISTENER, EVENT_RESET, EVENT_RULES_CHANGED,
    EVENT_STALLED, EVENT_SYN_ACK_RESENT, Event, OUTCOME_ABORTED, OUTCOME_COUNT, OUTCOME_DENIED,
    OUTCOME_ESTABLISHED, OUTCOME_FAILED, OUTCOME_NO_ADDRESS, OUTCOME_REFUSED, OUTCOME_TIMED_OUT,
    OUTCOME_UNREACHABLE, RULES_LEGACY, RULES_NFT, Task,
};
pub use fields::{
    ABSENT, FIELD_COUNT, FIELDS, Field, LATE_FIELD_COUNT, LATE_FIELDS, LateOffsets, Need, Offsets,
    Range, TABLE_FAMILY, Tuple, Unit,
};
pub use key::{
    ARRIVAL_DECIDED, ARRIVAL_LOOPBACK, ARRIVAL_NOWHERE, ARRIVAL_PORT, ARRIVAL_UNKNOWN,
    DIRECTION_INBOUND, DIRECTION_OUTBOUND, DatagramValue, EdgeKey, EdgeValue, FAMILY_IPV4,
    FAMILY_IPV6, FLAG_DUAL_STACK, FLAG_OVERFLOW, HISTOGRAM_BUCKETS, NO_ID,
};
pub use open::{LOOK_ARGUMENTS, LOOK_AT, OPEN_SLOTS, OPEN_STAYS, OPEN_TIME_SHIFT, Open, WAITING};
pub use slot::{
    AWAIT_BUCKETS, AWAIT_WAYS, AwaitBucket, AwaitSlot, STATE_BUSY, STATE_FREE, STATE_MIN_TAG,
};

/// Version of every layout in this crate. Raise it with any change of a layout or of a meaning.
pub const ABI_VERSION: u32 = 8;

/// Symbol the probes' object carries for this version; its absence is a mismatch.
pub const ABI_SYMBOL: &str = "SIDESTEP_ABI_8";

/// A record that is not what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not the size of the record.
    Size {
        /// Bytes expected.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A field holds a value its meaning does not have.
    Value {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Size { expected, found } => {
                write!(f, "record of {found} bytes where {expected} were expected")
            }
            Self::Value { field, found } => write!(f, "field {field} holds {found}"),
        }
    }
}

impl core::error::Error for Malformed {}

/// Reads a plain record out of bytes of exactly its size.
///
/// Crate-private: every record wraps it and checks its own values.
fn read<T: Plain>(bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() != size_of::<T>() {
        return Err(Malformed::Size {
            expected: size_of::<T>(),
            found: bytes.len(),
        });
    }
    // SAFETY: the length was checked above, `Plain` promises that every bit pattern is a
    // value, and `read_unaligned` asks nothing of the address.
    #[expect(unsafe_code, reason = "the one place that turns bytes into records")]
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Marks records for which every bit pattern is a value and that have no padding.
///
/// # Safety
/// `repr(C)`, integers and arrays of integers only, no padding.
#[expect(unsafe_code, reason = "a promise about layout, see its Safety section")]
unsafe trait Plain: Copy {}

/// Implements [`Plain`] and asserts size and offsets.
macro_rules! plain {
    ($name:ident, $size:literal, { $($field:ident: $offset:literal),* $(,)? }) => {
        // SAFETY: `repr(C)` of integers and integer arrays; the asserts below fail to
        // compile if padding or a moved field changes the layout.
        #[expect(unsafe_code, reason = "layout promise, asserted right below")]
        unsafe impl $crate::Plain for $name {}
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() <= 8);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}
use plain;

#[cfg(test)]
mod tests;
