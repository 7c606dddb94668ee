//! Connections that rules give to the proxy as they are (TPROXY), and nobody takes; and a proxy that speaks in the
//! peer's name and does not hear its app. Each beside its healthy twin.

use sidestep::{
    engine::{Change, Code, Confidence, Input, Inquiry},
    model::{
        AgentStats, Arrival, CgroupId, ContainerKind, Counts, Direction, EdgeKey, LostPackets,
        MarkedEnds, MarkedWay, NetnsId, Part,
    },
};

use crate::{
    kept_source::{PEER, TPROXY, outbound_only, transparent},
    kit::*,
    lost::stalled,
};

const PEERS: NetnsId = NetnsId(300);
const NOBODY: [&str; 2] = ["0.0.0.0:15001", "0.0.0.0:8080"];

fn given() -> Node {
    transparent(&(outbound_only() + TPROXY))
}

/// A pod in no mesh on the same node, which dials the meshed one.
fn peer(node: &mut Node) -> EdgeKey {
    let app = vec![container("curl", ContainerKind::Main, "c-curl")];
    let pod = pod("curl-1", "uid-3", &[PEER], app);
    node.change(Change::Pod(Box::new(pod)));
    node.change(netns(PEERS, &[PEER]));
    node.change(cgroup(CgroupId(31), "uid-3", "c-curl", PEERS));
    EdgeKey {
        owner: owner(PEERS, CgroupId(31), 0),
        local: ip(PEER),
        ..out(APP, 0, "10.0.0.5:8080", Arrival::Nowhere)
    }
}

fn timed_out(n: u64) -> Counts {
    Counts {
        timed_out: n,
        ..Counts::default()
    }
}

#[test]
fn a_peer_of_this_node_is_not_answered_because_nobody_takes_what_is_given() {
    let mut node = given();
    node.listeners(&NOBODY);
    let dials = peer(&mut node);
    node.signal(stalled(dials, 1));
    node.pass(1.5);
    let finding = node.only(Code::StuckNoListener);
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.direction, Some(Direction::Inbound));
    let facts = facts(&finding);
    assert!(facts.contains("--on-port 15006"), "{facts}");
    assert!(facts.contains("port 15006: nobody"), "{facts}");
    node.edge(dials, timed_out(4));
    assert_eq!(node.only(Code::StuckNoListener).connections, 4);
    // The proxy is back.
    node.listeners(&["0.0.0.0:15001", "0.0.0.0:15006", "0.0.0.0:8080"]);
    node.edge(into(PROXY, 0, 8080, PEER), established(1));
    assert_eq!(node.open(), []);
}

