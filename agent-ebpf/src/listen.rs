//! Listening sockets as they come and go.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use sidestep_abi::{EVENT_LISTENING, EVENT_LISTENING_ENDED, EdgeKey, FLAG_DUAL_STACK, Task};

use crate::{
    arrival,
    events::{self, Detail},
    kernel::{Kernel, Sock},
};

/// CLOSE→LISTEN, in the caller's context.
#[inline(never)]
pub(crate) fn began<K: Kernel>(sock: &Sock<K>) {
    let mut key = listener(sock);
    (key.uid, key.gid) = sock.file_owner();
    let task = Task {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    events::tell(EVENT_LISTENING, &key, &task, &Detail::default());
}

/// LISTEN→CLOSE.
#[inline(never)]
pub(crate) fn ended<K: Kernel>(sock: &Sock<K>) {
    let key = listener(sock);
    events::tell(
        EVENT_LISTENING_ENDED,
        &key,
        &events::NOBODY,
        &Detail::default(),
    );
}

#[inline(always)]
fn listener<K: Kernel>(sock: &Sock<K>) -> EdgeKey {
    let mut key = arrival::inbound(sock);
    if key.family == sidestep_abi::FAMILY_IPV6 && sock.dual_stack() {
        key.flags = FLAG_DUAL_STACK;
    }
    key
}
