//! Reading a profile, and what may be wrong with one.
//!
//! A profile with a mistake is no profile: judging with less than was meant would find
//! nothing wrong in pods that are. So every value is tried here, before any pod is seen, and
//! the first mistake is told with file, key and remedy.

use super::{
    nets::NetSet,
    ports::PortSet,
    profile::{Mode, Profile},
    setting::Setting,
};
use crate::model::Family;

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
        if self.members.proxy_containers.is_empty() && self.members.signs.is_empty() {
            return told(
                "members.proxy_containers",
                "names no container",
                "name the proxy's container, or a sign in members.signs: without it no pod is a member",
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
        let named = self.annotation_values.values().flat_map(|v| v.values());
        let named = named.map(|values| ("annotation_values", values));
        for (table, values) in tables.into_iter().chain(named) {
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
            Setting::Families => self.families(text).map(|_| ()),
            Setting::IncludeInboundPorts
            | Setting::ExcludeInboundPorts
            | Setting::IncludeOutboundPorts
            | Setting::ExcludeOutboundPorts => text.parse::<PortSet>().map(|_| ()),
            Setting::ExcludeInboundRanges
            | Setting::IncludeOutboundRanges
            | Setting::ExcludeOutboundRanges => text.parse::<NetSet>().map(|_| ()),
            Setting::ExcludeInterfaces | Setting::RerouteInterfaces => Ok(()),
            Setting::ExcludeUids => super::users::parse_ids(text).map(|_| ()),
            Setting::ExcludePortsForUids => super::users::parse_rules(text).map(|_| ()),
            Setting::OutboundPort
            | Setting::InboundPort
            | Setting::OwnPort
            | Setting::InboundOwnPort
            | Setting::DnsPort => super::ports::parse_port(text).map(|_| ()),
            Setting::ProxyUid | Setting::ProxyGid => super::read::parse_id(text).map(|_| ()),
            Setting::Ipv6
            | Setting::DnsCapture
            | Setting::CaptureInbound
            | Setting::LeaveInbound
            | Setting::CaptureOutbound => super::read::parse_bool(text).map(|_| ()),
        }
    }

    /// The families of the mode of that name.
    pub(super) fn families(&self, text: &str) -> Result<Vec<Family>, String> {
        let known = &self.capture.families;
        let families = known.get(text.trim()).cloned();
        families.ok_or_else(|| not_one_of(text, known.keys()))
    }

    /// The capture mode of that name.
    pub(super) fn mode(&self, text: &str) -> Result<Mode, String> {
        let known = &self.capture.modes;
        let mode = known.get(text.trim()).copied();
        mode.ok_or_else(|| not_one_of(text, known.keys()))
    }
}

fn not_one_of<'a>(text: &str, names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    format!("{text:?} is not one of {}", names.join(", "))
}

fn is_flag(flag: &str) -> bool {
    let long = flag.strip_prefix("--").is_some_and(|name| name.len() > 1);
    let short = flag.len() == 2 && flag.starts_with('-') && !flag.ends_with('-');
    (long || short) && !flag.contains('=') && !flag.contains(' ')
}