#[test]
fn who_listens_there_is_not_blamed_for_silence() {
    let mut node = given();
    let dials = peer(&mut node);
    node.signal(stalled(dials, 1));
    node.signal(stalled(dials, 2));
    node.pass(5.0);
    node.edge(dials, timed_out(4));
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

fn dropped(reason: &str) -> Input {
    Input::LostPackets(vec![LostPackets {
        local: ip("10.0.0.5"),
        remote: addr("172.16.0.9:40000"),
        direction: Direction::Inbound,
        part: Part::Syn,
        netns: Some(MESHED),
        reason: Some(reason.to_owned()),
        function: None,
        packets: 2,
    }])
}

#[test]
fn what_the_kernel_drops_tells_of_peers_elsewhere() {
    let mut node = given();
    node.give(Input::Stats(AgentStats::default()));
    assert_eq!(node.engine.next_watched(), None, "somebody listens");
    node.listeners(&NOBODY);
    node.give(Input::Stats(AgentStats::default()));
    let watched = node.engine.next_watched();
    assert_eq!(watched, Some([ip("10.0.0.5")].into()));
    node.give(dropped("NO_SOCKET"));
    node.pass(2.0);
    assert_eq!(node.told(), [], "a port that the rules leave alone");
    node.give(dropped("NETFILTER_DROP"));
    node.pass(2.0);
    let finding = node.only(Code::StuckNoListener);
    assert!(facts(&finding).contains("172.16.0.9"), "{finding:?}");
}

#[test]
fn silent_destinations_of_others_leave_room_for_what_is_given_to_nobody() {
    let mut node = given();
    for n in 0..6_u8 {
        let (uid, container_id, netns_id) = (
            format!("uid-s{n}"),
            format!("c-s{n}"),
            NetnsId(400 + u32::from(n)),
        );
        let (address, cgroup_id) = (format!("10.0.1.{n}"), CgroupId(40 + u64::from(n)));
        let app = vec![container("curl", ContainerKind::Main, &container_id)];
        node.change(Change::Pod(Box::new(pod(&uid, &uid, &[&address], app))));
        node.change(netns(netns_id, &[&address]));
        node.change(cgroup(cgroup_id, &uid, &container_id, netns_id));
        let dials = EdgeKey {
            owner: owner(netns_id, cgroup_id, 0),
            local: ip(&address),
            ..out(APP, 0, "192.0.2.1:443", Arrival::Nowhere)
        };
        node.signal(stalled(dials, 1));
    }
    assert_eq!(node.engine.next_watched().map(|all| all.len()), Some(4));
    node.listeners(&NOBODY);
    node.give(Input::Stats(AgentStats::default()));
    let watched = node.engine.next_watched().unwrap_or_default();
    assert_eq!(watched.len(), 5);
    assert!(watched.contains(&ip("10.0.0.5")), "{watched:?}");
}

#[test]
fn rules_that_redirect_need_no_watch() {
    let mut node = crate::live_rules::with(crate::live_rules::WHOLE);
    node.listeners(&NOBODY);
    node.give(Input::Stats(AgentStats::default()));
    assert_eq!(node.engine.next_watched(), None);
}

/// What the proxy dials for a peer, in its name.
fn in_its_name() -> EdgeKey {
    EdgeKey {
        local: ip(PEER),
        ..out(PROXY, 0, "10.0.0.5:8080", Arrival::Nowhere)
    }
}

fn asked(node: &mut Node) -> Vec<Inquiry> {
    let all = std::iter::from_fn(|| node.engine.next_inquiry());
    all.filter(|one| matches!(one, Inquiry::Marked(_)))
        .collect()
}

fn way(leaves: Option<&str>, table: Option<u32>) -> Input {
    Input::Marked(MarkedWay {
        netns: MESHED,
        mark: 0x539,
        leaves: leaves.map(ToOwned::to_owned),
        table,
    })
}

#[test]
fn answers_that_leave_the_pod_are_told_with_what_is_missing() {
    for (table, says) in [
        (None, "ip rule add fwmark 0x539 lookup 133`"),
        (Some(133), "table 133`"),
    ] {
        let mut node = given();
        node.signal(stalled(in_its_name(), 1));
        let expected = MarkedEnds {
            netns: MESHED,
            from: ip("10.0.0.5"),
            to: ip(PEER),
            mark: 0x539,
        };
        assert_eq!(asked(&mut node), [Inquiry::Marked(expected)]);
        node.give(way(Some("eth0"), table));
        let finding = node.only(Code::StuckUpstreamTimeout);
        assert_eq!(finding.confidence, Confidence::Certain);
        assert!(finding.remedy.contains(says), "{}", finding.remedy);
        let text = facts(&finding);
        assert!(text.contains("mark 0x539 leave by eth0"), "{text}");
        node.edge(in_its_name(), timed_out(3));
        assert_eq!(node.only(Code::StuckUpstreamTimeout).connections, 3);
        // Another upstream answers; then the app does.
        let other = out(PROXY, 0, "10.9.0.1:80", Arrival::Nowhere);
        node.edge(other, established(1));
        node.only(Code::StuckUpstreamTimeout);
        node.edge(in_its_name(), established(1));
        assert_eq!(node.open(), []);
    }
}

#[test]
fn an_app_that_does_not_answer_is_not_a_missing_route() {
    let mut node = given();
    node.signal(stalled(in_its_name(), 1));
    assert_eq!(asked(&mut node).len(), 1);
    node.give(way(None, None));
    node.signal(stalled(in_its_name(), 2));
    node.pass(5.0);
    assert_eq!(node.told(), []);
}

#[test]
fn nobody_asks_where_rules_give_nothing_as_it_is() {
    let mut node = crate::live_rules::with(crate::live_rules::WHOLE);
    node.signal(stalled(in_its_name(), 1));
    assert_eq!(asked(&mut node), []);
}
