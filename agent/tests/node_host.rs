//! The node's own identity on a real kernel: network namespaces, cgroups, accept queues.
//! Needs root; whatever it makes is called `ss-node-…` and taken away again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is the test's failure"
)]

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use sidestep::{
    engine::{Change, Input},
    node::{self, Paths, Scanner},
};
use tokio::sync::mpsc;

#[path = "node_host/pod.rs"]
mod pod;

use pod::{Pod, UID, run, unified};

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: making namespaces and cgroups needs root");
    }
    root
}

/// Scans until a change is the one wanted.
fn scan_for<T>(scanner: &mut Scanner, wanted: impl Fn(&Change) -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let changes = scanner.scan(Instant::now(), false);
        if let Some(found) = changes.iter().find_map(&wanted) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not found in 10 s");
}

#[test]
fn a_pod_is_known_by_its_namespace_its_cgroup_and_its_addresses() {
    if !is_root() {
        return;
    }
    let mut pod = Pod::new("scan");
    let netns = pod.netns();
    let mut scanner = Scanner::new(Paths::default());
    let named = |change: &Change| match change {
        Change::Netns {
            netns: id,
            paths,
            host,
            addresses,
            ..
        } if *id == netns => Some((paths.clone(), *host, addresses.clone())),
        _ => None,
    };
    // Known by its name alone, without a process, and its addresses as soon as it has some.
    assert_eq!(
        scan_for(&mut scanner, named),
        (vec![pod.path()], false, vec![])
    );
    pod.addresses();
    let expected: Vec<IpAddr> = vec!["10.77.1.5".parse().unwrap(), "fd77::5".parse().unwrap()];
    assert_eq!(scan_for(&mut scanner, named).2, expected);
    pod.start("sleep 1000");
    if let Some(dir) = &pod.cgroup {
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir).unwrap());
        let id = pod.container_id();
        let cgroup = scan_for(&mut scanner, |change| match change {
            Change::Cgroup {
                cgroup,
                pod_uid,
                container_id,
                netns: Some(found),
                ..
            } if container_id.as_ref() == Some(&id) && *found == netns => {
                assert_eq!(pod_uid.as_deref(), Some(UID));
                Some(*cgroup)
            }
            _ => None,
        });
        assert_eq!(cgroup.0, inode);
    }
    let again = scanner.scan(Instant::now(), false);
    let ours = again.iter().filter(|change| named(change).is_some());
    assert_eq!(ours.count(), 0, "nothing changed");
    drop(pod);
    let gone = |change: &Change| (*change == Change::NetnsGone(netns)).then_some(());
    scan_for(&mut scanner, gone);
}

/// A container of a runtime that makes cgroups only in v1: on a hybrid node and on one
/// without v2 (a mount table that shows none), its namespace is known all the same.
#[test]
fn a_cgroup_of_v1_gives_the_namespace_its_pod() {
    let hierarchy = PathBuf::from("/sys/fs/cgroup/pids");
    if !is_root() || !hierarchy.join("cgroup.procs").exists() {
        eprintln!("skipped: needs root and a v1 hierarchy of the pids controller");
        return;
    }
    let mut pod = Pod::new("legacy");
    let below = format!(
        "{}-kubepods/burstable/pod{UID}/{}",
        pod.name,
        pod.container_id()
    );
    let dir = hierarchy.join(below);
    fs::create_dir_all(&dir).unwrap();
    pod.cgroup = Some(dir.clone());
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec ip netns exec {} sleep 1000",
        dir.display(),
        pod.name
    );
    pod.processes
        .push(Command::new("sh").args(["-c", &script]).spawn().unwrap());
    let proc = tempfile::tempdir().unwrap();
    fs::create_dir_all(proc.path().join("self/ns")).unwrap();
    let link = std::os::unix::fs::symlink::<PathBuf, PathBuf>;
    for pid in [1, pod.processes[0].id()] {
        link(
            format!("/proc/{pid}").into(),
            proc.path().join(pid.to_string()),
        )
        .unwrap();
    }
    link("/proc/self/ns/net".into(), proc.path().join("self/ns/net")).unwrap();
    let table = "39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    fs::write(proc.path().join("self/mountinfo"), table).unwrap();
    let only_v1 = Paths {
        proc: proc.path().to_owned(),
        named: vec![],
    };
    let (netns, id) = (pod.netns(), pod.container_id());
    for (paths, limited) in [(Paths::default(), unified().is_none()), (only_v1, true)] {
        let mut scanner = Scanner::new(paths);
        let cgroup = scan_for(&mut scanner, |change| match change {
            Change::Cgroup {
                cgroup,
                pod_uid,
                container_id,
                netns: Some(found),
                ..
            } if container_id.as_ref() == Some(&id) && *found == netns => {
                assert_eq!(pod_uid.as_deref(), Some(UID));
                Some(*cgroup)
            }
            _ => None,
        });
        // No id that the kernel could report.
        assert!(cgroup.0 >> 63 == 1, "{cgroup:?}");
        assert_eq!(!scanner.limits().is_empty(), limited);
    }
}

