//! Network namespaces of the node: by process, by name, and their addresses.
//!
//! A namespace has no name of its own: it is known by what shows it (a process inside, a
//! file it is kept under, a cgroup whose processes are inside), and forgotten when nothing
//! does. It must never be kept alive from here: nothing of it stays open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    addresses, enter,
    names::Names,
    refused::Refused,
    scanner::{Look, Paths},
    snapshot::NetnsState,
};
use crate::model::NetnsId;

/// The namespaces found.
#[derive(Debug)]
pub(super) struct Namespaces {
    paths: Paths,
    names: Names,
    seen: BTreeMap<NetnsId, Seen>,
    host: Option<NetnsId>,
}

#[derive(Debug)]
struct Seen {
    names: BTreeSet<PathBuf>,
    /// A process that is in it.
    pid: Option<u32>,
    found: addresses::Found,
    since: Instant,
    round: u64,
}

impl Namespaces {
    pub(super) fn new(paths: Paths) -> Self {
        Self {
            paths,
            names: Names::default(),
            seen: BTreeMap::new(),
            host: None,
        }
    }

    /// The node's own namespace, once it was found.
    pub(super) const fn host(&self) -> Option<NetnsId> {
        self.host
    }

    /// Since when each is there.
    pub(super) fn ages(&self) -> impl Iterator<Item = Instant> {
        self.seen.values().map(|seen| seen.since)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NetnsId> {
        self.seen.keys().copied()
    }

    /// A process is in it.
    pub(super) fn see_process(&mut self, netns: NetnsId, pid: u32, look: Look) {
        self.see(netns, look).pid = Some(pid);
    }

    /// Something known refers to it.
    pub(super) fn refer(&mut self, netns: NetnsId, look: Look) {
        if let Some(seen) = self.seen.get_mut(&netns) {
            seen.round = look.round;
        }
    }

    /// Finds what has a name, the node's own, and (looking closely, or if the only process
    /// known in one is gone) what any process is in; then forgets what nothing shows any more.
    pub(super) fn scan(&mut self, look: Look, refused: &mut Refused) {
        self.scan_names(look);
        if self.forget_processes(look) || look.closely {
            self.scan_processes(look, refused);
        }
        self.find_host(look, refused);
        self.seen.retain(|_, seen| seen.round == look.round);
        self.read_addresses(look, refused);
    }

    /// All but the node's own, with a file through which each can be entered.
    pub(super) fn places(&self) -> Vec<(NetnsId, PathBuf)> {
        let mut all = self.places_and_node();
        all.retain(|(netns, _)| Some(*netns) != self.host);
        all
    }

    /// All, the node's own first.
    pub(super) fn places_and_node(&self) -> Vec<(NetnsId, PathBuf)> {
        let all = self.seen.iter();
        let place = |(netns, seen): (&NetnsId, &Seen)| {
            let path = match seen.place(&self.paths.proc) {
                // Found by process 1 or the agent itself, whichever can be looked at.
                None if Some(*netns) == self.host => enter::ns_file(&self.paths.proc, 1),
                place => place?,
            };
            Some((*netns, path))
        };
        let mut all: Vec<_> = all.filter_map(place).collect();
        all.sort_by_key(|(netns, _)| Some(*netns) != self.host);
        all
    }

    pub(super) fn states(&self) -> BTreeMap<NetnsId, NetnsState> {
        let state = |(netns, seen): (&NetnsId, &Seen)| {
            let names = seen.names.iter().map(|path| path.display().to_string());
            let state = NetnsState {
                paths: names.collect(),
                addresses: seen.found.addresses.clone(),
                interfaces: seen.found.interfaces.clone(),
                host: Some(*netns) == self.host,
            };
            (*netns, state)
        };
        self.seen.iter().map(state).collect()
    }

    fn see(&mut self, netns: NetnsId, look: Look) -> &mut Seen {
        let seen = self.seen.entry(netns).or_insert_with(|| Seen {
            names: BTreeSet::new(),
            pid: None,
            found: addresses::Found::default(),
            since: look.now,
            round: look.round,
        });
        seen.round = look.round;
        seen
    }

    fn scan_names(&mut self, look: Look) {
        for seen in self.seen.values_mut() {
            seen.names.clear();
        }
        self.names.look(&self.paths, look.closely);
        let found: Vec<_> = self
            .names
            .found()
            .map(|(n, path)| (n, path.to_owned()))
            .collect();
        for (netns, path) in found {
            self.see(netns, look).names.insert(path);
        }
    }

    /// Checks the processes that stand for namespaces; whether one of them is gone of which
    /// nothing else is known (another process may still be inside).
    fn forget_processes(&mut self, look: Look) -> bool {
        let mut lost = false;
        for (netns, seen) in &mut self.seen {
            let Some(pid) = seen.pid else {
                continue;
            };
            // A name stands for it as well, and is surer.
            if !seen.names.is_empty() && !look.closely {
                continue;
            }
            if enter::of_process(&self.paths.proc, pid).is_ok_and(|found| found == *netns) {
                seen.round = look.round;
            } else {
                seen.pid = None;
                lost |= seen.names.is_empty();
            }
        }
        lost
    }

    fn scan_processes(&mut self, look: Look, refused: &mut Refused) {
        let entries = match fs::read_dir(&self.paths.proc) {
            Ok(entries) => entries,
            Err(error) => {
                let proc = self.paths.proc.display();
                let text = format!("{proc}: {error}: processes cannot be seen. Mount procfs");
                refused.source("proc", text);
                return;
            }
        };
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        for pid in entries.flatten().filter_map(number) {
            match enter::of_process(&self.paths.proc, pid) {
                Ok(netns) => {
                    self.see(netns, look).pid.get_or_insert(pid);
                }
                Err(error) => refused.link(&error),
            }
        }
    }

    /// That of process 1, else the agent's.
    fn find_host(&mut self, look: Look, refused: &mut Refused) {
        let first = enter::of_process(&self.paths.proc, 1);
        let netns = first.or_else(|error| {
            let text = format!(
                "/proc/1/ns/net: {error}: the agent's own network namespace is taken for the node's. Run the agent as root in the host's pid namespace (hostPID: true)"
            );
            refused.source("host-netns", text);
            enter::of_process(&self.paths.proc, std::process::id())
        });
        self.host = netns.ok();
        if let Some(netns) = self.host {
            self.see(netns, look);
        }
    }

    fn read_addresses(&mut self, look: Look, refused: &mut Refused) {
        let proc = &self.paths.proc;
        let mut apart = Vec::new();
        for (netns, seen) in &mut self.seen {
            if !(look.closely || look.is_young(seen.since)) {
                continue;
            }
            match seen.pid {
                Some(pid) => seen.read_by_process(*netns, pid, proc),
                None => apart.extend(seen.place(proc).map(|place| (*netns, place))),
            }
        }
        for (netns, found) in enter::visit(&apart, |_| addresses::read(Path::new(HERE))) {
            match (found, self.seen.get_mut(&netns)) {
                (Ok(found), Some(seen)) => seen.found = found,
                (Err(error), _) if error.kind() != io::ErrorKind::NotFound => {
                    refused.source("netns", not_entered(&error));
                }
                _ => {}
            }
        }
    }
}

/// The directory of the calling thread's namespace.
const HERE: &str = "/proc/thread-self/net";

/// What it means that a namespace cannot be entered.
pub(super) fn not_entered(error: &io::Error) -> String {
    format!(
        "network namespaces cannot be entered ({error}): accept queues, and addresses where no process runs, are not known. Give the agent CAP_SYS_ADMIN"
    )
}

impl Seen {
    fn place(&self, proc: &Path) -> Option<PathBuf> {
        let named = self.names.first().cloned();
        named.or_else(|| Some(enter::ns_file(proc, self.pid?)))
    }

    fn read_by_process(&mut self, netns: NetnsId, pid: u32, proc: &Path) {
        let found = addresses::read(&proc.join(pid.to_string()).join("net"));
        // Its number may be another process's by now.
        let same = enter::of_process(proc, pid).is_ok_and(|now| now == netns);
        if let (Ok(found), true) = (found, same) {
            self.found = found;
        }
    }
}
