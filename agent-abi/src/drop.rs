//! Packets that the kernel dropped, as far as somebody watches for them.
//!
//! Counted in a map that the agent empties, by who, where and why: a flood of drops is one entry.

use crate::{DIRECTION_INBOUND, FAMILY_IPV4, FAMILY_IPV6, Malformed, plain, read};

/// Addresses that may be watched at once.
pub const WATCHED: u32 = 8;
/// Different drops counted between two readings.
pub const DROPS: u32 = 512;

/// Bits of [`DropKey::tcp_flags`].
pub const TCP_SYN: u8 = 0x02;
/// See [`TCP_SYN`].
pub const TCP_ACK: u8 = 0x10;

/// One kind of drop of one watched address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropKey {
    /// Where in the kernel's text: an address to look up, nothing to follow.
    pub location: u64,
    /// Namespace in which it was dropped, 0 if the packet does not say.
    pub netns: u32,
    /// The kernel's `enum skb_drop_reason`; 0 where it has none.
    pub reason: u32,
    /// Port of the other end, host order.
    pub remote_port: u16,
    /// Outbound: the watched address had sent it.
    pub direction: u8,
    /// `FAMILY_*`.
    pub family: u8,
    /// SYN and ACK of its TCP header; other flags are left out.
    pub tcp_flags: u8,
    /// Always 0.
    pub reserved: [u8; 3],
    /// The watched address.
    pub local: [u32; 4],
    /// The other end.
    pub remote: [u32; 4],
}

plain!(DropKey, 56, {
    location: 0, netns: 8, reason: 12, remote_port: 16, direction: 18, family: 19, tcp_flags: 20,
    reserved: 21, local: 24, remote: 40,
});

impl DropKey {
    /// Reads and checks a key.
    ///
    /// # Errors
    /// [`Malformed`] if the size or a value is not a key's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let key: Self = read(bytes)?;
        let wrong = |field, found: u8| Malformed::Value {
            field,
            found: found.into(),
        };
        if key.direction > DIRECTION_INBOUND {
            return Err(wrong("direction", key.direction));
        }
        if key.family != FAMILY_IPV4 && key.family != FAMILY_IPV6 {
            return Err(wrong("family", key.family));
        }
        Ok(key)
    }
}