#[test]
fn a_pod_that_lives_for_a_moment_is_told() {
    if !is_root() || unified().is_none() {
        eprintln!("skipped: needs root and a v2 hierarchy");
        return;
    }
    let (sender, mut inputs) = mpsc::channel(4096);
    let handle = node::spawn(node::Options::default(), sender).unwrap();
    wait_for(&mut inputs, |input| {
        matches!(input, Input::Change(Change::Netns { host: true, .. })).then_some(())
    });
    let mut pod = Pod::new("short");
    let (netns, id) = (pod.netns(), pod.container_id());
    pod.start("sleep 0.5");
    pod.processes[0].wait().unwrap();
    drop(pod);
    wait_for(&mut inputs, |input| match input {
        Input::Change(Change::Cgroup {
            container_id,
            netns: Some(found),
            ..
        }) => (container_id.as_ref() == Some(&id) && *found == netns).then_some(()),
        _ => None,
    });
    wait_for(&mut inputs, |input| {
        (*input == Input::Change(Change::NetnsGone(netns))).then_some(())
    });
    drop(handle);
}

#[test]
fn a_container_is_known_after_its_only_process_ended_unseen() {
    if !is_root() || unified().is_none() {
        eprintln!("skipped: needs root and a v2 hierarchy");
        return;
    }
    let mut pod = Pod::new("ended");
    let id = pod.container_id();
    pod.start("true");
    pod.processes[0].wait().unwrap();
    let mut scanner = Scanner::new(Paths::default());
    scan_for(&mut scanner, |change| match change {
        Change::Cgroup {
            container_id,
            netns: None,
            ..
        } => (container_id.as_ref() == Some(&id)).then_some(()),
        _ => None,
    });
}

#[test]
fn a_namespace_is_not_kept_alive_by_looking_at_it() {
    if !is_root() {
        return;
    }
    let pod = Pod::new("alive");
    let (netns, name) = (pod.netns(), pod.name.clone());
    run(&format!("ip link add {name}a type veth peer name {name}b").replace("ss-node-alive", "ss"));
    let peer = format!("{name}b").replace("ss-node-alive", "ss");
    run(&format!("ip link set {peer} netns {name}"));
    let (sender, mut inputs) = mpsc::channel(4096);
    let handle = node::spawn(node::Options::default(), sender).unwrap();
    wait_for(&mut inputs, |input| {
        matches!(input, Input::Change(Change::Netns { netns: id, .. }) if *id == netns)
            .then_some(())
    });
    // Long enough for several rounds of samples.
    std::thread::sleep(Duration::from_millis(2500));
    drop(pod);
    // The kernel takes the namespace apart in its own time; its interfaces go with it.
    let until = Instant::now() + Duration::from_secs(5);
    let near = format!(
        "/sys/class/net/{}",
        format!("{name}a").replace("ss-node-alive", "ss")
    );
    while fs::metadata(&near).is_ok() {
        assert!(Instant::now() < until, "the namespace is still alive");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(handle);
}

fn wait_for<T>(inputs: &mut mpsc::Receiver<Input>, wanted: impl Fn(&Input) -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        match inputs.try_recv() {
            Ok(input) => {
                if let Some(found) = wanted(&input) {
                    return found;
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("not told in 10 s");
}

#[test]
fn a_new_pod_and_its_queues_are_told() {
    if !is_root() {
        return;
    }
    let (sender, mut inputs) = mpsc::channel(4096);
    let handle = node::spawn(node::Options::default(), sender).unwrap();
    wait_for(&mut inputs, |input| {
        matches!(input, Input::Change(Change::Netns { host: true, .. })).then_some(())
    });
    let mut pod = Pod::new("new");
    let netns = pod.netns();
    // A server that never accepts, and two clients.
    let server = "import socket,time; s=socket.socket(); s.bind(('0.0.0.0',15001)); s.listen(5); \
        a=socket.create_connection(('127.0.0.1',15001)); b=socket.create_connection(('127.0.0.1',15001)); \
        six=socket.create_server(('::',8080),family=socket.AF_INET6,dualstack_ipv6=True); time.sleep(1000)";
    fs::write(format!("/tmp/{}.py", pod.name), server).unwrap();
    let started = Instant::now();
    pod.start(&format!("python3 /tmp/{}.py", pod.name));
    if pod.cgroup.is_some() {
        let id = pod.container_id();
        wait_for(&mut inputs, |input| match input {
            Input::Change(Change::Cgroup {
                container_id,
                netns: Some(found),
                ..
            }) => (container_id.as_ref() == Some(&id) && *found == netns).then_some(()),
            _ => None,
        });
        println!(
            "cgroup told {} ms after the start",
            started.elapsed().as_millis()
        );
    }
    let queues = wait_for(&mut inputs, |input| match input {
        Input::Queues {
            netns: id, queues, ..
        } if *id == netns && queues.len() == 2 => Some(queues.clone()),
        _ => None,
    });
    println!(
        "queues told {} ms after the start",
        started.elapsed().as_millis()
    );
    let full = queues
        .iter()
        .find(|queue| queue.listener.port == 15001)
        .unwrap();
    assert_eq!((full.length, full.max, full.uid), (2, 5, 0));
    assert!(!full.listener.dual_stack && full.listener.addr.is_unspecified());
    let six = queues
        .iter()
        .find(|queue| queue.listener.port == 8080)
        .unwrap();
    assert!(six.listener.dual_stack && six.listener.addr.is_ipv6());
    fs::remove_file(format!("/tmp/{}.py", pod.name)).unwrap();
    drop(handle);
}
