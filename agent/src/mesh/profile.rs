//! The schema of a mesh profile, and what may be wrong with one.
//!
//! A profile is data: how a pod shows that it belongs, what the mesh captures by default,
//! and which annotations and init container arguments change that. The *mechanisms* (what
//! a setting can mean) are the enums here; a mesh only ever combines them. Unknown keys
//! are errors: a misspelt key would silently mean "default".

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use super::{
    nets::NetSet,
    ports::PortSet,
    setting::{Argument, Document, Setting},
    sign::Sign,
};
use crate::model::Family;

/// One mesh, as data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name in findings and metrics.
    pub name: String,
    /// Versions of the mesh its facts were checked against.
    pub checked_against: String,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// How a pod shows that it belongs.
    pub members: Members,
    /// Signs of a pod that looks like a member and is not.
    #[serde(default)]
    pub skip: Vec<Sign>,
    /// Signs that somebody wants this pod to be a member; any one is enough.
    #[serde(default)]
    pub asks: Vec<Sign>,
    /// Signs that overrule those, like the signs of `skip` do.
    #[serde(default)]
    pub declines: Vec<Sign>,
    /// What is captured, and by whom.
    pub capture: Capture,
    /// Ports the mesh leaves alone whatever the settings say.
    #[serde(default)]
    pub exempt: Exempt,
    /// Values of settings that nobody set.
    #[serde(default)]
    pub defaults: BTreeMap<Setting, String>,
    /// The same, where no init container installed the rules (a CNI plugin did).
    #[serde(default)]
    pub defaults_without_init: BTreeMap<Setting, String>,
    /// Annotations of the pod, and the setting each one is.
    #[serde(default)]
    pub annotations: BTreeMap<String, Setting>,
    /// Annotations whose values have names: for each value, settings with their values. Other
    /// values say nothing.
    #[serde(default)]
    pub annotation_values: BTreeMap<String, BTreeMap<String, BTreeMap<Setting, String>>>,
    /// Arguments of the init container that installs the rules.
    #[serde(default)]
    pub arguments: Vec<Argument>,
    /// Environment variables of the init container and of the proxy, and the setting each one is.
    #[serde(default)]
    pub environment: BTreeMap<String, Setting>,
    /// Texts with many settings in one annotation or variable.
    #[serde(default)]
    pub documents: Vec<Document>,
}

/// Containers of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// Names of the proxy's container; having one makes the pod a member.
    #[serde(default)]
    pub proxy_containers: Vec<String>,
    /// Signs that make a pod without a proxy of its own a member; any one is enough.
    #[serde(default)]
    pub signs: Vec<Sign>,
    /// Init containers that install the rules; their arguments say what was really installed.
    #[serde(default)]
    pub init_containers: Vec<String>,
    /// Other containers of the mesh (validation, debugging).
    #[serde(default)]
    pub helper_containers: Vec<String>,
}

