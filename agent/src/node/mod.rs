//! EDGE node: who is who, from the node itself: network namespaces, cgroups, processes,
//! and the accept queues of listening sockets.
//!
//! Needs no cluster and no container runtime: a kubelet's cgroup paths carry the pod's uid
//! and the container's id, a process carries its network namespace. All of it blocks (files,
//! namespaces, netlink), so it runs in a thread of its own ([`spawn`]) and sends what it
//! finds. It must never disturb what it looks at: it holds no file of a pod's namespace
//! open (that would keep the namespace alive), and never changes into one on a thread that
//! outlives the visit. Whatever it may not read, it counts and tells.

mod addresses;
mod cgroup_name;
mod conntrack;
mod cpu;
mod diag;
mod enter;
mod hooks;
mod inquiries;
mod looks;
mod marked;
mod memory;
mod mounts;
mod names;
mod netns;
mod notice;
mod options;
mod passage;
mod ports;
mod queues;
mod refused;
mod rtnl;
pub mod rules;
mod sampling;
mod scanner;
mod schedule;
mod snapshot;
mod streams;
mod tell;
mod thread;
mod tree;
mod turns;

pub use cgroup_name::CgroupName;
pub use hooks::AskHook;
pub use options::Options;
pub use queues::listening;
pub use scanner::{Paths, Scanner};
pub use thread::{NodeHandle, spawn};
