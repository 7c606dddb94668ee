//! Connections inside a pod whose ends no longer hear each other, beside INVALID packets.

use sidestep::{
    engine::{Code, Confidence, Input, Inquiry},
    model::{Arrival, Conntrack, Signal, Stream, StreamState},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE},
};

const TO: &str = "10.9.0.1:80";

/// One end of a connection; the port is the app's, and tells connections apart.
fn end(local: &str, remote: &str, uid: u32, cookie: u64) -> Stream {
    Stream {
        cookie,
        local: addr(local),
        remote: addr(remote),
        state: StreamState::Open,
        uid,
        held: true,
        unread: 0,
        unsent: 0,
        received: 9,
        sent: 9,
        sent_ms: 100,
        received_ms: 3_000,
        retransmits: 0,
    }
}

fn app(port: u16) -> Stream {
    end(&format!("10.0.0.5:{port}"), TO, 1000, u64::from(port))
}

fn proxy(port: u16) -> Stream {
    let cookie = 100_000 + u64::from(port);
    end(
        "127.0.0.1:15001",
        &format!("10.0.0.5:{port}"),
        PROXY_UID,
        cookie,
    )
}

/// The app sends again and again.
fn sending(port: u16, retransmits: u8) -> Stream {
    Stream {
        unsent: 40,
        retransmits,
        ..app(port)
    }
}

fn look(node: &mut Node, streams: Vec<Stream>) {
    node.give(Input::Streams {
        netns: MESHED,
        streams,
        left: 0,
    });
}

fn asked(node: &mut Node) -> Vec<Inquiry> {
    std::iter::from_fn(|| node.engine.next_inquiry()).collect()
}

/// What the pod's table has counted; of the node's nothing is known.
fn counted(node: &mut Node, invalid: u64) {
    let own = Conntrack {
        count: 5,
        max: 1_000,
        invalid,
        ..Conntrack::default()
    };
    node.give(Input::Conntrack {
        netns: MESHED,
        own: Some(own),
        node: None,
    });
    node.pass(1.0);
}

/// A connection whose app sends again three, four and five times, and what is counted then.
fn unheard(node: &mut Node, other: &dyn Fn() -> Stream, invalid: [u64; 3]) {
    for (resent, invalid) in [3, 4, 5].into_iter().zip(invalid) {
        look(node, vec![sending(40_000, resent), other()]);
        if asked(node).contains(&Inquiry::Conntrack(MESHED)) {
            counted(node, invalid);
        } else {
            node.pass(1.0);
        }
    }
}

#[test]
fn what_is_sent_again_and_never_gets_there_is_told_with_the_rule() {
    let drop = "*mangle\n:GONE - [0:0]\n-A PREROUTING -m conntrack --ctstate INVALID -j GONE\n-A GONE -j DROP\nCOMMIT\n";
    for (more, says) in [("", "go astray"), (drop, "dropped by a rule")] {
        let mut node = live_rules::with(&format!("{WHOLE}{more}"));
        unheard(&mut node, &|| proxy(40_000), [7, 8, 9]);
        let finding = node.only(Code::FailInvalidPackets);
        assert!(finding.summary.contains(says), "{}", finding.summary);
        assert_eq!(finding.confidence, Confidence::Certain);
        let told = facts(&finding);
        assert!(told.contains("1 more while"), "{told}");
        assert_eq!(told.contains("-j GONE"), !more.is_empty(), "{told}");
        // It is heard again.
        look(&mut node, vec![app(40_000), proxy(40_000)]);
        assert_eq!(node.open(), []);
    }
}

#[test]
fn what_goes_on_or_has_another_cause_is_not_told() {
    let full = || Stream {
        unread: 65_536,
        ..proxy(40_000)
    };
    let heard: &dyn Fn() -> Stream = &|| proxy(40_000);
    for (other, invalid) in [
        // Something in the pod loses packets, and it is not this.
        (heard, [7, 7, 7]),
        // The other end does not read: there is no room for more.
        (&full, [7, 8, 9]),
        // Nobody in this pod.
        (&|| app(50_000), [7, 8, 9]),
    ] {
        let mut node = live_rules::with(WHOLE);
        unheard(&mut node, other, invalid);
        assert_eq!(node.told(), []);
    }
    // INVALID packets alone: nobody even looks.
    let mut node = live_rules::with(WHOLE);
    look(
        &mut node,
        vec![app(40_000), proxy(40_000), sending(40_001, 2)],
    );
    assert_eq!(asked(&mut node), []);
    counted(&mut node, 7);
    counted(&mut node, 700);
    assert_eq!(node.told(), []);
}

/// The app's connections are reset before an answer, one each second, and the proxy's ends of `kept` stay.
fn reset(node: &mut Node, kept: &[u16], each: u64) {
    for second in 0..6 {
        let key = out(APP, 1000, TO, Arrival::Unknown);
        node.signal(Signal::Reset { key, port: 40_000 });
        for inquiry in asked(node) {
            match inquiry {
                Inquiry::Streams(MESHED) => {
                    let there = kept.iter().take(second + 1);
                    look(node, there.map(|port| proxy(*port)).collect());
                }
                Inquiry::Conntrack(MESHED) => counted(node, second as u64 * each),
                _ => {}
            }
        }
        node.pass(1.0);
    }
}

#[test]
fn ends_of_the_proxy_that_were_left_alone_are_told() {
    let mut node = live_rules::with(WHOLE);
    reset(
        &mut node,
        &[40_000, 40_001, 40_002, 40_003, 40_004, 40_005],
        2,
    );
    let finding = node.only(Code::FailInvalidPackets);
    let told = facts(&finding);
    assert!(told.contains("is gone without a word"), "{told}");
}

#[test]
fn resets_by_the_proxy_and_a_single_end_alone_are_not_told() {
    for (kept, each) in [
        // The proxy itself resets, and INVALID packets follow.
        (&[][..], 2),
        (&[40_000], 2),
        // None is INVALID.
        (&[40_000, 40_001, 40_002, 40_003, 40_004], 0),
    ] {
        let mut node = live_rules::with(WHOLE);
        reset(&mut node, kept, each);
        assert_eq!(node.told(), [], "{kept:?}");
    }
}

#[test]
fn whoever_is_reset_once_is_not_looked_at() {
    let mut node = live_rules::with(WHOLE);
    let key = out(APP, 1000, TO, Arrival::Unknown);
    node.signal(Signal::Reset { key, port: 40_000 });
    assert_eq!(asked(&mut node), []);
}
