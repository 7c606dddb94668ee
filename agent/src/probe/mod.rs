//! The kernel edge: loads the probes, attaches what this kernel allows, and turns what
//! they say into the core's words.
//!
//! Start: read the kernel's types (`btf`), put the field offsets into the object, load it
//! (`load`), and try signal by signal (`capability`, `plan`, `attach`) which variant works.
//! Run: ring buffer records become signals (`decode`), the edge map becomes deltas
//! (`drain`), connections whose arrival nobody reported are settled (`sweep`), and sockets that
//! have been open for long are looked at (`open`).
//! Synchronous on purpose: the composition root owns the event loop.
//!
//! Must never: judge (that is the engine's), or name aya outside this directory.
#![expect(
    unsafe_code,
    reason = "memory shared with the kernel and system calls nobody wraps; each use says why it is sound"
)]

mod attach;
mod btf;
mod capability;
mod clock;
mod datagrams;
#[cfg(feature = "debug-log")]
mod debug_log;
mod decode;
mod drain;
mod drops;
mod error;
mod hooks;
mod late;
mod load;
mod memory;
mod open;
mod plan;
mod probes;
mod readiness;
mod skeleton;
mod stats;
mod sweep;
mod sys;
mod totals;

pub use error::ProbeError;
pub use hooks::has_connect_hook;
pub use memory::{bound_memory, give_back_memory, give_back_program};
pub use probes::{ProbeOptions, Probes};
pub use readiness::Readiness;
