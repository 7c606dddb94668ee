//! Whether somebody else's BPF programs run inside connect(2) for the processes of a cgroup.
//!
//! Such a hook may rewrite a destination before netfilter sees anything. It is asked for, not
//! assumed: the probe that compares what was asked with what is used costs something for every
//! state change, and is worth that only where destinations can be rewritten at all.
//!
//! Must never: say what a hook does. Most of them allow, forbid or count.

use std::{fs::File, io, os::fd::AsFd as _, path::Path};

use super::sys;

/// `BPF_CGROUP_INET4_CONNECT`.
const INET4_CONNECT: u32 = 10;
/// `BPF_CGROUP_INET6_CONNECT`.
const INET6_CONNECT: u32 = 11;

/// Whether a hook on connect(2) is attached to this cgroup or one above it. `cgroup` is its
/// directory in the v2 hierarchy.
///
/// # Errors
/// The directory cannot be opened, or the kernel does not answer (no `CAP_NET_ADMIN`).
pub fn has_connect_hook(cgroup: &Path) -> io::Result<bool> {
    let directory = File::open(cgroup)?;
    let has = |attach_type| sys::has_effective(directory.as_fd(), attach_type);
    Ok(has(INET4_CONNECT)? || has(INET6_CONNECT)?)
}