/// What is captured, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Port outbound connections are redirected to.
    pub outbound_port: u16,
    /// Port inbound connections are redirected to.
    pub inbound_port: u16,
    /// Other ports the proxy itself listens on.
    #[serde(default)]
    pub own_ports: Vec<u16>,
    /// Ports of the control plane that the proxy dials, as far as nobody else uses them.
    #[serde(default)]
    pub control_ports: Vec<u16>,
    /// User whose sockets the rules leave alone.
    pub proxy_uid: Option<u32>,
    /// Group whose sockets the rules leave alone; absent where the rules have no such match.
    pub proxy_gid: Option<u32>,
    /// Whether the rules are made for the proxy container's `runAsUser` and `runAsGroup`.
    #[serde(default)]
    pub ids_from_container: bool,
    /// Addresses the proxy binds when it dials its own app.
    #[serde(default)]
    pub inbound_bind: Vec<IpAddr>,
    /// Excluded inbound ports count only while all inbound ports are captured.
    #[serde(default)]
    pub inbound_exclusions_need_wildcard: bool,
    /// An annotation with an empty value is as good as absent (else it is an empty list).
    #[serde(default)]
    pub empty_annotation_is_unset: bool,
    /// What decides whether IPv6 is captured, in words that fit after "set".
    pub ipv6_setting: String,
    /// Names of capture modes in annotations and arguments.
    #[serde(default)]
    pub modes: BTreeMap<String, Mode>,
    /// Whose process the proxy is.
    #[serde(default)]
    pub proxy: Place,
    /// Which of a pod's connections to itself the rules leave alone.
    #[serde(default)]
    pub local: LocalScope,
    /// The proxy dials the app from the address of the peer, so that its connections look like the peer's.
    #[serde(default)]
    pub inbound_keeps_source: bool,
    /// Routing table that the mesh has for marked packets, where its proxy speaks in the peer's name.
    pub mark_table: Option<u32>,
    /// Port where the proxies of peers come in, past the rules.
    pub tunnel_port: Option<u16>,
    /// Names of family modes in annotations and arguments, and the families each has rules for.
    #[serde(default)]
    pub families: BTreeMap<String, Vec<Family>>,
    /// There are rules for IPv6 if the pod's first address is one, whatever is set.
    #[serde(default)]
    pub ipv6_follows_first_address: bool,
    /// How name resolution is captured, where it is.
    pub dns: Option<Dns>,
}

/// Whose process the proxy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A container of the pod.
    #[default]
    Pod,
    /// The node's: it listens in the pod's network namespace and lives in nobody's container here.
    Node,
}

/// Which of a pod's connections to itself the rules leave alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalScope {
    /// Everything over the loopback interface, the pod's own addresses included.
    #[default]
    Interface,
    /// Only 127.0.0.1 and ::1: connections to the pod's own addresses are captured.
    Localhost,
}

/// How name resolution is captured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Port that port 53 is redirected to.
    pub port: u16,
    /// Whether it is captured where nobody says anything.
    #[serde(default)]
    pub by_default: bool,
    /// Over which protocols.
    pub protocols: Vec<Protocol>,
    /// For which resolvers.
    pub resolvers: Resolvers,
    /// The same, where no init container installed the rules.
    pub resolvers_without_init: Option<Resolvers>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// For which resolvers name resolution is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolvers {
    /// All.
    All,
    /// Those of the pod's `resolv.conf`.
    ResolvConf,
    /// The pod's own loopback.
    Localhost,
}

/// How connections get to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Both directions by NAT.
    Redirect,
    /// Outbound by NAT, inbound by TPROXY: accepted sockets keep the destination asked for.
    TransparentInbound,
    /// Not at all.
    Off,
}

/// Ports the mesh leaves alone whatever the settings say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exempt {
    /// Inbound ports.
    pub inbound_ports: PortSet,
    /// Outbound ports.
    pub outbound_ports: PortSet,
    /// Peers whose connections are left alone: the node's own probes.
    pub inbound_ranges: NetSet,
    /// Destinations left alone.
    pub outbound_ranges: NetSet,
    /// More inbound ports, where no init container installed the rules.
    pub inbound_ports_without_init: PortSet,
    /// More ports for some pods, where no init container installed the rules.
    pub pods_without_init: Vec<ExemptPods>,
}

/// Ports that the mesh leaves alone in some pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExemptPods {
    /// In which pods.
    pub sign: Sign,
    /// Inbound ports.
    #[serde(default)]
    pub inbound_ports: PortSet,
    /// Outbound ports.
    #[serde(default)]
    pub outbound_ports: PortSet,
}

impl Profile {
    /// Names of the environment variables it asks for.
    pub(super) fn variables(&self) -> impl Iterator<Item = String> + '_ {
        let documents = self.documents.iter();
        let documents = documents.filter_map(|document| document.variable.clone());
        let signs = [&self.skip, &self.asks, &self.declines];
        let signs = signs.into_iter().flatten().filter_map(|sign| match sign {
            Sign::ProxyVariable { key, .. } => Some(key.clone()),
            _ => None,
        });
        self.environment
            .keys()
            .cloned()
            .chain(documents)
            .chain(signs)
    }
}
