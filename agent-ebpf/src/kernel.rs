//! The only reader of kernel memory.
//!
//! Two readers behind one trait. [`Direct`] loads through BTF pointers like the kernel's
//! own code, a few instructions per field, and swaps state words atomically; it needs
//! `tp_btf` and Linux 5.12. [`Probed`] copies through a helper and works everywhere. Code
//! above is written once and compiled for both.
//!
//! Must never: hard-code an offset, or hand out a kernel pointer as anything but a cookie.

use core::{marker::PhantomData, ptr};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use sidestep_abi::{ABSENT, FAMILY_IPV4, FAMILY_IPV6, NO_ID};

use crate::{
    addr::{Ends, is_mapped},
    atomic,
    maps::destination,
    verifier::forget,
};

/// `IPPROTO_TCP`; MPTCP's own sockets carry another number and are not connections on the wire.
pub(crate) const TCP: u16 = 6;
/// States of a TCP socket (`TCP_*`).
pub(crate) const ESTABLISHED: u32 = 1;
pub(crate) const SYN_SENT: u32 = 2;
pub(crate) const SYN_RECV: u32 = 3;
pub(crate) const CLOSE: u32 = 7;
pub(crate) const CLOSE_WAIT: u32 = 8;
pub(crate) const LISTEN: u32 = 10;
/// `IPPROTO_UDP`.
pub(crate) const UDP: u16 = 17;
/// `AF_INET6`.
pub(crate) const AF_INET6: u16 = 10;

/// Reads an offset the way the verifier can know its value.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::known(&$crate::globals::OFFSETS.$field)
    };
}
pub(crate) use offset;

/// A constant of the object, as the agent set it before load.
#[inline(always)]
pub(crate) fn known(constant: &u32) -> u32 {
    // SAFETY: a reference; volatile because the compiler must not believe the value it sees.
    unsafe { ptr::read_volatile(constant) }
}

/// A way to read kernel memory.
pub(crate) trait Kernel {
    /// Whether it loads in place, which takes a pointer that the verifier knows.
    const IN_PLACE: bool;

    /// Loads the `T` that lies `offset` bytes after `base`; zero if it cannot be read.
    ///
    /// # Safety
    /// `T` must be an integer or a pointer.
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T;

    /// Changes a word in a map from `from` to `to`; false if it held something else.
    ///
    /// # Safety
    /// `word` must point into a map value.
    unsafe fn swap(word: *mut u64, from: u64, to: u64) -> bool;
}

/// Loads through BTF pointers, atomic swaps.
pub(crate) struct Direct;

impl Kernel for Direct {
    const IN_PLACE: bool = true;

    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier allows the load only where `base` is a BTF pointer, and
        // turns a fault into zero.
        unsafe { ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    unsafe fn swap(word: *mut u64, from: u64, to: u64) -> bool {
        // SAFETY: the caller's promise; map values are 8-byte aligned.
        unsafe { atomic::exchange(word, from, to) }
    }
}

/// Copies through a helper, plain swaps.
pub(crate) struct Probed;

impl Kernel for Probed {
    const IN_PLACE: bool = false;

    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        let from = base.wrapping_add(offset as usize);
        // SAFETY: the helper checks the address and fills the place in any case: with zeros,
        // a value of every integer and pointer, if it cannot read. Not looking at its
        // result spares the verifier two paths per field.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                from.cast(),
            );
            value.assume_init()
        }
    }

    /// Not atomic: programs with an atomic exchange are refused before Linux 5.12. Two
    /// CPUs resolving one connection in the same nanoseconds may both count it.
    #[inline(always)]
    unsafe fn swap(word: *mut u64, from: u64, to: u64) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if ptr::read_volatile(word) != from {
                return false;
            }
            ptr::write_volatile(word, to);
        }
        true
    }
}

/// Inode of a `struct net *`, 0 for none.
#[inline(always)]
pub(crate) fn netns_inode(net: *const u8) -> u32 {
    if net.is_null() {
        return 0;
    }
    // SAFETY: an integer, read through the helper.
    unsafe { Probed::load(net, offset!(net_inum)) }
}

