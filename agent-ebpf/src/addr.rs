//! Addresses while they are compared and hashed, and in a key.

/// Second half of an IPv4-mapped IPv6 address starts with these four bytes.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address of either family as it lies in memory: half the loads and stores of four words.
pub(crate) type Addr = [u64; 2];

/// Both ends of a connection, as spoken on the wire.
pub(crate) struct Ends {
    /// `FAMILY_*`.
    pub(crate) family: u8,
    /// Own address.
    pub(crate) local: Addr,
    /// Peer's address.
    pub(crate) remote: Addr,
}

/// Whether an IPv6 address carries an IPv4 one.
#[inline(always)]
pub(crate) const fn is_mapped(addr: Addr) -> bool {
    addr[0] == 0 && addr[1] as u32 == MAPPED
}

/// An address as a key has it.
#[inline(always)]
pub(crate) const fn words(addr: Addr) -> [u32; 4] {
    // SAFETY: integers of the same size.
    unsafe { core::mem::transmute(addr) }
}

/// An address of a key.
#[inline(always)]
pub(crate) const fn halves(addr: [u32; 4]) -> Addr {
    // SAFETY: integers of the same size.
    unsafe { core::mem::transmute(addr) }
}
