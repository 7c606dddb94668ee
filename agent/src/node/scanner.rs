//! Looks at the node: which cgroups and network namespaces are there, and what belongs
//! together.
//!
//! A look every few seconds must cost next to nothing, so it remembers: a container's
//! namespace does not change once it runs, and is asked for again only now and then. The
//! processes outside of any cgroup of interest matter for one thing only, namespaces that
//! nothing else shows; reading all of them is the expensive part and done rarely.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    cgroup_name::CgroupName,
    enter,
    mounts::{self, Hierarchies, Mount},
    netns::Namespaces,
    refused::Refused,
    snapshot::{CgroupState, Snapshot, diff},
    tree::{self, Dir, Tree, Walk},
};
use crate::{
    engine::Change,
    model::{CgroupId, NetnsId},
};

/// A new cgroup or namespace is looked at in every scan: a runtime moves a process into its
/// cgroup first and into its namespace later, and gives a namespace its addresses last.
const YOUNG: Duration = Duration::from_secs(10);
/// Between two close looks at what is not young.
const RARELY: Duration = Duration::from_secs(30);
/// A container in the node's own namespace is believed after this: until then it is more
/// likely one on its way into its pod's.
const HOST_BELIEVED: Duration = Duration::from_millis(500);
/// Set in the id of a cgroup that exists only in a v1 hierarchy: the kernel never reports it.
const LEGACY_ID: u64 = 1 << 63;

/// Where to look; for tests.
#[derive(Clone, Debug)]
pub struct Paths {
    /// procfs of the host's pid namespace.
    pub proc: PathBuf,
    /// Directories where namespaces are kept by name.
    pub named: Vec<PathBuf>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            named: vec![
                PathBuf::from("/run/netns"),
                PathBuf::from("/run/docker/netns"),
            ],
        }
    }
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub now: Instant,
    pub round: u64,
    /// Also at what is not expected to change.
    pub closely: bool,
}

impl Look {
    pub(super) fn is_young(&self, since: Instant) -> bool {
        is_young(since, self.now)
    }
}

fn is_young(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < YOUNG
}

/// What is remembered of the node.
#[derive(Debug)]
pub struct Scanner {
    paths: Paths,
    round: u64,
    /// The last close look.
    closely: Option<Instant>,
    hierarchies: Hierarchies,
    unified: Tree,
    legacy: Tree,
    cgroups: BTreeMap<CgroupId, Seen>,
    namespaces: Namespaces,
    /// Directories in which new cgroups of containers appear.
    parents: Vec<PathBuf>,
    told: Snapshot,
    limits: Vec<String>,
}

#[derive(Debug)]
struct Seen {
    path: String,
    name: CgroupName,
    netns: Option<NetnsId>,
    since: Instant,
    round: u64,
}

