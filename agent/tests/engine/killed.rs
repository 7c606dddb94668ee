//! A proxy that the kernel killed for want of memory, beside those that ended otherwise.

use sidestep::{
    engine::{Change, Code, Confidence, Input, Inquiry},
    model::{Arrival, MemoryUse, Pod},
};

use crate::kit::*;

const MIB: u64 = 1 << 20;

fn memory(container_id: Option<&str>, kills: u64) -> MemoryUse {
    MemoryUse {
        container_id: container_id.map(str::to_owned),
        kills,
        used: MIB,
        peak: container_id.map(|_| 128 * MIB),
        limit: container_id.map(|_| 128 * MIB),
    }
}

/// The pod, its app, and its proxy if that is there: how many were killed of each.
fn read(pod: u64, app: u64, proxy: Option<u64>) -> Vec<MemoryUse> {
    let mut all = vec![memory(None, pod), memory(Some("c-app"), app)];
    all.extend(proxy.map(|kills| memory(Some("c-proxy"), kills)));
    all
}

/// Answers if somebody asks for memory.
fn answer(node: &mut Node, uses: Vec<MemoryUse>) -> bool {
    let mut asked = std::iter::from_fn(|| node.engine.next_inquiry());
    let Some(cgroup) = asked.find_map(|one| match one {
        Inquiry::Memory(cgroup) => Some(cgroup),
        _ => None,
    }) else {
        return false;
    };
    node.give(Input::Memory { cgroup, uses });
    true
}

/// A node on which all is well, whose memory was read; then nobody listens, and it is read again.
fn deserted(before: Vec<MemoryUse>, now: Vec<MemoryUse>) -> Node {
    let mut node = Node::running();
    node.give(Input::Memory {
        cgroup: PROXY,
        uses: before,
    });
    node.pass(5.0);
    node.listeners(&["0.0.0.0:8080"]);
    assert!(!answer(&mut node, vec![]), "nothing is wrong yet");
    refuse(&mut node);
    assert!(answer(&mut node, now));
    refuse(&mut node);
    node.pass(1.0);
    node
}

fn refuse(node: &mut Node) {
    let to = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.edge(to, refused(4));
}

#[test]
fn a_proxy_killed_for_memory_is_the_root_before_any_status() {
    let mut node = deserted(read(2, 2, Some(0)), read(3, 2, Some(1)));
    let finding = node.only(Code::SidecarNotReady);
    assert_eq!(node.told(), [Code::SidecarNotReady]);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.connections, 8);
    let facts = facts(&finding);
    for fact in ["1 process killed by the kernel", "128 MiB, at most 128 MiB"] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    assert!(finding.remedy.contains("now 128 MiB"), "{}", finding.remedy);
    // Whatever else changes about the pod, its proxy is still gone.
    let mut pod: Pod = meshed();
    pod.labels.insert("version".into(), "2".into());
    node.change(Change::Pod(Box::new(pod)));
    assert_eq!(node.open(), [Code::SidecarNotReady]);
    // It is back, and ends again for another reason.
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006", "0.0.0.0:8080"]);
    let to = out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT));
    node.edge(to, established(3));
    assert_eq!(node.open(), []);
    node.listeners(&["0.0.0.0:8080"]);
    refuse(&mut node);
    answer(&mut node, read(3, 2, Some(1)));
    refuse(&mut node);
    node.pass(2.0);
    node.only(Code::StuckNoListener);
}

#[test]
fn a_container_that_is_gone_leaves_its_count_with_the_pod() {
    let mut node = deserted(read(0, 0, Some(0)), read(1, 0, None));
    let found = facts(&node.only(Code::SidecarNotReady));
    assert!(
        found.contains("of a container that is gone killed"),
        "{found}"
    );
    // A new one of the same name in its place.
    let mut pod: Pod = meshed();
    for container in &mut pod.containers {
        if container.name == "istio-proxy" {
            container.id = Some("c-proxy-2".to_owned());
        }
    }
    node.change(Change::Pod(Box::new(pod)));
    let found = facts(&node.only(Code::SidecarNotReady));
    assert!(found.contains("new_container: 1 since"), "{found}");
}

#[test]
fn what_was_killed_besides_or_before_is_not_why() {
    for (before, now) in [
        // Nothing since.
        (read(1, 0, Some(1)), read(1, 0, Some(1))),
        // The app's, twice.
        (read(0, 0, Some(0)), read(2, 2, Some(0))),
        // The app's while the proxy ended by itself.
        (read(0, 0, Some(0)), read(1, 1, None)),
        // Both are gone: it may have been either.
        (read(0, 0, Some(0)), vec![memory(None, 1)]),
        // Version 1: the pod counts nothing.
        (read(0, 0, Some(0)), read(0, 0, None)),
        // Cannot be read.
        (read(0, 0, Some(0)), vec![]),
        (vec![], read(1, 1, Some(1))),
    ] {
        let text = format!("{before:?} {now:?}");
        let mut node = deserted(before, now);
        assert_eq!(node.open(), [Code::StuckNoListener], "{text}");
    }
}

#[test]
fn nobody_waits_for_an_answer_that_does_not_come() {
    let mut node = Node::running();
    node.pass(5.0);
    node.listeners(&["0.0.0.0:8080"]);
    refuse(&mut node);
    node.pass(2.0);
    assert_eq!(node.open(), [Code::StuckNoListener]);
}
