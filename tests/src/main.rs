//! Scenario harness.
fn main() {}
