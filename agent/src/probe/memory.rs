//! Keeps what the agent has of the machine's memory close to what it needs.
//!
//! Its start is the largest thing it ever does: types of the whole kernel, the objects of a cluster. What that took, and the pages
//! of the program that nothing runs any more, go back. Must never change what the program does: everything here is allowed to fail.

use std::ffi::c_int;

use libc::{c_void, dl_phdr_info};

/// Blocks from this size on are mapped by themselves and go back when freed: a drain of a
/// thousand edges, a namespace's rules as printed, a page of JSON.
#[cfg(target_env = "gnu")]
const MAPPED_ALONE: c_int = 256 << 10;

/// Keeps what the allocator holds close to what is in use. Call it before there are threads.
///
/// One arena: a pod's rules are read by a thread of their own, and every such thread would
/// begin another arena, of which a few kept kilobytes then hold megabytes. A fixed bound for
/// what is mapped by itself: left alone it grows with the largest block ever freed (the
/// kernel's types, several megabytes), and nothing below it goes back to the system.
pub fn bound_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, MAPPED_ALONE),
        (libc::M_TRIM_THRESHOLD, 2 * MAPPED_ALONE),
    ] {
        // SAFETY: two numbers; called while this is the only thread. An unknown option is refused.
        unsafe {
            libc::mallopt(option, value);
        }
    }
}

/// Hands memory that is free back to the system: what was only needed to start, and holes
/// that a burst left behind. A millisecond or so.
pub fn give_back_memory() {
    // SAFETY: no arguments that could be wrong; what is in use is not touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Hands back the pages of the program itself; those that run come again from the page cache, sixteen at a time. Of the rest
/// the system may then take the memory, and they are not counted as the agent's.
pub fn give_back_program() {
    // SAFETY: the function below, which needs no data.
    unsafe {
        libc::dl_iterate_phdr(Some(give_back_segments), std::ptr::null_mut());
    }
}

/// Of the first object there is, which is the program; libraries are others' as well.
unsafe extern "C" fn give_back_segments(
    object: *mut dl_phdr_info,
    _: libc::size_t,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the caller hands over a valid object, and as many headers as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
        (object.dlpi_addr, headers)
    };
    // SAFETY: a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = u64::try_from(page).ok().filter(|page| *page > 0) else {
        return 1;
    };
    // What is not writable is as it is in the file.
    let from_file =
        |h: &&libc::Elf64_Phdr| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(from_file) {
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        // SAFETY: whole pages of a private mapping of a file that were never written: read again, they are the same.
        unsafe {
            libc::madvise(start as *mut c_void, len, libc::MADV_DONTNEED);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::fs;

    use super::give_back_program;

    /// Pages of files, in KiB.
    fn of_files() -> Option<u64> {
        let text = fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssFile:"));
        line?.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Constants nobody but the test reads.
    static LARGE: [u8; 4 << 20] = [7; 4 << 20];

    #[test]
    fn pages_of_the_program_go_back_and_come_again() {
        let sum = || {
            LARGE
                .iter()
                .step_by(4096)
                .map(|b| u64::from(std::hint::black_box(*b)))
                .sum::<u64>()
        };
        let there = sum();
        let before = of_files().unwrap();
        give_back_program();
        let after = of_files().unwrap();
        assert!(after + 3 * 1024 < before, "{after} KiB of {before}");
        assert_eq!(sum(), there);
    }
}
