//! Who owns a pod, by the name a person knows: the Deployment, not its ReplicaSet.
//!
//! The API server would know for sure, but asking costs a watch of every ReplicaSet and
//! Job. Their names are made by rules, and where the rule leaves doubt the direct owner's
//! own name is kept: a wrong name is worse than a long one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::Workload;

/// Label with the hash a Deployment puts at the end of its ReplicaSets' names.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Owner of the pod with this metadata, the pod itself if it has none.
pub(super) fn workload(meta: &ObjectMeta, pod: &str) -> Workload {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = controller.or_else(|| owners.first()) else {
        return named("Pod", pod);
    };
    let hash = meta.labels.as_ref().and_then(|l| l.get(TEMPLATE_HASH));
    match owner.kind.as_str() {
        "ReplicaSet" => deployment(&owner.name, hash.map(String::as_str)),
        "Job" => cron_job(&owner.name),
        // A static pod is "owned" by its node.
        "Node" => named("Pod", pod),
        kind => named(kind, &owner.name),
    }
}

fn named(kind: &str, name: &str) -> Workload {
    Workload {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

/// A ReplicaSet made by a Deployment is called after it and the pod template's hash.
fn deployment(replica_set: &str, hash: Option<&str>) -> Workload {
    let made = replica_set
        .rsplit_once('-')
        .filter(|(name, end)| !name.is_empty() && Some(*end) == hash);
    match made {
        Some((name, _)) => named("Deployment", name),
        None => named("ReplicaSet", replica_set),
    }
}

/// A Job made by a CronJob is called after it and its scheduled time: minutes since the
/// epoch (8 digits), before Kubernetes 1.21 seconds (10 digits). Only a plausible time
/// counts (2014 to 2033): a Job may well be called `backup-20240101`.
fn cron_job(job: &str) -> Workload {
    let scheduled = |end: &str| match (end.len(), end.parse::<u64>()) {
        (8, Ok(minutes)) => (23_500_000..33_500_000).contains(&minutes),
        (10, Ok(seconds)) => (1_400_000_000..2_010_000_000).contains(&seconds),
        _ => false,
    };
    let made = job
        .rsplit_once('-')
        .filter(|(name, end)| !name.is_empty() && scheduled(end));
    match made {
        Some((name, _)) => named("CronJob", name),
        None => named("Job", job),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::{TEMPLATE_HASH, workload};

    fn owned(kind: &str, name: &str, hash: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            labels: hash.map(|h| [(TEMPLATE_HASH.to_owned(), h.to_owned())].into()),
            owner_references: Some(vec![OwnerReference {
                kind: kind.to_owned(),
                name: name.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn owners_get_the_name_a_person_knows() {
        for (kind, owner, hash, expected) in [
            (
                "ReplicaSet",
                "web-5d69f9f59d",
                Some("5d69f9f59d"),
                "Deployment web",
            ),
            (
                "ReplicaSet",
                "web-api-5d69f9f59d",
                Some("5d69f9f59d"),
                "Deployment web-api",
            ),
            (
                "ReplicaSet",
                "web-5d69f9f59d",
                None,
                "ReplicaSet web-5d69f9f59d",
            ),
            (
                "ReplicaSet",
                "web-blue",
                Some("5d69f9f59d"),
                "ReplicaSet web-blue",
            ),
            ("Job", "backup-28912345", None, "CronJob backup"),
            ("Job", "backup-1609459200", None, "CronJob backup"),
            ("Job", "backup-20240101", None, "Job backup-20240101"),
            ("Job", "migrate-7", None, "Job migrate-7"),
            ("Job", "-28912345", None, "Job -28912345"),
            ("StatefulSet", "db", None, "StatefulSet db"),
            ("Node", "worker-1", None, "Pod me"),
        ] {
            let w = workload(&owned(kind, owner, hash), "me");
            assert_eq!(format!("{} {}", w.kind, w.name), expected);
        }
        let alone = workload(&ObjectMeta::default(), "me");
        assert_eq!((alone.kind.as_str(), alone.name.as_str()), ("Pod", "me"));
    }
}
