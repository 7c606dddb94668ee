//! What is read of the running task.

use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{bpf_get_current_task, bpf_get_current_task_btf},
};
use sidestep_abi::{ABSENT, Task};

use crate::kernel::{Kernel, Probed, netns_inode, offset};

/// Writes its name into a record. In place where that can be: the helper costs 150 instructions, because
/// it looks for the end of the name and fills up what is left.
///
/// # Safety
/// `to` must point to a record.
#[inline(always)]
pub(crate) unsafe fn name<K: Kernel>(to: *mut Task) {
    // SAFETY: the caller's promise; a helper without arguments; integers, together as long as the name,
    // which begins at a multiple of four in a record aligned to four.
    unsafe {
        let comm = &raw mut (*to).comm;
        if !K::IN_PLACE || offset!(task_comm) == ABSENT {
            *comm = bpf_get_current_comm().unwrap_or_default();
            return;
        }
        let task = bpf_get_current_task_btf() as *const u8;
        let first: u64 = K::load(task, offset!(task_comm));
        let second: u64 = K::load(task, offset!(task_comm) + 8);
        *comm.cast::<[u32; 4]>() = [
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ];
    }
}

/// Network namespace of the running task, 0 if the kernel does not tell.
#[inline(always)]
pub(crate) fn current_netns() -> u32 {
    if offset!(task_nsproxy) == ABSENT || offset!(nsproxy_net) == ABSENT {
        return 0;
    }
    // SAFETY: a helper without arguments; pointers read through the helper, which checks them.
    unsafe {
        let task = bpf_get_current_task() as *const u8;
        let proxies: *const u8 = Probed::load(task, offset!(task_nsproxy));
        netns_inode(Probed::load(proxies, offset!(nsproxy_net)))
    }
}
