//! Somebody changes netfilter rules, in either backend.
//!
//! `struct xt_table_info *xt_replace_table(struct xt_table *table, …)` in the x_tables
//! module: a table of the older backend gets new content. It has no namespace among its
//! arguments; it runs in setsockopt(2), so the caller's is the one.
//! `int nf_tables_commit(struct net *net, struct sk_buff *skb)` in the nf_tables module: a
//! batch takes effect. Also called for an empty batch.
//!
//! Neither is ever called for a packet or a connection. Both run *before* the change is
//! visible: whoever reads the rules because of it must wait a moment.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid},
    macros::kprobe,
    programs::ProbeContext,
};
use sidestep_abi::{EVENT_RULES_CHANGED, EdgeKey, FAMILY_IPV4, RULES_LEGACY, RULES_NFT, Task};

use crate::{
    events,
    kernel::{Kernel, Probed, netns_inode},
    maps::TABLE_FAMILY,
    task::current_netns,
};

#[kprobe(function = "xt_replace_table")]
pub(crate) fn rules_legacy_kprobe(ctx: ProbeContext) -> u32 {
    let mut family = 0;
    if let (Some(table), Some(&offset)) = (ctx.arg::<*const u8>(0), TABLE_FAMILY.get(0))
        && offset != 0
    {
        // SAFETY: an integer, read through the helper.
        let byte: u8 = unsafe { Probed::load(table, offset) };
        family = u16::from(byte);
    }
    changed(current_netns(), RULES_LEGACY, family);
    0
}

#[kprobe(function = "nf_tables_commit")]
pub(crate) fn rules_nft_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(net) = ctx.arg(0) {
        changed(netns_inode(net), RULES_NFT, 0);
    }
    0
}

#[inline(always)]
fn changed(netns: u32, backend: u16, family: u16) {
    let key = EdgeKey {
        netns,
        uid: bpf_get_current_uid_gid() as u32,
        family: FAMILY_IPV4,
        local_port: backend,
        remote_port: family,
        ..EdgeKey::default()
    };
    let task = Task {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    events::tell_of_namespace(EVENT_RULES_CHANGED, &key, &task);
}
