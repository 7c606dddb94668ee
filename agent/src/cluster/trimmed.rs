//! A pod of the watch, trimmed while it is read.
//!
//! A list of 250 pods as the API's own type takes 25 MiB, most of it `managedFields`, and the allocator does not give it
//! back. So each pod becomes the agent's own as soon as its text is parsed, before the next one is: only one whole pod exists at
//! a time. Environments are thinned later, where it is known which variables matter.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Pod as KubePod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::convert;
use crate::model::{Pod, PodKey};

/// A pod as the watch needs it.
#[derive(Clone, Debug)]
pub(super) struct Trimmed {
    /// Name, namespace, uid and version only.
    meta: ObjectMeta,
    /// All its containers ended for good.
    pub(super) over: bool,
    /// The agent's own; `None` if it has no name.
    pub(super) pod: Option<Pod>,
}

impl Trimmed {
    /// Namespace and name.
    pub(super) fn key(&self) -> Option<PodKey> {
        Some(PodKey {
            namespace: self.meta.namespace.clone()?,
            name: self.meta.name.clone()?,
        })
    }

    /// Its uid, empty if it has none.
    pub(super) fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }
}

impl From<KubePod> for Trimmed {
    fn from(pod: KubePod) -> Self {
        let meta = ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Self {
            meta,
            over: convert::is_over(&pod),
            pod: convert::pod(pod),
        }
    }
}

/// What is read of a pod. Fields that are not here are skipped by the parser.
#[derive(Deserialize)]
struct Read {
    metadata: Meta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl<'de> Deserialize<'de> for Trimmed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read {
            metadata,
            spec,
            status,
        } = Read::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: metadata.owner_references,
            ..ObjectMeta::default()
        };
        Ok(Self::from(KubePod {
            metadata,
            spec,
            status,
        }))
    }
}

impl Resource for Trimmed {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KubePod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        KubePod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        KubePod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        KubePod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_what_the_whole_pod_says() {
        let whole = json!({
            "kind": "Pod",
            "metadata": {"name": "a-5d69f", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "labels": {"pod-template-hash": "5d69f"}, "annotations": {"x": "y"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d69f", "uid": "o", "controller": true}],
                "managedFields": [{"manager": "kubelet", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}]},
            "spec": {"hostNetwork": true, "containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}],
                "containerStatuses": [{"name": "app", "containerID": "containerd://abc", "ready": true,
                    "restartCount": 0, "image": "i", "imageID": "i"}]},
        });
        let trimmed: Trimmed = serde_json::from_value(whole.clone()).unwrap();
        let pod = convert::pod(serde_json::from_value(whole).unwrap());
        assert_eq!(trimmed.pod, pod);
        assert_eq!(
            trimmed
                .pod
                .as_ref()
                .unwrap()
                .workload
                .as_ref()
                .unwrap()
                .name,
            "web"
        );
        assert!(trimmed.over);
        assert_eq!(trimmed.uid(), "u");
        assert_eq!(trimmed.meta().resource_version.as_deref(), Some("7"));
        assert_eq!(trimmed.meta().managed_fields, None);
    }
}
