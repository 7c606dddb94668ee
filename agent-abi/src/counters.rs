//! Counters of everything the probes give up, one beside every reserve and insert.

/// Declares the counters once: index, name and meaning cannot drift apart.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// Index into the counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])* $variant,)* }

        /// Names in metrics, by index.
        pub const COUNTER_NAMES: &[&str] = &[$($name,)*];

        /// Number of counters.
        pub const COUNTER_COUNT: usize = COUNTER_NAMES.len();
    };
}

counters! {
    /// The ring buffer was full: an event was not told (its connection is still counted).
    RingBuffer = "ring_buffer",
    /// A namespace used up its events: told later or never, still counted.
    EventsSuppressed = "events_suppressed",
    /// The edge map was full: counted without addresses.
    EdgeMapFull = "edge_map_full",
    /// The overflow map was full too: not counted at all.
    EdgeLost = "edge_lost",
    /// A pending connect was overwritten by another: its process and duration are unknown.
    PendingOverwritten = "pending_overwritten",
    /// A connect whose beginning was not seen: it began before the agent did, or was overwritten.
    PendingMissing = "pending_missing",
    /// No place to wait for the arrival: counted with arrival unknown.
    ArrivalUnknown = "arrival_unknown",
    /// The map of flows over UDP was full: not counted.
    DatagramLost = "datagram_lost",
    /// The map of rewritten destinations was full: not counted.
    RewriteLost = "rewrite_lost",
    /// A watched address used up its looks, or the map of drops was full: a drop was not counted.
    DropUnseen = "drop_unseen",
    /// No place among the open connections: whether it waits is seen more rarely.
    OpenUntracked = "open_untracked",
}
