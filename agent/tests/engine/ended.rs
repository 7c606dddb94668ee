//! Connections that the proxy ends at once, and what it did meanwhile.

use sidestep::{
    engine::{Code, Confidence, Input},
    model::{Arrival, EdgeKey, Signal, Stream},
};

use crate::{kit::*, spec::ambient, stuck::failed};

const TO: &str = "10.9.0.1:80";

fn closed() -> Signal {
    closes(1)
}

fn closes(n: u64) -> Signal {
    let key = out(APP, 1000, TO, Arrival::Unknown);
    Signal::Closed { key, n }
}

fn reset() -> Signal {
    Signal::Reset {
        key: out(APP, 1000, TO, Arrival::Unknown),
        port: 40_000,
    }
}

fn captured() -> EdgeKey {
    out(APP, 1000, TO, Arrival::Port(OUT))
}

fn dialled(to: &str) -> EdgeKey {
    out(PROXY, PROXY_UID, to, Arrival::Nowhere)
}

/// Ten connections that end so, two a second, each followed by what was counted.
fn ended(node: &mut Node, end: &Signal, counted: &dyn Fn(&mut Node)) {
    for _ in 0..10 {
        node.signal(end.clone());
        node.pass(0.4);
        counted(node);
        node.pass(0.1);
    }
}

#[test]
fn a_proxy_that_ends_them_at_once_and_dials_nobody() {
    for end in [closed(), reset()] {
        let mut node = Node::running();
        ended(&mut node, &end, &|n| n.edge(captured(), established(1)));
        let finding = node.only(Code::StuckNoUpstream);
        let told = facts(&finding);
        assert!(finding.summary.contains("ends"), "{}", finding.summary);
        assert!(told.contains("10 connections to 10.9.0.1:80"), "{told}");
        // A policy that refuses the app looks the same.
        assert_eq!(finding.confidence, Confidence::Probable);
        // A look at the table, in which none of them is, changes nothing.
        let streams = Vec::<Stream>::new();
        let netns = MESHED;
        let left = 0;
        node.give(Input::Streams {
            netns,
            streams,
            left,
        });
        assert_eq!(node.open(), [Code::StuckNoUpstream]);
        node.edge(dialled(TO), established(1));
        assert_eq!(node.open(), []);
    }
}

#[test]
fn a_control_plane_that_is_dialled_says_nothing_of_it() {
    let mut node = Node::running();
    ended(&mut node, &closed(), &|n| {
        n.edge(captured(), established(1));
        n.edge(dialled("10.7.0.1:15012"), established(1));
    });
    assert_eq!(node.open(), [Code::StuckNoUpstream]);
}

#[test]
fn few_are_told_and_speak_for_the_others() {
    let mut node = Node::running();
    ended(&mut node, &closes(50), &|n| {
        n.edge(captured(), established(50));
    });
    assert_eq!(node.only(Code::StuckNoUpstream).connections, 500);
}

#[test]
fn whoever_dials_has_somewhere_to_go() {
    let elsewhere = "10.9.0.7:8080";
    let dials: [&dyn Fn(&mut Node); 3] = [
        // An endpoint behind the service's address.
        &|n| n.edge(dialled(elsewhere), established(1)),
        &|n| n.edge(dialled(elsewhere), refused(1)),
        &|n| n.signal(failed(dialled(elsewhere), None)),
    ];
    for dial in dials {
        for end in [closed(), reset()] {
            let mut node = Node::running();
            ended(&mut node, &end, &|n| {
                n.edge(captured(), established(1));
                dial(n);
            });
            assert!(!node.told().contains(&Code::StuckNoUpstream));
        }
    }
}

#[test]
fn ends_of_other_connections_are_not_the_proxys() {
    let counts: [&dyn Fn(&mut Node); 4] = [
        // Nobody has seen one that was captured.
        &|_| {},
        // They went direct.
        &|n| n.edge(out(APP, 1000, TO, Arrival::Nowhere), established(1)),
        // Most of them come to something else.
        &|n| n.edge(captured(), established(9)),
        // Others are captured, these are not.
        &|n| {
            n.edge(
                out(APP, 1000, "10.9.0.2:80", Arrival::Port(OUT)),
                established(1),
            )
        },
    ];
    for counted in counts {
        let mut node = Node::running();
        ended(&mut node, &closed(), counted);
        assert!(!node.told().contains(&Code::StuckNoUpstream));
    }
}

#[test]
fn a_proxy_that_shares_connections_may_pass_on_how_they_ended() {
    let mut node = ambient();
    ended(&mut node, &closed(), &|n| {
        n.edge(captured(), established(1))
    });
    assert!(!node.told().contains(&Code::StuckNoUpstream));
}

#[test]
fn a_moment_without_endpoints_is_not_told() {
    let mut node = Node::running();
    // Two seconds, as while a rollout replaces the only one.
    for _ in 0..20 {
        node.signal(closed());
        node.edge(captured(), established(1));
        node.pass(0.1);
    }
    node.edge(dialled(TO), established(1));
    node.pass(30.0);
    assert_eq!(node.told(), []);
}
