//! The schema of a mesh profile, and what may be wrong with one.
//!
//! A profile is data: how a pod shows that it belongs, what the mesh captures by default,
//! and which annotations and init container arguments change that. The *mechanisms* (what
//! a setting can mean) are the enums here; a mesh only ever combines them. Unknown keys
//! are errors: a misspelt key would silently mean "default".

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use super::{nets::NetSet, ports::PortSet};

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
    /// Arguments of the init container that installs the rules.
    #[serde(default)]
    pub arguments: Vec<Argument>,
}

/// Containers of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// Names of the proxy's container; having one makes the pod a member.
    pub proxy_containers: Vec<String>,
    /// Init containers that install the rules; their arguments say what was really installed.
    #[serde(default)]
    pub init_containers: Vec<String>,
    /// Other containers of the mesh (validation, debugging).
    #[serde(default)]
    pub helper_containers: Vec<String>,
}

/// A sign on a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Sign {
    /// The pod is in the node's network namespace.
    HostNetwork,
    /// A label with one of these values; with none given, with any value.
    Label {
        /// Key of the label.
        key: String,
        /// Values that count.
        #[serde(default)]
        values: Vec<String>,
    },
    /// An annotation with one of these values; with none given, with any value.
    Annotation {
        /// Key of the annotation.
        key: String,
        /// Values that count.
        #[serde(default)]
        values: Vec<String>,
    },
    /// The proxy's container has exactly this argument.
    ProxyArgument {
        /// The argument.
        value: String,
    },
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

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// It is not TOML, or not of this schema.
    #[error(
        "profile {file}: {detail}\nCorrect the file, or remove it from the profiles directory."
    )]
    Schema {
        /// Name of the file.
        file: String,
        /// Line, column, key and what was expected, in several lines.
        detail: String,
    },
    /// It is of the schema and makes no sense.
    #[error("profile {file}: {key}: {problem}; {remedy}")]
    Value {
        /// Name of the file.
        file: String,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Two files describe the same mesh.
    #[error(
        "profiles {first} and {second} both have the name {name:?}; rename or remove one of them"
    )]
    Twice {
        /// The name.
        name: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// Not TOML, an unknown or missing key, or values that cannot be meant so.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| ProfileError::Schema {
            file: file.to_owned(),
            detail: error.to_string(),
        })?;
        match profile.mistake() {
            None => Ok(profile),
            Some((key, problem, remedy)) => Err(ProfileError::Value {
                file: file.to_owned(),
                key,
                problem,
                remedy: remedy.to_owned(),
            }),
        }
    }

    /// The first value that cannot be meant so: key, problem, remedy.
    fn mistake(&self) -> Option<(String, String, &'static str)> {
        let told =
            |key: &str, problem: &str, remedy| Some((key.to_owned(), problem.to_owned(), remedy));
        if self.name.trim().is_empty() {
            return told("name", "is empty", "give the mesh a name");
        }
        if self.members.proxy_containers.is_empty() {
            return told(
                "members.proxy_containers",
                "names no container",
                "name the proxy's container: without it no pod is a member",
            );
        }
        if self.capture.outbound_port == 0 || self.capture.inbound_port == 0 {
            return told("capture", "a port is 0", "give the proxy's capture ports");
        }
        self.missing_default()
            .or_else(|| self.argument_mistake())
            .or_else(|| self.default_mistake())
    }

    /// What is captured when nobody says anything must be said by the profile.
    fn missing_default(&self) -> Option<(String, String, &'static str)> {
        let needed = [
            (Setting::IncludeInboundPorts, "include-inbound-ports"),
            (Setting::IncludeOutboundRanges, "include-outbound-ranges"),
        ];
        let missing = needed
            .iter()
            .find(|(setting, _)| !self.defaults.contains_key(setting))?;
        Some((
            format!("defaults.{}", missing.1),
            "is missing".to_owned(),
            "say what is captured by default: \"*\" for everything, \"\" for nothing",
        ))
    }

    fn argument_mistake(&self) -> Option<(String, String, &'static str)> {
        let flags = self.arguments.iter().flat_map(|a| &a.flags);
        let bad = flags.into_iter().find(|flag| !is_flag(flag))?;
        Some((
            "arguments.flags".to_owned(),
            format!("{bad:?} is not a flag"),
            "write `-x` or `--long-name`, without a value",
        ))
    }

    fn default_mistake(&self) -> Option<(String, String, &'static str)> {
        let tables = [
            ("defaults", &self.defaults),
            ("defaults_without_init", &self.defaults_without_init),
        ];
        for (table, values) in tables {
            for (setting, text) in values {
                if let Err(problem) = self.check(*setting, text) {
                    return Some((
                        format!("{table}.{setting:?}"),
                        problem,
                        "correct the value, in the form the mesh's own annotation takes",
                    ));
                }
            }
        }
        None
    }

    fn check(&self, setting: Setting, text: &str) -> Result<(), String> {
        match setting {
            Setting::Mode => self.mode(text).map(|_| ()),
            Setting::IncludeInboundPorts
            | Setting::ExcludeInboundPorts
            | Setting::IncludeOutboundPorts
            | Setting::ExcludeOutboundPorts => text.parse::<PortSet>().map(|_| ()),
            Setting::ExcludeInboundRanges
            | Setting::IncludeOutboundRanges
            | Setting::ExcludeOutboundRanges => text.parse::<NetSet>().map(|_| ()),
            Setting::ExcludeInterfaces | Setting::RerouteInterfaces => Ok(()),
            Setting::OutboundPort | Setting::InboundPort | Setting::OwnPort => {
                super::ports::parse_port(text).map(|_| ())
            }
            Setting::ProxyUid | Setting::ProxyGid => super::read::parse_id(text).map(|_| ()),
            Setting::Ipv6 => super::read::parse_bool(text).map(|_| ()),
        }
    }

    /// The capture mode of that name.
    pub(super) fn mode(&self, text: &str) -> Result<Mode, String> {
        match self.capture.modes.get(text.trim()) {
            Some(mode) => Ok(*mode),
            None => Err(format!(
                "{text:?} is not one of {}",
                self.capture
                    .modes
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        }
    }
}

fn is_flag(flag: &str) -> bool {
    let long = flag.strip_prefix("--").is_some_and(|name| name.len() > 1);
    let short = flag.len() == 2 && flag.starts_with('-') && !flag.ends_with('-');
    (long || short) && !flag.contains('=') && !flag.contains(' ')
}
