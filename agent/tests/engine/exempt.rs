//! What is direct and fine, or looks direct and is not.

use sidestep::{
    engine::{Code, Verdict},
    model::{Arrival, CgroupId, EdgeKey, NetnsId, Owner},
};

use crate::kit::*;

#[test]
fn excluded_port_is_information() {
    let mut node = Node::empty();
    node.announce();
    let mut pod = meshed();
    pod.annotations.insert(
        "traffic.sidecar.istio.io/excludeOutboundPorts".into(),
        "9000".into(),
    );
    node.change(sidestep::engine::Change::Pod(Box::new(pod)));
    node.edge(
        out(APP, 1000, "10.9.0.1:9000", Arrival::Nowhere),
        established(3),
    );
    let finding = node.only(Code::BypassExcluded);
    let facts = facts(&finding);
    assert!(facts.contains("excludeOutboundPorts") && facts.contains("10.9.0.1:9000 (3)"));
    assert_eq!(node.engine.board().pods[0].excluded, 3);
    // A mesh port is nobody's choice.
    node.edge(into(APP, 1000, 15020, "10.0.0.1"), established(3));
    assert_eq!(node.open(), [Code::BypassExcluded]);
}

#[test]
fn a_hook_before_netfilter_is_interception() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "127.0.0.1:15001", Arrival::Port(OUT)),
        established(3),
    );
    assert_eq!(node.engine.board().pods[0].intercepted, 3);
}

#[test]
fn waiting_in_the_accept_queue_is_interception() {
    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT)),
        established(3),
    );
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Loopback),
        established(3),
    );
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Unknown),
        established(3),
    );
    node.pass(10.0);
    assert_eq!(node.told(), []);
    let board = node.engine.board();
    assert_eq!(board.pods[0].intercepted, 6);
    let neutral = board
        .interception
        .iter()
        .find(|r| r.verdict == Verdict::Neutral);
    assert_eq!(neutral.unwrap().connections, 3);
}

#[test]
fn pods_without_a_mesh_and_the_host_are_silent() {
    let mut node = Node::running();
    let bare = vec![container(
        "web",
        sidestep::model::ContainerKind::Main,
        "c-plain",
    )];
    node.change(sidestep::engine::Change::Pod(Box::new(pod(
        "plain",
        "uid-2",
        &["10.0.0.6"],
        bare,
    ))));
    node.change(netns(PLAIN, &["10.0.0.6"]));
    node.change(sidestep::engine::Change::Netns {
        netns: NetnsId(1),
        paths: vec![],
        addresses: vec![ip("192.168.0.1")],
        interfaces: vec![],
        host: true,
    });
    let mut plain = out(CgroupId(0), 0, "10.9.0.1:80", Arrival::Nowhere);
    plain.local = ip("10.0.0.6");
    plain.owner = Owner {
        netns: PLAIN,
        ..plain.owner
    };
    let mut host = plain;
    host.owner.netns = NetnsId(1);
    node.keep(
        5,
        &[
            delta(plain, established(2)),
            delta(host, established(2)),
            delta(plain, refused(2)),
        ],
    );
    assert_eq!(node.told(), []);
    let board = node.engine.board();
    assert_eq!(board.unattributed, []);
    assert_eq!(
        board
            .pods
            .iter()
            .find(|p| p.pod.name == "plain")
            .unwrap()
            .failed,
        10
    );
}

/// The meshed pod with a second network that its spec excludes.
fn with_second_network(excluded: &str) -> Node {
    with_interfaces("traffic.sidecar.istio.io/excludeInterfaces", excluded)
}

/// The meshed pod with a second network, of which an annotation speaks.
fn with_interfaces(annotation: &str, names: &str) -> Node {
    let mut node = Node::running();
    let mut pod = crate::kit::meshed();
    pod.annotations
        .insert(annotation.to_owned(), names.to_owned());
    node.change(sidestep::engine::Change::Pod(Box::new(pod)));
    node.change(sidestep::engine::Change::Netns {
        netns: crate::kit::MESHED,
        paths: vec![],
        addresses: vec![ip("10.0.0.5"), ip("192.168.77.1")],
        interfaces: vec![
            (ip("10.0.0.5"), "eth0".to_owned()),
            (ip("192.168.77.1"), "net1".to_owned()),
        ],
        host: false,
    });
    node
}

#[test]
fn an_excluded_interface_is_left_alone_both_ways() {
    for excluded in ["net1", "net0,net+"] {
        let mut node = with_second_network(excluded);
        let mut direct = out(APP, 1000, "192.168.77.2:80", Arrival::Nowhere);
        direct.local = ip("192.168.77.1");
        let mut inside = crate::kit::into(APP, 1000, 8080, "192.168.77.2");
        inside.local = ip("192.168.77.1");
        node.keep(
            9,
            &[delta(direct, established(2)), delta(inside, established(2))],
        );
        let finding = node.only(Code::BypassExcluded);
        let facts = facts(&finding);
        assert!(facts.contains("excludeInterfaces"), "{facts}");
        assert_eq!(node.engine.board().pods[0].bypassed, 0);
    }
}

#[test]
fn an_excluded_interface_excuses_no_other() {
    let mut node = with_second_network("net1");
    let direct = out(APP, 1000, "192.168.77.2:80", Arrival::Nowhere);
    node.keep(9, &[delta(direct, established(2))]);
    assert!(!node.told().contains(&Code::BypassExcluded));
    assert_eq!(node.engine.board().pods[0].bypassed, 18);
}

/// A connection of a virtual machine behind the second network.
fn of_the_machine(cgroup: CgroupId, uid: u32, port: u16) -> EdgeKey {
    let mut inside = crate::kit::into(cgroup, uid, port, "192.168.77.2");
    inside.local = ip("192.168.77.1");
    inside
}

#[test]
fn what_a_virtual_machine_sends_is_captured_where_the_pods_own_is() {
    for annotation in [
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        "istio.io/reroute-virtual-interfaces",
    ] {
        let mut node = with_interfaces(annotation, "net1");
        let taken = of_the_machine(PROXY, PROXY_UID, 15001);
        node.keep(9, &[delta(taken, established(2))]);
        assert_eq!(node.told(), [], "{annotation}");
        let board = node.engine.board();
        assert_eq!((board.pods[0].intercepted, board.pods[0].bypassed), (18, 0));
        let let_in = of_the_machine(APP, 1000, 8080);
        node.keep(9, &[delta(let_in, established(2))]);
        node.only(Code::BypassInboundDirect);
    }
    // Without it the port for outbound connections is the proxy's own business.
    let mut node = with_interfaces("traffic.sidecar.istio.io/excludeInterfaces", "net2");
    let taken = of_the_machine(PROXY, PROXY_UID, 15001);
    node.keep(9, &[delta(taken, established(2))]);
    assert_eq!(node.engine.board().pods[0].intercepted, 0);
}
