//! Source ports before they run out, and once they have.

use sidestep::{
    engine::{Code, Input, Severity},
    model::PortUse,
};

use crate::kit::*;

fn uses(node: &mut Node, open: u64, waiting: u64) {
    let uses = vec![PortUse {
        from: ip("127.0.0.6"),
        to: addr("10.0.0.5:8080"),
        open,
        waiting,
        range: 1_000,
    }];
    let uses = if open + waiting < 700 { vec![] } else { uses };
    node.give(Input::Ports {
        netns: MESHED,
        uses,
    });
}

#[test]
fn nearly_used_up_is_a_warning_that_ends() {
    let mut node = Node::running();
    uses(&mut node, 300, 450);
    assert_eq!(node.open(), []);
    uses(&mut node, 300, 560);
    let finding = node.only(Code::FailEphemeralPorts);
    assert_eq!(finding.severity, Severity::Warning);
    let facts = facts(&finding);
    assert!(
        facts.contains("86 % of 1000 ports: 300 open, 560 closed"),
        "{facts}"
    );
    assert!(facts.contains("from: 127.0.0.6"), "{facts}");
    assert!(
        finding.summary.contains("about to run out"),
        "{}",
        finding.summary
    );
    // Between the two shares it is neither new nor over.
    uses(&mut node, 300, 450);
    node.only(Code::FailEphemeralPorts);
    uses(&mut node, 100, 0);
    assert_eq!(node.open(), []);
}
