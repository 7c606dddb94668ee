//! Who is who: late binding, its bounds, and identifiers that are used again.

use sidestep::{
    engine::{Change, Code, Config},
    model::{Arrival, CgroupId, EdgeKey, NetnsId},
};

use crate::kit::*;

fn direct() -> EdgeKey {
    out(APP, 1000, "10.9.0.1:80", Arrival::Nowhere)
}

fn bypassed(node: &mut Node, name: &str) -> u64 {
    let board = node.engine.board();
    board
        .pods
        .iter()
        .find(|p| p.pod.name == name)
        .map_or(0, |p| p.bypassed)
}

fn unattributed(node: &mut Node) -> u64 {
    node.engine
        .board()
        .unattributed
        .iter()
        .map(|l| l.count)
        .sum()
}

#[test]
fn edges_before_their_pod_are_kept_for_it() {
    let mut node = Node::empty();
    node.edge(direct(), established(2));
    node.pass(1.0);
    node.edge(direct(), established(1));
    node.announce();
    node.pass(4.0);
    assert_eq!(
        (bypassed(&mut node, "web-1"), unattributed(&mut node)),
        (3, 0)
    );
    assert_eq!(node.engine.waiting(), 0);
    node.only(Code::BypassNoRules);
}

#[test]
fn what_waited_is_not_given_to_a_pod_with_other_addresses() {
    let mut node = Node::empty();
    let before = EdgeKey {
        local: "10.0.0.77".parse().unwrap(),
        ..direct()
    };
    node.edge(before, established(9));
    node.pass(1.0);
    node.announce();
    node.pass(4.0);
    assert_eq!(
        (bypassed(&mut node, "web-1"), unattributed(&mut node)),
        (0, 9)
    );
    assert_eq!(node.told(), []);
}

#[test]
fn a_namespace_number_alone_does_not_make_a_pod() {
    let mut node = Node::running();
    // The last drain of a namespace without a pod, whose number the pod has by now.
    let mut before = out(CgroupId(0), 0, "10.0.0.99:15021", Arrival::Nowhere);
    before.local = ip("10.0.0.254");
    node.edge(before, established(15));
    node.pass(5.0);
    assert_eq!(
        (bypassed(&mut node, "web-1"), unattributed(&mut node)),
        (0, 15)
    );
    assert_eq!(node.told(), []);
}

#[test]
fn nobody_waits_for_ever() {
    let mut node = Node::empty();
    node.edge(direct(), established(2));
    node.pass(6.0);
    assert_eq!(node.engine.waiting(), 0);
    let board = node.engine.board();
    assert_eq!(board.unattributed[0].at, "netns_unknown");
    assert_eq!(board.unattributed[0].count, 2);
    // Announced, but nobody's.
    node.change(netns(MESHED, &["10.0.0.5"]));
    node.edge(direct(), established(1));
    node.pass(6.0);
    assert_eq!(unattributed(&mut node), 3);
    assert_eq!(node.told(), []);
}

#[test]
fn the_waiting_room_is_bounded() {
    let mut node = Node::with(Config {
        max_unbound: 2,
        ..Config::default()
    });
    for port in 1..=5 {
        node.edge(
            out(APP, 1000, &format!("10.9.0.1:{port}"), Arrival::Nowhere),
            established(1),
        );
    }
    assert_eq!(node.engine.waiting(), 2);
    assert_eq!(unattributed(&mut node), 3);
}

#[test]
fn the_container_is_waited_for() {
    let mut node = Node::running();
    // The proxy restarted in a new cgroup that is not announced yet, under a strange uid.
    let key = out(CgroupId(77), 0, "10.9.0.1:80", Arrival::Nowhere);
    node.edge(key, established(1));
    node.pass(0.5);
    node.change(cgroup(CgroupId(77), "uid-1", "c-proxy", MESHED));
    node.pass(10.0);
    assert_eq!(node.told(), []);
    assert_eq!(bypassed(&mut node, "web-1"), 0);
}

#[test]
fn a_cgroup_that_never_comes_is_not_waited_for_twice() {
    let mut node = Node::running();
    let key = out(CgroupId(77), 1000, "10.9.0.1:80", Arrival::Nowhere);
    node.edge(key, established(1));
    node.pass(3.0);
    assert_eq!(bypassed(&mut node, "web-1"), 1);
    node.edge(key, established(1));
    assert_eq!(node.engine.waiting(), 0);
    assert_eq!(bypassed(&mut node, "web-1"), 2);
}

