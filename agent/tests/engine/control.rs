//! A proxy that cannot reach its control plane, beside one whose upstream fails.

use sidestep::{
    engine::{Code, Input},
    model::{Arrival, EdgeKey},
};

use crate::{kit::*, lost::stalled, stuck::failed};

fn dialled(to: &str) -> EdgeKey {
    out(PROXY, PROXY_UID, to, Arrival::Nowhere)
}

fn refuse(node: &mut Node, to: &str) {
    for _ in 0..4 {
        node.signal(failed(dialled(to), None));
        node.edge(dialled(to), refused(1));
        node.pass(0.5);
    }
}

#[test]
fn a_refusing_control_plane_is_told_as_such_and_heals() {
    let mut node = Node::running();
    refuse(&mut node, "10.9.0.1:15012");
    let finding = node.only(Code::StuckControlPlane);
    let facts = facts(&finding);
    assert!(facts.contains("never connected to"), "{facts}");
    assert!(
        finding.summary.contains("10.9.0.1:15012"),
        "{}",
        finding.summary
    );
    assert!(
        finding.summary.contains("ECONNREFUSED"),
        "{}",
        finding.summary
    );
    node.edge(dialled("10.9.0.1:15012"), established(1));
    node.pass(0.1);
    assert_eq!(node.open(), []);
    // Gone again: now it is known when it was there.
    node.pass(60.0);
    refuse(&mut node, "10.9.0.1:15012");
    let finding = node.only(Code::StuckControlPlane);
    assert!(crate::kit::facts(&finding).contains("last connected to at"));
}

#[test]
fn a_silent_control_plane_is_no_upstream() {
    let mut node = Node::running();
    node.give(Input::Tick);
    for resent in [1, 2, 4] {
        node.signal(stalled(dialled("10.9.0.1:15010"), resent));
        node.pass(2.0);
    }
    let finding = node.only(Code::StuckControlPlane);
    assert!(finding.summary.contains("ETIMEDOUT"), "{}", finding.summary);
}

#[test]
fn other_ports_and_those_the_app_asks_for_are_upstreams() {
    let mut node = Node::running();
    refuse(&mut node, "10.9.0.1:8080");
    node.only(Code::StuckUpstreamRefused);

    let mut node = Node::running();
    node.edge(
        out(APP, 1000, "10.9.0.7:15012", Arrival::Port(OUT)),
        established(1),
    );
    refuse(&mut node, "10.9.0.1:15012");
    node.only(Code::StuckUpstreamRefused);
}
