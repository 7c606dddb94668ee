//! Proxies that dial the app from the address of the peer: by TPROXY, and the node's own. Whether a
//! peer reached the app itself is told by where the other socket is, and only if the rules agree.

use sidestep::{
    engine::Code,
    model::{Arrival, CgroupId, EdgeKey, NetnsId},
};

use crate::kit::{APP, IN, Node, PROXY, delta, established, into, ip, meshed, out, queue};
use crate::live_rules::{WHOLE, reading_of, whole, without};

pub(crate) const PEER: &str = "10.0.0.9";
pub(crate) const TPROXY: &str = "*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff
COMMIT
";

/// The meshed pod captures inbound by TPROXY.
fn by_tproxy(node: &mut Node) {
    let mut pod = meshed();
    let mode = "sidecar.istio.io/interceptionMode".to_owned();
    pod.annotations.insert(mode, "TPROXY".to_owned());
    node.change(sidestep::engine::Change::Pod(Box::new(pod)));
}

/// The meshed pod captures inbound by TPROXY, under these rules.
pub(crate) fn transparent(rules: &str) -> Node {
    let mut node = Node::running();
    by_tproxy(&mut node);
    node.give(whole(rules));
    node
}

pub(crate) fn outbound_only() -> String {
    without("-A PREROUTING -p tcp -j ISTIO_INBOUND")
}

/// The proxy takes what peers send to the app's port; the app accepts what the proxy dials.
fn through_the_proxy() -> [EdgeKey; 2] {
    let mut inside = into(APP, 1000, 8080, PEER);
    inside.arrival = Arrival::Loopback;
    [into(PROXY, 0, 8080, PEER), inside]
}

#[test]
fn the_proxys_own_socket_is_no_peer() {
    let mut node = transparent(&(outbound_only() + TPROXY));
    let both = through_the_proxy().map(|key| delta(key, established(4)));
    node.keep(5, &both);
    node.pass(10.0);
    assert_eq!(node.told(), []);
    let pod = &node.engine.board().pods[0];
    assert_eq!((pod.intercepted, pod.bypassed), (20, 0));
}

#[test]
fn a_peer_past_rules_that_do_not_capture_it_is_told() {
    let mut node = transparent(&outbound_only());
    node.keep(5, &[delta(into(APP, 1000, 8080, PEER), established(4))]);
    node.only(Code::BypassInboundDirect);
}

#[test]
fn a_socket_that_was_missed_is_not_told() {
    // The rules capture it: what looks like a peer's is the proxy's, and its socket was not seen.
    let mut node = transparent(&(outbound_only() + TPROXY));
    node.keep(5, &[delta(into(APP, 1000, 8080, PEER), established(4))]);
    node.pass(10.0);
    assert_eq!(node.told(), []);
    assert_eq!(node.engine.board().pods[0].bypassed, 0);
}

#[test]
fn nothing_is_told_where_rules_are_not_known() {
    let mut node = Node::running();
    by_tproxy(&mut node);
    node.keep(9, &[delta(into(APP, 1000, 8080, PEER), established(4))]);
    node.pass(10.0);
    assert_eq!(node.told(), []);
}

#[test]
fn who_may_be_the_proxy_is_kept_until_the_rules_are_read() {
    let mut node = Node::running();
    // Rules can be read here; those of this pod are still to come.
    node.give(reading_of(NetnsId(99), &[]));
    by_tproxy(&mut node);
    node.keep(2, &[delta(into(APP, 1000, 8080, PEER), established(4))]);
    node.pass(5.0);
    node.give(whole(&outbound_only()));
    node.only(Code::BypassInboundDirect);
}

#[test]
fn without_a_kept_address_a_peer_needs_no_rules_to_be_told() {
    let mut node = Node::running();
    for _ in 0..9 {
        node.give(whole(WHOLE));
        node.keep(1, &[delta(into(APP, 1000, 8080, PEER), established(4))]);
    }
    assert_eq!(node.told(), [Code::BypassUnknown]);
}

#[test]
fn a_queue_is_served_by_accepts_on_any_port() {
    // Somebody waits at every look, and the proxy accepts all the time: from its own queue.
    let mut node = transparent(&(outbound_only() + TPROXY));
    let [captured, inside] = through_the_proxy();
    for _ in 0..20 {
        let mut accepted = delta(captured, established(8));
        accepted.duration.buckets[7] = 8;
        node.edges(vec![accepted, delta(inside, established(8))]);
        node.queues(vec![
            queue("0.0.0.0:15001", 0),
            queue(&format!("0.0.0.0:{IN}"), 1),
            queue("0.0.0.0:8080", 0),
        ]);
        node.pass(1.0);
    }
    assert_eq!(node.told(), []);
}

#[test]
fn from_another_address_to_another_pod_is_not_its_connection() {
    // The number of its namespace was another's before, whose connections are told late.
    let mut node = transparent(&(outbound_only() + TPROXY));
    let mut key = out(CgroupId(77), 0, "10.9.0.1:8080", Arrival::Nowhere);
    key.local = ip("10.9.0.7");
    node.keep(5, &[delta(key, established(4))]);
    node.pass(10.0);
    assert_eq!(node.told(), []);
    let board = node.engine.board();
    assert_eq!(board.pods[0].bypassed, 0);
    assert_eq!(board.unattributed[0].at, "not_its_address");
    // The proxy dials its own app from wherever a peer is.
    let mut dials = out(PROXY, 0, "10.0.0.5:8080", Arrival::Nowhere);
    dials.local = ip("10.9.0.7");
    node.edge(dials, established(4));
    node.pass(5.0);
    assert_eq!(node.engine.board().unattributed[0].count, 20);
}
