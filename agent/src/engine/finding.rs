//! A finding: a verdict that matters to a person.
//!
//! Plain data, said once here: code, severity and page come from one list, so that no code
//! can be without a page.

use serde::{Deserialize, Serialize};

use crate::model::{Direction, PodKey, Time, Workload};

macro_rules! codes {
    ($($variant:ident = $code:literal, $severity:ident;)*) => {
        /// Code of a finding; its page is `docs/findings/CODE.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(
                #[doc = concat!("`", $code, "`, see its page.")]
                #[serde(rename = $code)]
                $variant,
            )*
        }

        impl Code {
            /// All codes, in the order of the catalogue.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as users know it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),* }
            }

            /// The page about this code: meaning, evidence, causes, remedies (Markdown).
            #[must_use]
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("../../../docs/findings/", $code, ".md")),)*
                }
            }
        }
    };
}

codes! {
    BypassNoRules = "bypass-no-rules", Critical;
    BypassRulesPartial = "bypass-rules-partial", Critical;
    BypassRulesBackend = "bypass-rules-backend", Critical;
    BypassRulesRemoved = "bypass-rules-removed", Critical;
    BypassProxyUid = "bypass-proxy-uid", Critical;
    BypassProxyGid = "bypass-proxy-gid", Critical;
    BypassIpv6 = "bypass-ipv6", Critical;
    BypassInboundDirect = "bypass-inbound-direct", Critical;
    BypassExcluded = "bypass-excluded", Info;
    BypassSharedUid = "bypass-shared-uid", Critical;
    BypassInboundEmpty = "bypass-inbound-empty", Warning;
    BypassInitContainer = "bypass-init-container", Info;
    BypassUnmeshed = "bypass-unmeshed", Critical;
    BypassHostNetwork = "bypass-host-network", Info;
    MeshConflict = "mesh-conflict", Warning;
    BypassBeforeRules = "bypass-before-rules", Warning;
    BypassDns = "bypass-dns", Warning;
    BypassQuic = "bypass-quic", Info;
    BypassSocketLb = "bypass-socket-lb", Warning;
    BypassAmbientLost = "bypass-ambient-lost", Critical;
    BypassUnknown = "bypass-unknown", Warning;
    StuckNoListener = "stuck-no-listener", Critical;
    StuckNotAccepting = "stuck-not-accepting", Critical;
    StuckAcceptQueue = "stuck-accept-queue", Critical;
    SidecarThrottled = "sidecar-throttled", Critical;
    StuckUnread = "stuck-unread", Critical;
    StuckUpstreamRefused = "stuck-upstream-refused", Warning;
    StuckUpstreamTimeout = "stuck-upstream-timeout", Warning;
    StuckUpstreamSilent = "stuck-upstream-silent", Warning;
    StuckNoUpstream = "stuck-no-upstream", Critical;
    StuckControlPlane = "stuck-control-plane", Critical;
    StuckUpstreamReset = "stuck-upstream-reset", Warning;
    StuckAppRefused = "stuck-app-refused", Critical;
    StuckHalfClosed = "stuck-half-closed", Warning;
    StuckStartupGap = "stuck-startup-gap", Warning;
    SidecarNotReady = "sidecar-not-ready", Critical;
    InitFailed = "init-failed", Critical;
    FailNetfilterDrop = "fail-netfilter-drop", Warning;
    FailConntrackFull = "fail-conntrack-full", Critical;
    FailInvalidPackets = "fail-invalid-packets", Critical;
    FailTupleCollision = "fail-tuple-collision", Warning;
    FailEphemeralPorts = "fail-ephemeral-ports", Critical;
    AgentDegraded = "agent-degraded", Warning;
    AgentOverload = "agent-overload", Warning;
    AgentUnattributed = "agent-unattributed", Info;
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; nothing is broken.
    Info,
    /// Something is likely to hurt.
    Warning,
    /// Traffic is unprotected or lost.
    Critical,
}

impl Severity {
    /// Name in metrics, JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// How sure the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// One source says so.
    Probable,
    /// Independent sources agree.
    Certain,
}

impl Confidence {
    /// Name in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probable => "probable",
            Self::Certain => "certain",
        }
    }
}

/// One fact that speaks for a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is about: `connections`, `destination`, `process`, `uid`, `annotation`, …
    pub what: String,
    /// The fact.
    pub value: String,
}

/// Whether the evidence still comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum FindingState {
    /// It does.
    Open,
    /// It stopped at this time, or the pod is gone.
    Resolved {
        /// When.
        at: Time,
    },
}

/// A verdict that matters to a person. One per pod and code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Code.
    pub code: Code,
    /// Severity of the code.
    pub severity: Severity,
    /// How sure.
    pub confidence: Confidence,
    /// The pod; `None` for findings about the agent itself.
    pub pod: Option<PodKey>,
    /// Its workload.
    pub workload: Option<Workload>,
    /// The container whose traffic it is, if known.
    pub container: Option<String>,
    /// Which way the traffic goes, where it matters.
    pub direction: Option<Direction>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The facts.
    pub evidence: Vec<Evidence>,
    /// What to change, naming the exact annotation, rule, container or setting.
    pub remedy: String,
    /// Connections concerned since it was opened.
    pub connections: u64,
    /// First evidence.
    pub first_seen: Time,
    /// Last evidence.
    pub last_seen: Time,
    /// Open or resolved.
    #[serde(flatten)]
    pub state: FindingState,
}
