//! The few BPF system calls aya does not make.
//!
//! Batch reads make the cost of a drain one call for thousands of edges; the rest asks what
//! the kernel knows about our own programs. Every call owns the buffers it passes.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_int = 25;
/// Size of the attribute union given to the kernel; what follows a command's part is 0.
const ATTR_LEN: usize = 128;
/// Count what is inherited, too.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// Place of the number of programs in a query's attributes.
const PROGRAM_COUNT: usize = 24;
/// Place of `recursion_misses` in `struct bpf_prog_info` (since Linux 5.12).
const RECURSION_MISSES: usize = 208;

/// The kernel's `union bpf_attr` as bytes.
#[repr(C, align(8))]
struct Attr([u8; ATTR_LEN]);

impl Attr {
    const fn new() -> Self {
        Self([0; ATTR_LEN])
    }

    fn put32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn put64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn get32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    /// # Safety
    /// Every address in the attribute must be valid for what `command` does with it.
    unsafe fn call(&mut self, command: libc::c_int) -> io::Result<()> {
        // SAFETY: the attribute is as long as said; the addresses in it are the caller's promise.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTR_LEN) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn address<T>(of: *const T) -> u64 {
    of as usize as u64
}

/// One step of a batch lookup.
pub(super) struct Batch {
    /// Entries written to both buffers.
    pub(super) count: usize,
    /// Nothing is left.
    pub(super) done: bool,
}

/// Reads as many entries as fit, from `cursor` on.
///
/// # Errors
/// The kernel's answer; `ENOSPC` if the buffers hold less than one bucket.
pub(super) fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    first: bool,
    cursor: &mut u64,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    batch(BPF_MAP_LOOKUP_BATCH, map, first, cursor, keys, values)
}

/// Takes as many entries out as fit, from `cursor` on.
///
/// # Errors
/// The kernel's answer; `ENOSPC` if the buffers hold less than one bucket.
pub(super) fn take_batch<K, V>(
    map: BorrowedFd<'_>,
    first: bool,
    cursor: &mut u64,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let command = BPF_MAP_LOOKUP_AND_DELETE_BATCH;
    batch(command, map, first, cursor, keys, values)
}

fn batch<K, V>(
    command: libc::c_int,
    map: BorrowedFd<'_>,
    first: bool,
    cursor: &mut u64,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let room = u32::try_from(keys.len().min(values.len())).unwrap_or(0);
    let place = address(std::ptr::from_mut(cursor));
    let mut attr = Attr::new()
        .put64(0, if first { 0 } else { place })
        .put64(8, place)
        .put64(16, address(keys.as_mut_ptr()))
        .put64(24, address(values.as_mut_ptr()))
        .put32(32, room)
        .put32(36, raw(map));
    // SAFETY: buffers of `room` entries; the caller gives keys and values of the map's
    // sizes; the cursor has room for a hash map's (4 bytes).
    let result = unsafe { attr.call(command) };
    let count = attr.get32(32) as usize;
    match result {
        Ok(()) => Ok(Batch { count, done: false }),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Batch { count, done: true }),
        Err(e) => Err(e),
    }
}

/// Removes an entry and returns what it held.
///
/// # Errors
/// The kernel's answer; `EINVAL` or `ENOTSUPP` (524) before Linux 5.14.
pub(super) fn take<K, V: Copy>(map: BorrowedFd<'_>, key: &K, mut value: V) -> io::Result<V> {
    let mut attr = Attr::new()
        .put32(0, raw(map))
        .put64(8, address(std::ptr::from_ref(key)))
        .put64(16, address(std::ptr::from_mut(&mut value)));
    // SAFETY: key and value have the map's sizes by the caller's types.
    unsafe { attr.call(BPF_MAP_LOOKUP_AND_DELETE_ELEM) }?;
    Ok(value)
}

/// Whether programs of this type run for the processes of a cgroup, wherever they are attached.
///
/// # Errors
/// The kernel's answer; `EPERM` without `CAP_NET_ADMIN`.
pub(super) fn has_effective(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<bool> {
    let mut attr = Attr::new()
        .put32(0, raw(cgroup))
        .put32(4, attach_type)
        .put32(8, BPF_F_QUERY_EFFECTIVE);
    // SAFETY: no addresses: only the number of programs is asked for.
    unsafe { attr.call(BPF_PROG_QUERY) }?;
    Ok(attr.get32(PROGRAM_COUNT) > 0)
}

/// Runs of a program that were skipped because it was running on that CPU already.
///
/// # Errors
/// The kernel's answer.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0_u64; RECURSION_MISSES / 8 + 1];
    let len = u32::try_from(size_of_val(&info)).unwrap_or(0);
    let mut attr = Attr::new()
        .put32(0, raw(program))
        .put32(4, len)
        .put64(8, address(info.as_mut_ptr()));
    // SAFETY: a buffer of the length said, zeroed, so no array in it is asked for.
    unsafe { attr.call(BPF_OBJ_GET_INFO_BY_FD) }?;
    Ok(info[RECURSION_MISSES / 8])
}

/// Before Linux 5.11 maps count against this limit. Failing is fine: map creation tells.
pub(super) fn lift_memlock() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid limit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

/// Memory of a `BPF_F_MMAPABLE` array, shared with the kernel until dropped.
#[derive(Debug)]
pub(super) struct Shared {
    start: *mut libc::c_void,
    len: usize,
}

// SAFETY: plain memory; whoever shares it between threads goes through atomics or `&mut`.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps `len` bytes of an array.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn map(array: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    /// Its start.
    pub(super) const fn start(&self) -> *mut u8 {
        self.start.cast()
    }

    /// Its length in bytes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, unmapped once.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
