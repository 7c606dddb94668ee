//! What a cgroup's path says: the pod's uid and the container's id.
//!
//! Kubelets, container runtimes and systemd each have their own forms, with two drivers
//! (plain directories, systemd slices and scopes). Pure text; the forms are pinned in the
//! table below. Nested cgroups belong to the outermost container: what a container does
//! with its own subtree is its business.

/// What is known from a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupName {
    /// Uid of the pod, with `-` as in its manifest.
    pub pod_uid: Option<String>,
    /// Id of the container, as the runtime prints it in full.
    pub container_id: Option<String>,
}

/// Length of a full container id, in hexadecimal digits.
const ID_LEN: usize = 64;
/// Shortest id taken for a container's inside a pod's cgroup.
const MIN_ID_LEN: usize = 32;

impl CgroupName {
    /// Reads a path below the hierarchy's root.
    #[must_use]
    pub fn parse(path: &str) -> Self {
        let mut name = Self::default();
        let mut kubelet = false;
        // `kubepods-….slice:cri-containerd:ID`: systemd's form, taken literally by a runtime
        // that uses the other driver.
        for part in path.split(['/', ':']) {
            kubelet |= part.starts_with("kubepods") || part.contains("-kubepods");
            if name.pod_uid.is_none()
                && let Some(uid) = pod_uid(part, kubelet)
            {
                // An id before the pod is the container the kubelet itself runs in.
                name = Self {
                    pod_uid: Some(uid),
                    container_id: None,
                };
            } else if name.container_id.is_none() {
                name.container_id = container_id(part, name.pod_uid.is_some());
            }
        }
        name
    }

    /// Whether it says anything.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.pod_uid.is_some() || self.container_id.is_some()
    }

    /// Whether it is a pod's own, above those of its containers.
    #[must_use]
    pub const fn is_pod(&self) -> bool {
        self.pod_uid.is_some() && self.container_id.is_none()
    }
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid with _>.slice`.
fn pod_uid(part: &str, kubelet: bool) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.strip_prefix("pod") {
        Some(uid) => uid,
        None if part.contains("kubepods") => part.split_once("-pod")?.1,
        None => return None,
    };
    let plain = uid
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let allowed = plain && !uid.is_empty() && (kubelet || is_uid(uid));
    allowed.then(|| uid.replace('_', "-"))
}

/// A UUID, or the hash that a static pod has instead.
fn is_uid(text: &str) -> bool {
    let hex = text.chars().filter(char::is_ascii_hexdigit).count();
    let dashes = text.chars().filter(|c| matches!(c, '-' | '_')).count();
    hex == 32 && (dashes == 4 || dashes == 0) && text.len() == hex + dashes
}

/// `<id>`, or `<runtime>-<id>.scope`.
fn container_id(part: &str, in_pod: bool) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (runtime, id) = part.rsplit_once('-').unwrap_or(("", part));
    // CRI-O's monitor of a container has the container's id in its scope, too.
    if runtime.contains("conmon") {
        return None;
    }
    let hex = id.chars().all(|c| c.is_ascii_hexdigit());
    let long = id.len() == ID_LEN || (in_pod && (MIN_ID_LEN..=ID_LEN).contains(&id.len()));
    (hex && long).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CgroupName;

    const UID: &str = "0f9e7a7c-1b2d-4c3e-8f4a-5b6c7d8e9f00";
    const LOW: &str = "0f9e7a7c_1b2d_4c3e_8f4a_5b6c7d8e9f00";
    const HASH: &str = "2c1f8d3b7a6e5f4d3c2b1a0f9e8d7c6b";
    const ID: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    const INNER: &str = "2222222222222222222222222222222222222222222222222222222222222222";

    // lint: long because it is one table, a line for each form met.
    #[test]
    fn every_form_is_read() {
        for (path, uid, id) in [
            // Plain directories, the three classes of quality of service.
            (
                format!("/kubepods/besteffort/pod{UID}/{ID}"),
                Some(UID),
                Some(ID),
            ),
            (
                format!("/kubepods/burstable/pod{UID}/{ID}"),
                Some(UID),
                Some(ID),
            ),
            (format!("/kubepods/pod{UID}/{ID}"), Some(UID), Some(ID)),
            (format!("/kubepods/besteffort/pod{UID}"), Some(UID), None),
            (
                format!("/kubepods/besteffort/pod{HASH}/{ID}"),
                Some(HASH),
                Some(ID),
            ),
            (
                "/kubepods/besteffort/podmy-test/".to_owned(),
                Some("my-test"),
                None,
            ),
            // systemd: containerd, CRI-O, Docker.
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope"
                ),
                Some(UID),
                Some(ID),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{LOW}.slice/crio-{ID}.scope"),
                Some(UID),
                Some(ID),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{LOW}.slice/crio-conmon-{ID}.scope"),
                Some(UID),
                None,
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{LOW}.slice/docker-{ID}.scope"
                ),
                Some(UID),
                Some(ID),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope"
                ),
                Some(HASH),
                Some(ID),
            ),
            // systemd's form taken literally by a runtime with the other driver.
            (
                format!(
                    "/system.slice/containerd.service/kubepods-besteffort-pod{LOW}.slice:cri-containerd:{ID}"
                ),
                Some(UID),
                Some(ID),
            ),
            // A kubelet in a slice or container of its own (kind, minikube).
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope"
                ),
                Some(UID),
                Some(ID),
            ),
            (
                format!("/docker/{INNER}/kubelet/kubepods/besteffort/pod{UID}/{ID}"),
                Some(UID),
                Some(ID),
            ),
            // A container with cgroups of its own.
            (
                format!("/kubepods/besteffort/pod{UID}/{ID}/init.scope"),
                Some(UID),
                Some(ID),
            ),
            (
                format!("/kubepods/besteffort/pod{UID}/{ID}/docker/{INNER}"),
                Some(UID),
                Some(ID),
            ),
            // Without a kubelet.
            (format!("/docker/{ID}"), None, Some(ID)),
            (format!("/system.slice/docker-{ID}.scope"), None, Some(ID)),
            (
                format!("/machine.slice/libpod-{ID}.scope/container"),
                None,
                Some(ID),
            ),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"
                ),
                None,
                Some(ID),
            ),
            // None of these.
            ("/".to_owned(), None, None),
            ("/system.slice/ssh.service".to_owned(), None, None),
            ("/podman.service".to_owned(), None, None),
            (
                "/kubepods.slice/kubepods-burstable.slice".to_owned(),
                None,
                None,
            ),
            (format!("/job/{HASH}"), None, None),
        ] {
            let name = CgroupName::parse(&path);
            assert_eq!(name.pod_uid.as_deref(), uid, "{path}");
            assert_eq!(name.container_id.as_deref(), id, "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path in "(/|:|-|_|pod|kubepods|\\.slice|\\.scope|[0-9a-f]{32}|\\PC){0,12}") {
            let _ = CgroupName::parse(&path);
        }
    }
}
