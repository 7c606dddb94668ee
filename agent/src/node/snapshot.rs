//! What the node looks like at one moment, and what changed between two.
//!
//! Pure: the scanner makes snapshots, the engine gets differences.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    engine::Change,
    model::{CgroupId, NetnsId},
};

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NetnsState {
    pub paths: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub interfaces: Vec<(IpAddr, String)>,
    pub host: bool,
}

/// A cgroup that has, or had, processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CgroupState {
    pub path: String,
    pub pod_uid: Option<String>,
    pub container_id: Option<String>,
    pub netns: Option<NetnsId>,
}

/// The node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub netns: BTreeMap<NetnsId, NetnsState>,
    pub cgroups: BTreeMap<CgroupId, CgroupState>,
    /// By source: what is wrong with it.
    pub troubles: BTreeMap<&'static str, String>,
}

/// What to tell after `old` was told, to make it `new`. Namespaces come before the cgroups
/// that refer to them, and go after them.
pub(super) fn diff(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    for (netns, state) in changed(&old.netns, &new.netns) {
        changes.push(Change::Netns {
            netns: *netns,
            paths: state.paths.clone(),
            addresses: state.addresses.clone(),
            interfaces: state.interfaces.clone(),
            host: state.host,
        });
    }
    for (cgroup, state) in changed(&old.cgroups, &new.cgroups) {
        changes.push(Change::Cgroup {
            cgroup: *cgroup,
            path: state.path.clone(),
            pod_uid: state.pod_uid.clone(),
            container_id: state.container_id.clone(),
            netns: state.netns,
        });
    }
    changes.extend(gone(&old.cgroups, &new.cgroups).map(|id| Change::CgroupGone(*id)));
    changes.extend(gone(&old.netns, &new.netns).map(|id| Change::NetnsGone(*id)));
    for (source, text) in changed(&old.troubles, &new.troubles) {
        changes.push(source_change(source, Some(text.clone())));
    }
    changes.extend(gone(&old.troubles, &new.troubles).map(|source| source_change(source, None)));
    changes
}

fn source_change(source: &str, trouble: Option<String>) -> Change {
    Change::Source {
        source: source.to_owned(),
        trouble,
    }
}

fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter()
        .filter(|(key, value)| old.get(key) != Some(value))
}

fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CgroupState, NetnsState, Snapshot, diff};
    use crate::{
        engine::Change,
        model::{CgroupId, NetnsId},
    };

    /// What a listener knows after hearing the changes.
    fn apply(mut known: Snapshot, changes: Vec<Change>) -> Snapshot {
        for change in changes {
            match change {
                Change::Netns {
                    netns,
                    paths,
                    addresses,
                    interfaces,
                    host,
                } => {
                    known.netns.insert(
                        netns,
                        NetnsState {
                            paths,
                            addresses,
                            interfaces,
                            host,
                        },
                    );
                }
                Change::NetnsGone(netns) => drop(known.netns.remove(&netns)),
                Change::Cgroup {
                    cgroup,
                    path,
                    pod_uid,
                    container_id,
                    netns,
                } => {
                    let state = CgroupState {
                        path,
                        pod_uid,
                        container_id,
                        netns,
                    };
                    known.cgroups.insert(cgroup, state);
                }
                Change::CgroupGone(cgroup) => drop(known.cgroups.remove(&cgroup)),
                Change::Source { source, trouble } => {
                    let source = if source == "proc" { "proc" } else { "cgroups" };
                    known.troubles.remove(source);
                    known.troubles.extend(trouble.map(|text| (source, text)));
                }
                Change::Pod(_) | Change::PodGone(_) => unreachable!("the node knows no pods"),
            }
        }
        known
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        let netns = prop::collection::btree_map(0..4_u32, any::<(bool, bool)>(), 0..4);
        let cgroups = prop::collection::btree_map(0..4_u64, (0..3_u32, any::<bool>()), 0..4);
        let troubles =
            prop::collection::btree_map(prop_oneof![Just("proc"), Just("cgroups")], "[ab]", 0..3);
        (netns, cgroups, troubles).prop_map(|(netns, cgroups, troubles)| Snapshot {
            netns: netns
                .into_iter()
                .map(|(id, (host, named))| {
                    let paths = if named {
                        vec!["/run/netns/x".to_owned()]
                    } else {
                        vec![]
                    };
                    (
                        NetnsId(id),
                        NetnsState {
                            paths,
                            host,
                            ..NetnsState::default()
                        },
                    )
                })
                .collect(),
            cgroups: cgroups
                .into_iter()
                .map(|(id, (netns, pod))| {
                    let state = CgroupState {
                        path: format!("/{id}"),
                        pod_uid: pod.then(|| "uid".to_owned()),
                        container_id: None,
                        netns: (netns > 0).then_some(NetnsId(netns)),
                    };
                    (CgroupId(id), state)
                })
                .collect(),
            troubles,
        })
    }

    proptest! {
        #[test]
        fn changes_make_the_old_picture_the_new_one(old in snapshots(), new in snapshots()) {
            let changes = diff(&old, &new);
            prop_assert_eq!(changes.is_empty(), old == new);
            prop_assert_eq!(apply(old, changes), new);
        }
    }
}
