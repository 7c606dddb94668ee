//! EDGE: everything the agent says, to machines and to its log.
//!
//! Metrics, JSON and log lines are views of the engine's board and outputs. Arrows never
//! point back: nothing here can reach the engine, and nothing here decides what is a
//! finding. Nothing here prints to stdout; that is the command line's business.

pub mod api;
mod boards;
pub mod http;
pub mod log;
pub mod metrics;
mod view;

pub use boards::{BoardReceiver, BoardSender, boards};
pub use view::{Clock, View};

#[cfg(test)]
pub(crate) mod fixture;