#[test]
fn a_reused_namespace_belongs_to_its_new_pod() {
    let mut node = Node::running();
    node.edge(direct(), established(1));
    node.change(Change::PodGone(meshed().key));
    // What the last drain tells still belongs to the old one.
    node.edge(direct(), established(1));
    assert_eq!(node.findings()[0].pod, Some(meshed().key));
    node.change(Change::NetnsGone(MESHED));
    for gone in [APP, PROXY, INIT] {
        node.change(Change::CgroupGone(gone));
    }
    let mut next = pod("other", "uid-9", &["10.0.0.5"], meshed().containers);
    for container in &mut next.containers {
        container.id = container.id.as_ref().map(|id| format!("{id}-9"));
    }
    node.change(Change::Pod(Box::new(next)));
    node.change(netns(MESHED, &["10.0.0.5"]));
    node.change(cgroup(APP, "uid-9", "c-app-9", MESHED));
    node.pass(3.0);
    node.edge(direct(), established(5));
    assert_eq!(bypassed(&mut node, "other"), 5);
    let board = node.engine.board();
    let old: u64 = board
        .connections
        .iter()
        .filter(|r| r.pod.name == "web-1")
        .map(|r| r.connections)
        .sum();
    assert_eq!(old, 2);
}

#[test]
fn what_was_counted_before_a_namespace_was_reused_is_the_old_pods() {
    let mut node = Node::running();
    node.change(Change::NetnsGone(MESHED));
    for gone in [APP, PROXY, INIT] {
        node.change(Change::CgroupGone(gone));
    }
    node.change(Change::PodGone(meshed().key));
    let mut next = pod("other", "uid-9", &["10.0.0.5"], meshed().containers);
    for container in &mut next.containers {
        container.id = container.id.as_ref().map(|id| format!("{id}-9"));
    }
    node.change(Change::Pod(Box::new(next)));
    node.change(netns(MESHED, &["10.0.0.5"]));
    node.change(cgroup(CgroupId(901), "uid-9", "c-app-9", MESHED));
    // The drain comes after the new pod: same namespace number, the old pod's cgroup.
    node.edge(direct(), established(7));
    node.pass(5.0);
    assert_eq!(bypassed(&mut node, "other"), 0);
    let board = node.engine.board();
    let old = board.connections.iter().filter(|r| r.pod.name == "web-1");
    assert_eq!(old.map(|r| r.connections).sum::<u64>(), 7);
}

#[test]
fn a_pod_made_again_under_its_name_starts_anew() {
    let mut node = Node::running();
    node.edge(direct(), established(4));
    node.only(Code::BypassNoRules);
    let mut again = meshed();
    again.uid = "uid-1b".into();
    for container in &mut again.containers {
        container.id = container.id.as_ref().map(|id| format!("{id}-b"));
    }
    node.change(Change::Pod(Box::new(again)));
    assert_eq!(node.open(), []);
    node.change(netns(PLAIN, &["10.0.0.5"]));
    node.change(cgroup(CgroupId(21), "uid-1b", "c-app-b", PLAIN));
    let mut key = direct();
    key.owner.netns = PLAIN;
    key.owner.cgroup = CgroupId(21);
    node.pass(4.0);
    node.edge(key, established(1));
    assert_eq!(bypassed(&mut node, "web-1"), 1);
    assert_eq!(node.open(), [Code::BypassNoRules]);
}

#[test]
fn a_pod_is_found_by_path_and_by_address() {
    let mut node = Node::empty();
    let mut by_path = pod("path", "", &[], meshed().containers);
    by_path.netns_path = Some("/run/netns/a".into());
    node.change(Change::Pod(Box::new(by_path)));
    let by_ip = pod("address", "", &["10.0.0.8"], meshed().containers);
    node.change(Change::Pod(Box::new(by_ip)));
    node.change(Change::Netns {
        netns: NetnsId(1),
        paths: vec!["/run/netns/a".into()],
        addresses: vec![ip("10.0.0.8")],
        interfaces: vec![],
        host: false,
    });
    node.change(netns(NetnsId(2), &["10.0.0.8"]));
    node.pass(5.0);
    for (netns, n) in [(1, 3), (2, 4)] {
        let mut key = out(CgroupId(0), 1000, "10.9.0.1:80", Arrival::Nowhere);
        key.owner.netns = NetnsId(netns);
        key.local = ip("10.0.0.8");
        node.edge(key, established(n));
    }
    assert_eq!(
        (bypassed(&mut node, "path"), bypassed(&mut node, "address")),
        (3, 4)
    );
}

