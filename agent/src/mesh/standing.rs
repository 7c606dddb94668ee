//! What meshes say of a pod beside what they capture in it.
//!
//! Asked for and not there, two at once, labelled and outside their reach: none of it changes
//! what is captured, all of it is worth knowing. Signs of one mesh are only ever compared with
//! signs of another; which meshes these are, the profiles know.

use super::{member, profile::Profile};
use crate::model::Pod;

/// What meshes say of a pod. Each text names profile and sign, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The pod (or its namespace) asks for a mesh, and is in none.
    pub asked: Vec<Asked>,
    /// Marks of different meshes on one pod; empty, or at least two.
    pub marks: Vec<String>,
    /// The pod asks for a mesh, and is in the node's network namespace where none can be.
    pub on_host: Vec<String>,
}

/// A wish that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Name of the profile.
    pub profile: String,
    /// The label or annotation that asks.
    pub sign: String,
}

/// Looks at a pod with all profiles.
pub(super) fn of(profiles: &[Profile], pod: &Pod) -> Standing {
    if !member::has_manifest(pod) {
        return Standing::default();
    }
    let marks: Vec<String> = profiles.iter().filter_map(|p| mark(p, pod)).collect();
    let asked: Vec<Asked> = profiles
        .iter()
        .filter_map(|p| asks(p, pod, false))
        .collect();
    let on_host = || profiles.iter().filter_map(|p| host_sign(p, pod)).collect();
    Standing {
        // Left out on purpose is not left out by mistake.
        asked: match marks.is_empty() && !pod.host_network {
            true => asked,
            false => Vec::new(),
        },
        on_host: match pod.host_network {
            true => on_host(),
            false => Vec::new(),
        },
        marks: match marks.len() > 1 && !pod.host_network {
            true => marks,
            false => Vec::new(),
        },
    }
}

/// How this mesh shows in the pod, if it does.
fn mark(profile: &Profile, pod: &Pod) -> Option<String> {
    let members = &profile.members;
    let proxy = member::named(pod, &members.proxy_containers);
    let sign = members.signs.iter().find(|sign| sign.shows(pod, None));
    let shown = match (proxy, sign) {
        (Some(proxy), _) => format!("container {}", proxy.name),
        (None, sign) => sign?.describe(pod),
    };
    Some(format!("{}: {shown}", profile.name))
}

/// The sign that asks for this mesh, unless another one declines.
fn asks(profile: &Profile, pod: &Pod, of_pod: bool) -> Option<Asked> {
    let declines = || profile.declines.iter().any(|sign| sign.shows(pod, None));
    let mut skips = profile.skip.iter().filter(|sign| sign.is_of_pod());
    let mut skipped = || skips.any(|sign| sign.shows(pod, None));
    let asking = |sign: &&super::sign::Sign| (!of_pod || sign.is_of_pod()) && sign.shows(pod, None);
    let sign = profile.asks.iter().find(asking)?;
    (!declines() && !skipped()).then(|| Asked {
        profile: profile.name.clone(),
        sign: sign.describe(pod),
    })
}

/// What of this mesh is on a pod of the node's own network. Its namespace asks for all pods of
/// it alike, which says nothing about this one.
fn host_sign(profile: &Profile, pod: &Pod) -> Option<String> {
    let asked = asks(profile, pod, true).map(|asked| format!("{}: {}", asked.profile, asked.sign));
    mark(profile, pod).or(asked)
}
