//! The live netfilter rules of the pods' network namespaces.
//!
//! By programs of the agent's own, started inside the namespace by a thread that lives for
//! one visit; the pod's file system is never used. Everything here is bounded: time and
//! output of each program, the share of a processor all of it takes, the namespaces known.
//! It runs in a thread of its own, which may be stuck in a program for its whole time while
//! neither the engine nor the rest of the node's scan notices. It must never change what it
//! reads: no table is made, no module loaded.

mod child;
mod look;
mod plan;
mod tables;
mod thread;
mod tools;
mod trouble;

pub use thread::Options;
pub(super) use thread::{Rules, Teller, spawn};
pub use tools::{NoProgram, Tools};