/// Copies the `T` at an address of the running task's memory.
///
/// # Safety
/// `T` must be made of integers.
#[inline(always)]
pub(crate) unsafe fn load_user<T: Copy>(from: *const u8) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address and fills the place in any case.
    unsafe {
        let to = value.as_mut_ptr().cast();
        let read = bpf_probe_read_user(to, size_of::<T>() as u32, from.cast());
        (read == 0).then(|| value.assume_init())
    }
}

/// A `struct sock *` and the way to read it.
pub(crate) struct Sock<K>(*const u8, PhantomData<K>);

impl<K: Kernel> Sock<K> {
    /// Wraps a probe's argument.
    #[inline(always)]
    pub(crate) const fn new(sk: *const u8) -> Self {
        Self(sk, PhantomData)
    }

    /// The address as a cookie.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn u16(&self, offset: u32) -> u16 {
        // SAFETY: an integer.
        unsafe { K::load(self.0, offset) }
    }

    #[inline(always)]
    fn u32(&self, offset: u32) -> u32 {
        // SAFETY: an integer.
        unsafe { K::load(self.0, offset) }
    }

    /// Transport protocol.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u16 {
        self.u16(offset!(sk_protocol))
    }

    /// TCP state.
    #[inline(always)]
    pub(crate) fn state(&self) -> u8 {
        // SAFETY: an integer.
        unsafe { K::load(self.0, offset!(skc_state)) }
    }

    /// Pending error, 0 if none.
    #[inline(always)]
    pub(crate) fn error(&self) -> u16 {
        self.u32(offset!(sk_err)) as u16
    }

    /// Own port, host order.
    #[inline(always)]
    pub(crate) fn local_port(&self) -> u16 {
        match self.u16(offset!(skc_num)) {
            // Given back already (a reset, a failed connect): the other copy survives, but
            // lies behind what a BTF pointer to `struct sock` may reach.
            // SAFETY: an integer.
            0 => u16::from_be(unsafe { Probed::load(self.0, offset!(inet_sport)) }),
            port => port,
        }
    }

    /// Peer's port, host order.
    #[inline(always)]
    pub(crate) fn remote_port(&self) -> u16 {
        u16::from_be(self.u16(offset!(skc_dport)))
    }

    /// Address of the network namespace as a cookie.
    #[inline(always)]
    pub(crate) fn net(&self) -> u64 {
        // SAFETY: a pointer, of which the verifier knows.
        unsafe { K::load(self.0, offset!(skc_net)) }
    }

    /// Inode of the network namespace.
    #[inline(always)]
    pub(crate) fn netns(&self) -> u32 {
        // SAFETY: a pointer and an integer.
        unsafe {
            let net: *const u8 = K::load(self.0, offset!(skc_net));
            if net.is_null() {
                return 0;
            }
            K::load(net, offset!(net_inum))
        }
    }

    /// Family and both addresses as spoken on the wire: IPv4-mapped is IPv4.
    ///
    /// Where both families meet again the verifier is made to forget which it was: two
    /// shapes of key would stay apart to the end of the program.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Ends {
        let any = self.u32(offset!(skc_daddr));
        let mut six = 0;
        let mut local = [u64::from(self.u32(offset!(skc_rcv_saddr))), 0];
        let mut remote = [u64::from(any), 0];
        if self.u16(offset!(skc_family)) == AF_INET6
            && offset!(skc_v6_daddr) != ABSENT
            && offset!(skc_v6_rcv_saddr) != ABSENT
        {
            let local6 = self.in6(offset!(skc_v6_rcv_saddr));
            let remote6 = self.in6(offset!(skc_v6_daddr));
            if !is_mapped(remote6) && !is_mapped(local6) {
                six = 1;
                local = local6;
                remote = remote6;
            }
        }
        let any = any.into();
        Ends {
            family: FAMILY_IPV4 + (forget(six, any) as u8 & 1) * (FAMILY_IPV6 - FAMILY_IPV4),
            local: [forget(local[0], any), forget(local[1], any)],
            remote: [forget(remote[0], any), forget(remote[1], any)],
        }
    }

    /// What was asked of connect(2), see [`destination`].
    #[inline(always)]
    pub(crate) fn destination(&self) -> u64 {
        let six = self.u16(offset!(skc_family)) == AF_INET6 && offset!(skc_v6_daddr) != ABSENT;
        let word = if six {
            self.u32(offset!(skc_v6_daddr).wrapping_add(12))
        } else {
            self.u32(offset!(skc_daddr))
        };
        destination(self.u16(offset!(skc_dport)), word)
    }

    #[inline(always)]
    fn in6(&self, offset: u32) -> [u64; 2] {
        // SAFETY: integers; an IPv6 address is 16 bytes.
        unsafe { [K::load(self.0, offset), K::load(self.0, offset + 8)] }
    }

    /// Whether an IPv6 socket takes IPv4 too.
    #[inline(always)]
    pub(crate) fn dual_stack(&self) -> bool {
        let bit = offset!(skc_ipv6only);
        if bit == ABSENT || self.u16(offset!(skc_family)) != AF_INET6 {
            return false;
        }
        // SAFETY: an integer.
        let byte: u8 = unsafe { K::load(self.0, bit / 8) };
        (byte >> (bit % 8)) & 1 == 0
    }

    /// Inode of the socket's cgroup, 0 if the kernel does not tell.
    #[inline(always)]
    pub(crate) fn cgroup(&self) -> u64 {
        // SAFETY: pointers and integers.
        unsafe {
            if offset!(cgroup_kn) == ABSENT || offset!(kernfs_id) == ABSENT {
                return 0;
            }
            if offset!(sk_cgroup) != ABSENT {
                return cgroup_id::<K>(K::load(self.0, offset!(sk_cgroup)));
            }
            if offset!(sk_cgroup_tagged) == ABSENT {
                return 0;
            }
            let tagged: u64 = K::load(self.0, offset!(sk_cgroup_tagged));
            // Low bits set: the word holds a v1 class or priority, not a pointer.
            if tagged & 3 != 0 {
                return 0;
            }
            cgroup_id::<Probed>(tagged as *const u8)
        }
    }

    /// User that made the socket (a child has its listener's).
    #[inline(always)]
    pub(crate) fn uid(&self) -> u32 {
        self.u32(offset!(sk_uid))
    }

    /// Credentials of the socket's file, which the owner match compares: user and group.
    /// A socket without a file has its maker's user and no group.
    #[inline(always)]
    pub(crate) fn file_owner(&self) -> (u32, u32) {
        let without = (self.uid(), NO_ID);
        // SAFETY: pointers and integers.
        unsafe {
            let socket: *const u8 = K::load(self.0, offset!(sk_socket));
            if socket.is_null() {
                return without;
            }
            let file: *const u8 = K::load(socket, offset!(socket_file));
            if file.is_null() {
                return without;
            }
            let cred: *const u8 = K::load(file, offset!(file_cred));
            if cred.is_null() {
                return without;
            }
            (
                K::load(cred, offset!(cred_fsuid)),
                K::load(cred, offset!(cred_fsgid)),
            )
        }
    }

    /// Maximum segment size the peer announced, 0 if not known.
    #[inline(always)]
    pub(crate) fn peer_mss(&self) -> u16 {
        let offset = offset!(tcp_mss_clamp);
        if offset == ABSENT {
            return 0;
        }
        // SAFETY: an integer. It lies behind `struct sock`, so never a direct load.
        unsafe { Probed::load(self.0, offset) }
    }
}

/// Inode of a cgroup's directory.
///
/// # Safety
/// `cgroup` must be null or the kernel's.
#[inline(always)]
unsafe fn cgroup_id<K: Kernel>(cgroup: *const u8) -> u64 {
    if cgroup.is_null() {
        return 0;
    }
    // SAFETY: a pointer and an integer.
    unsafe {
        let node: *const u8 = K::load(cgroup, offset!(cgroup_kn));
        if node.is_null() {
            return 0;
        }
        K::load(node, offset!(kernfs_id))
    }
}
