//! What a mesh's settings can mean, and where they are written.
//!
//! The mechanisms all meshes share: a mesh's annotation, argument, variable or document says
//! one of these. Data only; `read` finds the values.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What an annotation or an argument can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// One of the profile's capture modes.
    Mode,
    /// Inbound ports captured (`*` for all).
    IncludeInboundPorts,
    /// Inbound ports left alone.
    ExcludeInboundPorts,
    /// Peers whose inbound connections are left alone.
    ExcludeInboundRanges,
    /// Outbound ports captured in addition to the ranges.
    IncludeOutboundPorts,
    /// Outbound ports left alone.
    ExcludeOutboundPorts,
    /// Destinations captured (`*` for all).
    IncludeOutboundRanges,
    /// Destinations left alone.
    ExcludeOutboundRanges,
    /// Interfaces left alone, both ways.
    ExcludeInterfaces,
    /// Interfaces whose inbound traffic is treated as outbound.
    RerouteInterfaces,
    /// Port outbound connections are redirected to.
    OutboundPort,
    /// Port inbound connections are redirected to.
    InboundPort,
    /// Another port the proxy itself listens on.
    OwnPort,
    /// User whose sockets the rules leave alone.
    ProxyUid,
    /// Group whose sockets the rules leave alone.
    ProxyGid,
    /// Whether rules are installed for IPv6.
    Ipv6,
    /// One of the profile's family modes.
    Families,
    /// Users whose sockets the rules leave alone, besides the proxy's.
    ExcludeUids,
    /// Outbound ports left alone for some users (`tcp:53,3000-5000:106-108;…`).
    ExcludePortsForUids,
    /// Another port the proxy itself listens on, left alone inbound.
    InboundOwnPort,
    /// Whether inbound connections are captured.
    CaptureInbound,
    /// Whether inbound connections are left alone.
    LeaveInbound,
    /// Whether outbound connections are captured.
    CaptureOutbound,
    /// Whether name resolution is captured.
    DnsCapture,
    /// Port that name resolution is redirected to.
    DnsPort,
}

impl Setting {
    /// Whether it is on or off: as an argument it may stand without a value.
    pub(super) const fn is_switch(self) -> bool {
        matches!(
            self,
            Self::Ipv6
                | Self::DnsCapture
                | Self::CaptureInbound
                | Self::LeaveInbound
                | Self::CaptureOutbound
        )
    }
}

/// An argument of the init container that installs the rules.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// Its spellings, with their dashes (`-o`, `--outbound-ports`).
    pub flags: Vec<String>,
    /// What it sets.
    pub means: Setting,
    /// What giving it twice means.
    #[serde(default)]
    pub repeated: Repeated,
}

/// What giving an argument twice means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeated {
    /// The last one counts.
    #[default]
    Last,
    /// The lists are joined.
    Join,
}

/// A YAML or JSON text with many settings, in an annotation of the pod or in an environment
/// variable of the init container. It says more than single annotations do: it is what the
/// mesh itself hands to whatever installs the rules.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Key of the annotation.
    pub annotation: Option<String>,
    /// Name of the init container's variable.
    pub variable: Option<String>,
    /// Path of keys in the text (`redirect.inbound.port`), and the setting it is. A list is
    /// joined; null and what is empty say nothing.
    pub keys: BTreeMap<String, Setting>,
}