#[test]
fn host_network_pods_are_known_by_cgroup_and_judge_nothing() {
    let mut node = Node::running();
    let mut host = pod("node-agent", "uid-h", &["192.168.0.1"], meshed().containers);
    // The mark of a mesh is a finding of its own.
    host.containers.remove(1);
    host.host_network = true;
    host.containers[0].id = Some("c-host".into());
    node.change(Change::Pod(Box::new(host)));
    node.change(Change::Netns {
        netns: NetnsId(1),
        paths: vec![],
        addresses: vec![ip("192.168.0.1")],
        interfaces: vec![],
        host: true,
    });
    node.change(cgroup(CgroupId(50), "uid-h", "c-host", NetnsId(1)));
    let mut key = out(CgroupId(50), 1337, "10.9.0.1:80", Arrival::Nowhere);
    key.owner.netns = NetnsId(1);
    node.edge(key, established(3));
    key.owner.cgroup = CgroupId(51);
    node.edge(key, established(100));
    let board = node.engine.board();
    let counted: u64 = board
        .connections
        .iter()
        .filter(|r| r.pod.name == "node-agent")
        .map(|r| r.connections)
        .sum();
    assert_eq!(counted, 3);
    assert_eq!((unattributed(&mut node), node.told()), (0, vec![]));
}

#[test]
fn connections_of_a_host_network_pod_wait_for_it_to_be_told() {
    let mut node = Node::running();
    node.change(Change::Netns {
        netns: NetnsId(1),
        paths: vec![],
        addresses: vec![ip("192.168.0.1")],
        interfaces: vec![],
        host: true,
    });
    for (id, uid, container) in [(50, "uid-h", "c-host"), (51, "uid-never", "c-never")] {
        node.change(cgroup(CgroupId(id), uid, container, NetnsId(1)));
        let mut key = out(CgroupId(id), 1337, "10.9.0.1:80", Arrival::Nowhere);
        key.owner.netns = NetnsId(1);
        node.edge(key, established(3));
    }
    assert_eq!(node.engine.board().host_connections, 0);
    let mut host = pod("node-agent", "uid-h", &["192.168.0.1"], meshed().containers);
    host.containers.remove(1);
    host.host_network = true;
    host.containers[0].id = Some("c-host".into());
    node.change(Change::Pod(Box::new(host)));
    node.pass(60.0);
    let board = node.engine.board();
    let counted = board
        .connections
        .iter()
        .map(|row| (row.pod.name.as_str(), row.connections));
    assert_eq!(counted.collect::<Vec<_>>(), [("node-agent", 3)]);
    assert_eq!(board.host_connections, 3);
    assert_eq!(unattributed(&mut node), 0);
}

#[test]
fn a_pod_without_a_manifest_is_recognised_by_its_proxys_sockets() {
    let mut node = Node::empty();
    let bare = sidestep::model::Pod {
        key: sidestep::model::PodKey {
            namespace: String::new(),
            name: "netns-a".into(),
        },
        netns_path: Some("/run/netns/a".into()),
        ..pod("", "", &[], vec![])
    };
    node.change(Change::Pod(Box::new(bare)));
    node.change(Change::Netns {
        netns: MESHED,
        paths: vec!["/run/netns/a".into()],
        addresses: vec![ip("10.0.0.5")],
        interfaces: vec![],
        host: false,
    });
    assert_eq!(node.engine.board().pods[0].mesh, None);
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006"]);
    let board = node.engine.board();
    assert_eq!(board.pods[0].mesh.as_deref(), Some("istio-sidecar"));
    assert_eq!(board.pods[0].intent_source.as_deref(), Some("listeners"));
    node.pass(5.0);
    let mut key = direct();
    key.owner.cgroup = CgroupId(0);
    node.edge(key, established(1));
    node.only(Code::BypassNoRules);
}

#[test]
fn loopback_is_everybodys_but_the_other_end_is_not() {
    let mut node = Node::running();
    // What an earlier namespace of that number had redirected: accepted on loopback, from its own address.
    let mut before = into(CgroupId(0), 1337, 15001, "10.0.0.99");
    before.local = ip("127.0.0.1");
    node.edge(before, established(10));
    node.pass(5.0);
    assert_eq!(
        (bypassed(&mut node, "web-1"), unattributed(&mut node)),
        (0, 10)
    );
    // The pod's own are the pod's.
    before.remote = std::net::SocketAddr::new(ip("10.0.0.5"), 0);
    node.edge(before, established(10));
    node.pass(5.0);
    assert_eq!(unattributed(&mut node), 10);
    assert_eq!(node.told(), []);
}
