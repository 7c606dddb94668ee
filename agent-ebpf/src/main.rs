//! Sidestep's probes; see `ARCHITECTURE.md` for the flow, one file here per behaviour.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(
    internal_features,
    reason = "atomics of this target exist as intrinsics only"
)]

mod accept;
mod addr;
mod arrival;
mod atomic;
mod connect;
mod datagram;
mod decision;
mod drops;
mod edges;
mod events;
mod globals;
mod kernel;
mod listen;
mod maps;
mod open;
mod peer_ended;
mod range;
mod reset;
mod retransmit;
mod rewrite;
mod rules;
mod state;
mod syn_ack;
mod task;
mod verifier;
