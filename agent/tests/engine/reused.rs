//! Numbers of network namespaces that the kernel gives out again: nothing of the earlier pod is the next one's.

use sidestep::{
    engine::{Change, Code},
    model::{Arrival, CgroupId, EdgeKey, NetnsId},
};

use crate::{
    kit::*,
    live_rules::{WHOLE, reading_of, whole, with},
};

fn direct() -> EdgeKey {
    out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere)
}

/// The meshed pod ended, and its namespace's number was at once another's: nobody saw it go.
fn taken_over(node: &mut Node) {
    for gone in [APP, PROXY, INIT] {
        node.change(Change::CgroupGone(gone));
    }
    node.change(Change::PodGone(meshed().key));
    node.pass(0.1);
    let mut next = pod("other", "uid-9", &["10.0.0.9"], meshed().containers);
    for container in &mut next.containers {
        container.id = container.id.as_ref().map(|id| format!("{id}-9"));
    }
    node.change(Change::Pod(Box::new(next)));
    node.change(netns(MESHED, &["10.0.0.9"]));
    for (number, name) in [(901, "c-app-9"), (902, "c-proxy-9")] {
        node.change(cgroup(CgroupId(number), "uid-9", name, MESHED));
    }
}

/// A connection of the pod that took over, past its proxy.
fn direct_of_other() -> EdgeKey {
    let mut key = out(CgroupId(901), 1000, "10.9.0.1:80", Arrival::Nowhere);
    key.local = ip("10.0.0.9");
    key
}

#[test]
fn rules_of_the_earlier_pod_are_not_those_of_the_next() {
    // The later pod was known (and the earlier pod's rules read again) before it took over.
    let mut node = with(WHOLE);
    let mut early = pod("other", "uid-9", &["10.0.0.9"], meshed().containers);
    early.containers.clear();
    node.change(Change::Pod(Box::new(early)));
    node.pass(1.0);
    node.give(whole(WHOLE));
    while node.engine.next_wanted_rules().is_some() {}
    taken_over(&mut node);
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    let board = node.engine.board();
    let row = board.rules.iter().find(|row| row.pod.name == "other");
    assert!(row.is_some_and(|row| row.live.is_none() && row.earlier.is_empty()));
    node.pass(4.0);
    node.give(whole("*nat\nCOMMIT\n"));
    node.edge(direct_of_other(), established(1));
    // Not "removed": this pod never had any.
    let open: Vec<_> = node.open();
    assert_eq!(open, [Code::BypassNoRules]);
}

#[test]
fn connections_the_earlier_pod_left_behind_are_not_those_of_the_next() {
    // Nobody has looked at the namespace's addresses since: they are known as the earlier pod's.
    for status in [&["10.0.0.9"][..], &[]] {
        let mut node = Node::running();
        for gone in [APP, PROXY, INIT] {
            node.change(Change::CgroupGone(gone));
        }
        node.change(Change::PodGone(meshed().key));
        let mut next = pod("other", "uid-9", status, meshed().containers);
        for container in &mut next.containers {
            container.id = container.id.as_ref().map(|id| format!("{id}-9"));
        }
        node.change(Change::Pod(Box::new(next)));
        node.change(cgroup(CgroupId(901), "uid-9", "c-app-9", MESHED));
        node.change(cgroup(CgroupId(902), "uid-9", "c-proxy-9", MESHED));
        node.give(whole("*nat\nCOMMIT\n"));
        // Of a control group that was gone before anybody saw it.
        let left = out(CgroupId(77), 1000, "10.9.0.1:80", Arrival::Nowhere);
        node.keep(6, &[delta(left, established(2))]);
        assert_eq!(node.told(), [], "{status:?}");
        // Its own are judged, once the node looked and also before.
        if status.is_empty() {
            node.change(netns(MESHED, &["10.0.0.9"]));
        }
        node.edge(direct_of_other(), established(1));
        node.pass(3.0);
        assert_eq!(node.open(), [Code::BypassNoRules], "{status:?}");
    }
}

#[test]
fn connections_of_a_namespace_that_was_nobodys_are_not_those_of_the_pod_with_its_number() {
    const NUMBER: NetnsId = NetnsId(300);
    let mut node = Node::running();
    node.change(netns(NUMBER, &["10.1.0.254"]));
    let of = |cgroup, address| {
        let mut key = out(cgroup, 1000, "10.9.0.1:80", Arrival::Nowhere);
        (key.owner.netns, key.local) = (NUMBER, ip(address));
        key
    };
    node.edge(of(CgroupId(77), "10.1.0.254"), established(10));
    // Nobody has looked at the namespace's addresses since.
    let mut next = pod("other", "uid-9", &["10.0.0.9"], meshed().containers);
    for container in &mut next.containers {
        container.id = container.id.as_ref().map(|id| format!("{id}-9"));
    }
    node.change(Change::Pod(Box::new(next)));
    node.change(cgroup(CgroupId(901), "uid-9", "c-app-9", NUMBER));
    node.change(cgroup(CgroupId(902), "uid-9", "c-proxy-9", NUMBER));
    node.give(reading_of(NUMBER, &[]));
    node.pass(6.0);
    assert_eq!(node.told(), []);
    node.change(netns(NUMBER, &["10.0.0.9"]));
    node.edge(of(CgroupId(901), "10.0.0.9"), established(1));
    node.pass(3.0);
    assert_eq!(node.open(), [Code::BypassNoRules]);
}

#[test]
fn rules_a_pod_lost_itself_are_removed_rules() {
    let mut node = with(WHOLE);
    node.pass(4.0);
    node.give(whole("*nat\nCOMMIT\n"));
    node.edge(direct(), established(1));
    node.only(Code::BypassRulesRemoved);
}

#[test]
fn listeners_of_the_earlier_pod_are_not_those_of_the_next() {
    let mut node = Node::running();
    taken_over(&mut node);
    assert_eq!(node.engine.next_wanted_queues(), Some(MESHED));
    assert_eq!(node.engine.next_wanted_queues(), None);
    // Its proxy does not run. The earlier pod's listened on that port.
    let mut key = direct_of_other();
    key.arrival = Arrival::Decided(OUT);
    node.queues(vec![queue("0.0.0.0:8080", 0)]);
    node.keep(3, &[delta(key, refused(2))]);
    node.only(Code::StuckNoListener);
}

#[test]
fn rules_read_before_the_pod_was_known_are_asked_for_again() {
    let mut node = Node::empty();
    node.change(netns(MESHED, &["10.0.0.5", "fd00::5"]));
    node.give(whole(WHOLE));
    node.pass(1.0);
    assert_eq!(node.engine.next_wanted_rules(), None);
    node.announce();
    assert_eq!(node.engine.next_wanted_rules(), Some(MESHED));
    let live = |node: &mut Node| node.engine.board().rules[0].live.is_some();
    assert!(!live(&mut node));
    node.give(whole(WHOLE));
    assert!(live(&mut node));
    // The same pod's rules, said twice: nobody asks again.
    node.announce();
    assert_eq!(node.engine.next_wanted_rules(), None);
}
