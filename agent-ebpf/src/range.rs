//! What a range of NAT means for a connection or a flow: where it is sent, and whether that is here.

use sidestep_abi::{Range, Tuple};

use crate::{
    kernel::AF_INET6,
    maps::{DECISION_NONE, DECISION_REDIRECT},
};

/// `NF_NAT_RANGE_MAP_IPS`: the range sets an address.
pub(crate) const MAP_IPS: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the range sets a port.
const MAP_PORT: u32 = 2;

/// What a range decides: a redirect only if it leads to this host.
///
/// A rewritten destination elsewhere (a service's virtual address) is no interception.
#[inline(always)]
pub(crate) fn read_range(range: &Range, tuple: &Tuple) -> u32 {
    if range.flags & MAP_PORT == 0 {
        return DECISION_NONE;
    }
    let addressed = range.flags & MAP_IPS != 0;
    if addressed && !leads_here(tuple, &range.addr) {
        return DECISION_NONE;
    }
    if range.port == tuple.dst_port && (!addressed || same(tuple, &range.addr)) {
        return DECISION_NONE;
    }
    DECISION_REDIRECT | u32::from(u16::from_be(range.port))
}

/// Loopback, or one of the two addresses the connection has anyway.
#[inline(always)]
fn leads_here(tuple: &Tuple, addr: &[u32; 4]) -> bool {
    if tuple.family != AF_INET6 {
        return addr[0] & 0xff == 127 || addr[0] == tuple.src[0] || addr[0] == tuple.dst[0];
    }
    let loopback = addr[0] == 0 && addr[1] == 0 && addr[2] == 0 && addr[3] == 1_u32.to_be();
    loopback || equal(addr, &tuple.src) || equal(addr, &tuple.dst)
}

/// Whether the range leaves the address as it is.
#[inline(always)]
pub(crate) fn same(tuple: &Tuple, addr: &[u32; 4]) -> bool {
    if tuple.family != AF_INET6 {
        return addr[0] == tuple.dst[0];
    }
    equal(addr, &tuple.dst)
}

#[inline(always)]
fn equal(a: &[u32; 4], b: &[u32; 4]) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}
