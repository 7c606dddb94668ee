//! Connections lost in a connection tracking table, beside destinations that do not answer.

use sidestep::{
    engine::{Code, Confidence, Input, Inquiry},
    model::{Arrival, Conntrack, EdgeKey},
};

use crate::{kit::*, lost::stalled};

fn dialled(to: &str) -> EdgeKey {
    out(PROXY, PROXY_UID, to, Arrival::Nowhere)
}

fn table(count: u64, drop: u64) -> Option<Conntrack> {
    Some(Conntrack {
        count,
        max: 100,
        drop,
        ..Conntrack::default()
    })
}

/// SYNs are sent again, and whoever asks about the tables is told this.
fn silent(node: &mut Node, answers: &[[Option<Conntrack>; 2]]) {
    for (resent, [own, host]) in [1, 2, 4].into_iter().zip(answers) {
        node.signal(stalled(dialled("10.9.0.1:80"), resent));
        node.pass(0.5);
        let asked = node.engine.next_inquiry();
        assert_eq!(asked, Some(Inquiry::Conntrack(MESHED)));
        node.give(Input::Conntrack {
            netns: MESHED,
            own: *own,
            node: *host,
        });
        node.pass(1.5);
    }
}

#[test]
fn a_full_table_is_the_root_and_the_only_finding() {
    let mut node = Node::running();
    silent(&mut node, &[[table(100, 0), None], [table(101, 7), None]]);
    let finding = node.only(Code::FailConntrackFull);
    assert_eq!(finding.confidence, Confidence::Certain);
    let facts = facts(&finding);
    assert!(
        facts.contains("101 of 100 entries, of the pod's"),
        "{facts}"
    );
    assert!(facts.contains("7 packets dropped"), "{facts}");
    node.pass(5.0);
    assert_eq!(node.told(), [Code::FailConntrackFull]);
    // There is room again, and still nobody answers.
    silent(
        &mut node,
        &[
            [table(20, 7), None],
            [table(20, 7), None],
            [table(20, 7), None],
        ],
    );
    node.pass(4.0);
    node.only(Code::StuckUpstreamTimeout);
}

#[test]
fn a_full_table_of_the_node_counts_too() {
    let mut node = Node::running();
    silent(&mut node, &[[table(3, 0), table(100, 0)]]);
    let finding = node.only(Code::FailConntrackFull);
    assert!(facts(&finding).contains("of the node"));
    assert!(finding.remedy.contains("on the node"), "{}", finding.remedy);
}

#[test]
fn a_table_with_room_is_not_why_nobody_answers() {
    let mut node = Node::running();
    let half = [table(50, 3), table(60, 0)];
    silent(&mut node, &[half, half, half]);
    node.pass(3.0);
    node.only(Code::StuckUpstreamTimeout);
    assert_eq!(node.told(), [Code::StuckUpstreamTimeout]);
}

#[test]
fn nobody_asks_while_everything_is_answered() {
    let mut node = Node::running();
    node.edge(dialled("10.9.0.1:80"), established(50));
    node.pass(5.0);
    assert_eq!(node.engine.next_inquiry(), None);
}
