//! Sidestep.
fn main() {}
