//! Signs on a pod: labels, annotations, arguments that say whether a mesh means it.
//!
//! One list of signs serves all questions (member or not, asked for, declined), because the
//! meshes ask them of the same few fields. A sign is looked up, never interpreted.

use serde::Deserialize;

use crate::model::{Container, Pod};

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
    /// An annotation is missing, or has none of these values.
    NoAnnotation {
        /// Key of the annotation.
        key: String,
        /// Values of which it must have one; with none given, any will do.
        #[serde(default)]
        values: Vec<String>,
    },
    /// A label of the pod's namespace with one of these values; with none given, with any value.
    NamespaceLabel {
        /// Key of the label.
        key: String,
        /// Values that count.
        #[serde(default)]
        values: Vec<String>,
    },
    /// The pod is in one of these namespaces.
    Namespace {
        /// Their names.
        names: Vec<String>,
    },
    /// An environment variable of the proxy's container has one of these values.
    ProxyVariable {
        /// Its name.
        key: String,
        /// Values that count.
        values: Vec<String>,
    },
    /// The proxy's container has exactly this argument.
    ProxyArgument {
        /// The argument.
        value: String,
    },
}

impl Sign {
    /// Whether the pod, whose proxy is `proxy`, shows the sign.
    pub(super) fn shows(&self, pod: &Pod, proxy: Option<&Container>) -> bool {
        let one_of = |value: Option<&String>, values: &[String]| {
            value.is_some_and(|value| values.is_empty() || values.contains(value))
        };
        match self {
            Self::HostNetwork => pod.host_network,
            Self::Label { key, values } => one_of(pod.labels.get(key), values),
            Self::Annotation { key, values } => one_of(pod.annotations.get(key), values),
            Self::NoAnnotation { key, values } => !one_of(pod.annotations.get(key), values),
            Self::NamespaceLabel { key, values } => one_of(pod.namespace_labels.get(key), values),
            Self::Namespace { names } => names.contains(&pod.key.namespace),
            Self::ProxyVariable { key, values } => {
                one_of(proxy.and_then(|proxy| proxy.env.get(key)), values)
            }
            Self::ProxyArgument { value } => proxy.is_some_and(|proxy| proxy.args.contains(value)),
        }
    }

    /// Whether it is on the pod itself, and not on what surrounds it.
    pub(super) const fn is_of_pod(&self) -> bool {
        matches!(self, Self::Label { .. } | Self::Annotation { .. })
    }

    /// The sign as this pod shows it, for people.
    pub(super) fn describe(&self, pod: &Pod) -> String {
        let value = |map: &std::collections::BTreeMap<String, String>, key: &str| {
            map.get(key).cloned().unwrap_or_default()
        };
        match self {
            Self::HostNetwork => "hostNetwork: true".to_owned(),
            Self::Label { key, .. } => format!("label {key}: {:?}", value(&pod.labels, key)),
            Self::Annotation { key, .. } => {
                format!("annotation {key}: {:?}", value(&pod.annotations, key))
            }
            Self::NoAnnotation { key, .. } => {
                format!("annotation {key} is missing or says otherwise")
            }
            Self::NamespaceLabel { key, .. } => format!(
                "label {key}: {:?} of namespace {}",
                value(&pod.namespace_labels, key),
                pod.key.namespace
            ),
            Self::Namespace { .. } => format!("namespace {}", pod.key.namespace),
            Self::ProxyVariable { key, .. } => format!("variable {key} of the proxy"),
            Self::ProxyArgument { value } => format!("argument {value} of the proxy"),
        }
    }
}
