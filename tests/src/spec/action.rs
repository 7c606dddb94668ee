//! What happens in a scenario: connections, signals, rules that come and go.
//!
//! Plain data, as the file has it; whether its names point somewhere is [`crate::load`]'s to say, so that the error
//! can name the key. It must never have a default that makes a broken world look healthy.

use serde::Deserialize;

use super::{Family, Rules};

/// The node, where a pod may be named.
pub(crate) const NODE: &str = "node";

/// One thing that happens; the key says what.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Action {
    /// Connections are made.
    Connect(Connect),
    /// A process of `[[pod.process]]` (or `POD/proxy`) starts.
    Start(String),
    /// A process is killed and waited for.
    Stop(String),
    /// A process gets a signal.
    Signal(SignalAction),
    /// Nothing happens for some seconds.
    Wait(f64),
    /// All rules of a pod vanish, in both back ends and families.
    Flush(String),
    /// Rules are installed in a running pod, or on the node.
    Rules(LateRules),
    /// The clock of `detect_within` starts here and not at the first connection.
    Affected(bool),
}

/// A signal for a process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalAction {
    /// `POD/PROCESS`.
    pub(crate) process: String,
    /// `STOP`, `CONT`, `TERM`, `KILL`, `HUP`.
    pub(crate) signal: String,
}

/// Rules installed late.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LateRules {
    /// Pod, or `node`.
    pub(crate) pod: String,
    /// The rules.
    pub(crate) rules: Rules,
}

/// Connections made by one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    /// `POD`, `POD/CONTAINER` or `node` (the kubelet's place).
    pub(crate) from: String,
    /// `POD:PORT`, `localhost:PORT`, `ADDRESS:PORT`.
    pub(crate) to: String,
    /// Family, where a pod has both; the scenario's if not given.
    pub(crate) family: Option<Family>,
    /// How many.
    #[serde(default = "default_count")]
    pub(crate) count: u32,
    /// Connections per second.
    #[serde(default = "default_rate")]
    pub(crate) rate: f64,
    /// How many threads share them.
    #[serde(default = "default_threads")]
    pub(crate) threads: u32,
    /// No new connections after so many seconds, however many are left.
    pub(crate) seconds: Option<f64>,
    /// Seconds to wait for the handshake, and for the answer.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: f64,
    /// Seconds each connection stays open and idle between handshake and request.
    #[serde(default)]
    pub(crate) hold: f64,
    /// How connect(2) is called.
    #[serde(default)]
    pub(crate) mode: ConnectMode,
    /// Uses an IPv6 socket for an IPv4 address (`::ffff:a.b.c.d`).
    #[serde(default)]
    pub(crate) v4_mapped: bool,
    /// In place of the container's `runAsUser`.
    pub(crate) uid: Option<u32>,
    /// In place of the container's `runAsGroup`.
    pub(crate) gid: Option<u32>,
    /// The sockets are opened with this uid, which the process then gives up.
    pub(crate) socket_uid: Option<u32>,
    /// The sockets are opened with this gid, which the process then gives up.
    pub(crate) socket_gid: Option<u32>,
    /// The socket is opened by a parent process and inherited.
    #[serde(default)]
    pub(crate) inherited: bool,
    /// What the connections must come to.
    #[serde(default)]
    pub(crate) outcome: Outcome,
    /// The next action does not wait for it; its outcome is judged at the end.
    #[serde(default)]
    pub(crate) background: bool,
}

fn default_count() -> u32 {
    10
}

fn default_rate() -> f64 {
    10.0
}

fn default_threads() -> u32 {
    1
}

fn default_timeout() -> f64 {
    5.0
}

/// How connect(2) is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConnectMode {
    /// And sleeps until it is decided.
    #[default]
    Blocking,
    /// On a non-blocking socket, then poll(2).
    Nonblocking,
    /// On a non-blocking socket, closed at once.
    Abort,
    /// One datagram over UDP and the wait for its answer, in place of a connection.
    Datagram,
}

/// What connections come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Handshake, request, answer.
    #[default]
    Ok,
    /// ECONNREFUSED.
    Refused,
    /// The handshake was never answered.
    TimedOut,
    /// Established, then closed or reset without an answer.
    Closed,
    /// Established, but no answer in time.
    Silent,
    /// Whatever.
    Any,
}