impl Scanner {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self {
            namespaces: Namespaces::new(paths.clone()),
            paths,
            round: 0,
            closely: None,
            hierarchies: Hierarchies::default(),
            unified: Tree::default(),
            legacy: Tree::default(),
            cgroups: BTreeMap::new(),
            parents: Vec::new(),
            told: Snapshot::default(),
            limits: Vec::new(),
        }
    }

    /// Looks at the node: what changed since the last look. `everything` also looks at what is
    /// not expected to change, and reads all processes, to find what nothing else shows. Blocks
    /// on the kernel, for milliseconds.
    pub fn scan(&mut self, now: Instant, everything: bool) -> Vec<Change> {
        self.round += 1;
        let rarely = |last: Instant| now.saturating_duration_since(last) >= RARELY;
        let closely = everything || self.closely.is_none_or(rarely);
        if closely {
            self.closely = Some(now);
        }
        let look = Look {
            now,
            round: self.round,
            closely,
        };
        let mut refused = Refused::default();
        self.scan_cgroups(look, &mut refused);
        self.namespaces.scan(look, &mut refused);
        let mut troubles = refused.told();
        // What was not looked at is as it was.
        if !look.closely {
            let old = std::mem::take(&mut self.told.troubles);
            for (source, text) in &old {
                troubles.entry(*source).or_insert_with(|| text.clone());
            }
            self.told.troubles = old;
        }
        let snapshot = Snapshot {
            netns: self.namespaces.states(),
            cgroups: self.states(now),
            troubles,
        };
        let changes = diff(&self.told, &snapshot);
        self.told = snapshot;
        changes
    }

    /// Whether all there is has been there for a while: what is new may still change without a notice.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let cgroups = self.cgroups.values().map(|seen| seen.since);
        let mut all = cgroups.chain(self.namespaces.ages());
        all.all(|since| !is_young(since, now))
    }

    /// What this node does not let the agent see, for [`crate::model::Coverage::limits`].
    #[must_use]
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// Directories worth a notice when something appears in them.
    pub fn parents(&self) -> impl Iterator<Item = &Path> {
        self.paths
            .named
            .iter()
            .chain(&self.parents)
            .map(PathBuf::as_path)
    }

    /// All namespaces but the node's own, with a file through which each can be entered.
    #[must_use]
    pub fn places(&self) -> Vec<(NetnsId, PathBuf)> {
        self.namespaces.places()
    }

    /// All namespaces, the node's own first.
    pub(super) fn places_and_node(&self) -> Vec<(NetnsId, PathBuf)> {
        self.namespaces.places_and_node()
    }

    /// The node's own namespace.
    pub(super) const fn node(&self) -> Option<NetnsId> {
        self.namespaces.host()
    }

    /// The namespaces found.
    pub fn namespaces(&self) -> impl Iterator<Item = NetnsId> {
        self.namespaces.ids()
    }

    /// The cgroups found, by the kernel's ids.
    pub fn cgroups(&self) -> impl Iterator<Item = CgroupId> {
        self.cgroups.keys().copied()
    }

    /// The directories of the containers' cgroups, as far as the kernel knows them by id.
    pub(super) fn containers(&self) -> impl Iterator<Item = (CgroupId, PathBuf)> {
        let root = self.hierarchies.unified.as_ref();
        let root = root.map_or_else(PathBuf::new, |mount| mount.path.clone());
        let containers = self.cgroups.iter();
        let containers = containers
            .filter(|(id, seen)| id.0 & LEGACY_ID == 0 && seen.name.container_id.is_some());
        containers.map(move |(id, seen)| (*id, root.join(seen.path.trim_start_matches('/'))))
    }

    /// Where the CPU limit of a cgroup may be: its directory in each hierarchy that can have one.
    pub(super) fn limited(&self, id: CgroupId) -> Vec<PathBuf> {
        let Some(seen) = self.cgroups.get(&id) else {
            return Vec::new();
        };
        let Hierarchies { unified, cpu, .. } = &self.hierarchies;
        let mounts = unified.iter().chain(cpu);
        mounts
            .map(|mount| mount.path.join(seen.path.trim_start_matches('/')))
            .collect()
    }

    /// The directories of the pod that a cgroup is of, in each hierarchy that can limit memory.
    pub(super) fn pods_memory(&self, id: CgroupId) -> Vec<PathBuf> {
        let Some(seen) = self.cgroups.get(&id) else {
            return Vec::new();
        };
        let is_pod = |path: &&Path| CgroupName::parse(&path.display().to_string()).is_pod();
        let Some(pod) = Path::new(&seen.path).ancestors().find(is_pod) else {
            return Vec::new();
        };
        let below = pod.strip_prefix("/").unwrap_or(pod);
        let Hierarchies {
            unified, memory, ..
        } = &self.hierarchies;
        let mounts = unified.iter().chain(memory);
        mounts.map(|mount| mount.path.join(below)).collect()
    }

    fn scan_cgroups(&mut self, look: Look, refused: &mut Refused) {
        if look.closely {
            let table = fs::read_to_string(self.paths.proc.join("self/mountinfo"));
            self.hierarchies = mounts::hierarchies(&table.unwrap_or_default());
        }
        let Hierarchies {
            unified, legacy, ..
        } = self.hierarchies.clone();
        self.parents.clear();
        self.limits = limits(unified.as_ref(), legacy.as_ref());
        if unified.is_none() && legacy.is_none() {
            let text = "no cgroup hierarchy is mounted where the agent can read it: containers cannot be told apart. Mount the host's /sys/fs/cgroup into the agent's container";
            refused.source("cgroups", text.to_owned());
        }
        let mut containers = BTreeSet::new();
        let found = walk(&mut self.unified, unified.as_ref(), refused);
        for (dir, path, name) in self.named(found, unified.as_ref()) {
            containers.extend(name.container_id.clone());
            self.see(CgroupId(dir.inode), &dir, path, name, look, refused);
        }
        let found = walk(&mut self.legacy, legacy.as_ref(), refused);
        for (dir, path, name) in self.named(found, legacy.as_ref()) {
            let shown = |id: &String| containers.contains(id);
            if name.is_known() && !name.container_id.as_ref().is_some_and(shown) {
                self.see(
                    CgroupId(dir.inode | LEGACY_ID),
                    &dir,
                    path,
                    name,
                    look,
                    refused,
                );
            }
        }
        self.cgroups.retain(|_, seen| seen.round == look.round);
    }

    /// The directories of a walk with their paths in the hierarchy and what these say.
    fn named(&mut self, walk: Walk, mount: Option<&Mount>) -> Vec<(Dir, String, CgroupName)> {
        let root = mount.map_or(Path::new("/"), |mount| &mount.path);
        let mut found = Vec::with_capacity(walk.dirs.len());
        for dir in walk.dirs {
            let below = dir.path.strip_prefix(root).unwrap_or(&dir.path);
            let path = format!("/{}", below.display());
            let name = CgroupName::parse(&path);
            if name.container_id.is_none() {
                self.parents.push(dir.path.clone());
            }
            found.push((dir, path, name));
        }
        found
    }

    fn see(
        &mut self,
        id: CgroupId,
        dir: &Dir,
        path: String,
        name: CgroupName,
        look: Look,
        refused: &mut Refused,
    ) {
        let known = self.cgroups.get(&id).filter(|seen| seen.path == path);
        let (since, before) = known.map_or((look.now, None), |seen| (seen.since, seen.netns));
        let settled = before.filter(|_| !look.closely && !look.is_young(since));
        let netns = settled
            .or_else(|| self.netns_of(dir, look, refused))
            .or(before);
        if let Some(netns) = netns {
            self.namespaces.refer(netns, look);
        }
        let seen = Seen {
            path,
            name,
            netns,
            since,
            round: look.round,
        };
        self.cgroups.insert(id, seen);
    }

    fn netns_of(&mut self, dir: &Dir, look: Look, refused: &mut Refused) -> Option<NetnsId> {
        for pid in tree::processes(&dir.path) {
            if pid == 0 {
                refused.foreign();
                return None;
            }
            match enter::of_process(&self.paths.proc, pid) {
                Ok(netns) => {
                    self.namespaces.see_process(netns, pid, look);
                    return Some(netns);
                }
                Err(error) => refused.link(&error),
            }
        }
        None
    }

    /// Cgroups that have, or had, processes, and those of containers: what a process of a moment
    /// did in one must find it known.
    fn states(&self, now: Instant) -> BTreeMap<CgroupId, CgroupState> {
        let host = self.namespaces.host();
        let believed = |seen: &Seen, netns: NetnsId| {
            Some(netns) != host
                || !seen.name.is_known()
                || now.duration_since(seen.since) >= HOST_BELIEVED
        };
        let state = |(id, seen): (&CgroupId, &Seen)| {
            let told = seen.netns.is_some() || seen.name.container_id.is_some();
            let state = || CgroupState {
                path: seen.path.clone(),
                pod_uid: seen.name.pod_uid.clone(),
                container_id: seen.name.container_id.clone(),
                netns: seen.netns.filter(|netns| believed(seen, *netns)),
            };
            told.then(|| (*id, state()))
        };
        self.cgroups.iter().filter_map(state).collect()
    }
}

fn walk(tree: &mut Tree, mount: Option<&Mount>, refused: &mut Refused) -> Walk {
    let Some(Mount { path: root, .. }) = mount else {
        return Walk::default();
    };
    let walk = tree.walk(root).unwrap_or_else(|error| {
        let text = format!(
            "{}: {error}: containers cannot be told apart. Let the agent read it",
            root.display()
        );
        refused.source("cgroups", text);
        Walk::default()
    });
    if walk.cut {
        let text = format!(
            "{} has more cgroups than are looked at: connections of the rest are known by network namespace only",
            root.display()
        );
        refused.source("cgroups", text);
    }
    walk
}

fn limits(unified: Option<&Mount>, legacy: Option<&Mount>) -> Vec<String> {
    match (unified, legacy) {
        (None, Some(_)) => vec!["no cgroup v2 hierarchy is mounted: whose socket it is, is known by network namespace and user only, not by container. Mount it (mount -t cgroup2 none /sys/fs/cgroup/unified)".to_owned()],
        (Some(mount), _) if !mount.whole => vec![format!("{} shows only a part of the cgroup hierarchy: containers outside of it are not known. Mount the host's /sys/fs/cgroup into the agent's container", mount.path.display())],
        _ => Vec::new(),
    }
}
