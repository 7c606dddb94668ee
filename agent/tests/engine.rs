//! The engine as a whole, fed by hand: each finding with its healthy twin, late binding,
//! inode reuse, the findings' life, and the laws that hold for any input.
//!
//! Everything goes through the public interface, as recordings do.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

#[path = "engine/kit.rs"]
mod kit;

#[path = "engine/any.rs"]
mod any;
#[path = "engine/bypass.rs"]
mod bypass;
#[path = "engine/collide.rs"]
mod collide;
#[path = "engine/control.rs"]
mod control;
#[path = "engine/datagrams.rs"]
mod datagrams;
#[path = "engine/drops.rs"]
mod drops;
#[path = "engine/ended.rs"]
mod ended;
#[path = "engine/exempt.rs"]
mod exempt;
#[path = "engine/given.rs"]
mod given;
#[path = "engine/identity.rs"]
mod identity;
#[path = "engine/itself.rs"]
mod itself;
#[path = "engine/kept_source.rs"]
mod kept_source;
#[path = "engine/killed.rs"]
mod killed;
#[path = "engine/laws.rs"]
mod laws;
#[path = "engine/live_rules.rs"]
mod live_rules;
#[path = "engine/lost.rs"]
mod lost;
#[path = "engine/on_node.rs"]
mod on_node;
#[path = "engine/ports.rs"]
mod ports;
#[path = "engine/rejected.rs"]
mod rejected;
#[path = "engine/replay.rs"]
mod replay;
#[path = "engine/reused.rs"]
mod reused;
#[path = "engine/rewrites.rs"]
mod rewrites;
#[path = "engine/rules_in_time.rs"]
mod rules_in_time;
#[path = "engine/severed.rs"]
mod severed;
#[path = "engine/spec.rs"]
mod spec;
#[path = "engine/status.rs"]
mod status;
#[path = "engine/stuck.rs"]
mod stuck;
#[path = "engine/tables.rs"]
mod tables;
#[path = "engine/throttled.rs"]
mod throttled;
