//! EDGE: the command line, for people and their scripts.
//!
//! One file per subcommand. The reading commands talk to a running agent over its JSON API
//! and know nothing else about it. Printing to stdout is allowed here and nowhere else, and
//! goes through one function, so that a closed pipe (`| head`) ends a command quietly.

pub mod agent;
pub mod exit;

pub use agent::AgentOptions;
pub use exit::{Exit, Fault};
