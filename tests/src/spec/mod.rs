//! A scenario as data: what one TOML file may say.
//!
//! A scenario is a file and not code, so that a user can send a failing case as one attachment and a reader sees at a
//! glance what world is built and what the agent must (and must not) say about it. Every table refuses unknown keys: a
//! misspelt key would otherwise test something else than its author meant. The fields are documented for users in
//! `docs/scenarios.md`; keep both in step.
//!
//! This module must never touch the machine: it is the vocabulary, the other modules build it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

mod action;
pub(crate) mod pod;

pub(crate) use action::{Action, Connect, ConnectMode, NODE, Outcome, SignalAction};
pub(crate) use pod::{
    Container, ContainerKind, Listen, Mesh, Pod, Process, Proxy, ProxyKind, Rules, Serve,
};

/// One scenario, after the expansion of its matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without `.toml`.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) description: String,
    /// Free words to select by.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// The healthy scenario nearest to a broken one: the agent must be silent there.
    #[serde(default)]
    pub(crate) twin: Option<String>,
    /// What a kernel or machine must have for the one right answer to be decidable.
    #[serde(default)]
    pub(crate) requires: Vec<Requirement>,
    /// One run per combination; `{backend}` and `{family}` in the file are replaced.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "a known key; its values are read before the text is expanded"
    )]
    pub(crate) matrix: Matrix,
    /// Backend of rule sets that name none.
    #[serde(default)]
    pub(crate) backend: Backend,
    /// Family of pods and connections that name none.
    #[serde(default)]
    pub(crate) family: Family,
    /// Whether the agent starts before the pods or after them.
    #[serde(default)]
    pub(crate) agent: AgentStart,
    /// Seconds from the first affected connection within which every expected finding must be there.
    #[serde(default = "default_detect_within")]
    pub(crate) detect_within: f64,
    /// Seconds after the last action in which nothing unexpected may turn up.
    #[serde(default = "default_silence")]
    pub(crate) silence: f64,
    /// What is special about the node.
    #[serde(default)]
    pub(crate) node: Node,
    /// What is changed on the whole machine while it runs; only with `requires = ["vm"]`.
    #[serde(default)]
    pub(crate) machine: Machine,
    /// The pods.
    pub(crate) pod: Vec<Pod>,
    /// What happens, in order.
    #[serde(default)]
    pub(crate) action: Vec<Action>,
    /// Findings that must be there; every other finding is a failure.
    #[serde(default)]
    pub(crate) expect: Vec<Expect>,
    /// Findings that may be there, each with the reason.
    #[serde(default)]
    pub(crate) allow: Vec<Allow>,
    /// Proof that the world itself did what the scenario says.
    #[serde(default)]
    pub(crate) check: Vec<Check>,
    /// How signals must be attached, by name: a dearer way to the same answer is no failure otherwise.
    #[serde(default)]
    pub(crate) signals: BTreeMap<String, String>,
}

/// The node between the pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// It passes packets from pod to pod by its routes, in place of a bridge.
    #[serde(default)]
    pub(crate) routed: bool,
    /// Rules in its own namespace.
    #[serde(default)]
    pub(crate) rules: Vec<Rules>,
}

fn default_detect_within() -> f64 {
    5.0
}

fn default_silence() -> f64 {
    2.0
}

/// Settings of the whole machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// `net.netfilter.nf_conntrack_max = "100"`.
    #[serde(default)]
    pub(crate) sysctl: BTreeMap<String, String>,
}

/// Something not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Requirement {
    /// Probes on kernel functions: tracepoints alone cannot decide this case.
    Kprobes,
    /// Programs that read what a system call was given (Linux 5.15).
    Registers,
    /// Programs that compare and swap (Linux 5.12), and so may read the kernel directly.
    Direct,
    /// The real Envoy.
    Envoy,
    /// A cgroup hierarchy that limits CPU time.
    Cpu,
    /// A cgroup hierarchy that limits memory.
    Memory,
    /// No other scenario beside it: the agent looks closely at a few pods at once, and this one must be among them.
    Alone,
    /// A machine of its own: the scenario changes what belongs to the whole machine.
    Vm,
}

/// Values to run the scenario with, one run per combination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    /// Values of `{backend}`.
    #[serde(default)]
    pub(crate) backend: Vec<Backend>,
    /// Values of `{family}`.
    #[serde(default)]
    pub(crate) family: Vec<Family>,
}

/// Which netfilter front end installs the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    #[default]
    Nft,
    /// `nft`: the mesh's own tables, of both families at once.
    Native,
    /// `ip`: rules and routes that a set of rules needs beside it.
    Route,
    /// `ipset`: sets that rules behind it name.
    Ipset,
}

/// Address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(addr: &IpAddr) -> Self {
        if addr.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kprobes => "kprobes",
            Self::Registers => "registers",
            Self::Direct => "direct",
            Self::Envoy => "envoy",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Alone => "alone",
            Self::Vm => "vm",
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
            Self::Native => "native",
            Self::Route => "route",
            Self::Ipset => "ipset",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// When the agent starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentStart {
    /// Before the pods exist.
    First,
    /// When all pods run.
    #[default]
    Last,
}

/// A finding that must be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// Pod.
    pub(crate) pod: String,
    /// Code.
    pub(crate) code: String,
    /// Words that the finding (summary, evidence or remedy) must contain.
    #[serde(default)]
    pub(crate) says: Vec<String>,
}

/// A finding that may be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allow {
    /// Pod; any if not given.
    pub(crate) pod: Option<String>,
    /// Code.
    pub(crate) code: String,
    /// Why it is no false alarm.
    pub(crate) reason: String,
}

/// A fact about the world, counted by the harness's own processes and not by the agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    /// `POD/PROCESS`.
    pub(crate) process: String,
    /// Which counter.
    pub(crate) counter: Counter,
    /// At least.
    pub(crate) min: Option<u64>,
    /// At most.
    pub(crate) max: Option<u64>,
}

/// Counters of the harness's proxy and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counter {
    /// Connections accepted on the outbound capture port (proxy), or at all (server).
    Outbound,
    /// Connections accepted on the inbound capture port.
    Inbound,
    /// Connections accepted by a server.
    Served,
    /// Connections the proxy opened.
    Dialed,
    /// Connections the proxy could not open.
    DialFailed,
}
