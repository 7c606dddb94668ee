//! Sidestep, the node agent, as a library: everything but `main`.
//!
//! The flow is one way: the edges (`probe`, `node`, `cluster`) turn what they see into
//! [`engine::Input`]s, the engine turns those into a board, the outputs read the board.
//! Only the composition root knows both ends.

pub mod app;
pub mod cli;
pub mod cluster;
pub mod engine;
pub mod mesh;
pub mod model;
pub mod node;
pub mod output;
pub mod probe;
pub mod rules;
