//! SYNs of an app that meet what the proxy kept of an older connection with the same addresses.

use sidestep::{
    engine::{Code, Confidence, Input},
    model::{Stream, StreamState},
};

use crate::{
    kit::*,
    live_rules::{self, WHOLE},
};

fn socket(cookie: u64, local: &str, remote: &str, state: StreamState, retransmits: u8) -> Stream {
    Stream {
        cookie,
        local: addr(local),
        remote: addr(remote),
        state,
        uid: if local.starts_with("127") {
            PROXY_UID
        } else {
            1000
        },
        held: true,
        unread: 0,
        unsent: 0,
        received: 9,
        sent: 9,
        sent_ms: 9_000,
        received_ms: 9_000,
        retransmits,
    }
}

fn dials(resent: u8) -> Stream {
    socket(
        1,
        "10.0.0.5:40000",
        "10.9.0.2:81",
        StreamState::Dialling,
        resent,
    )
}

fn kept(cookie: u64, peer: &str, state: StreamState) -> Stream {
    socket(cookie, "127.0.0.1:15001", peer, state, 0)
}

fn looks(all: &[Vec<Stream>]) -> Node {
    let mut node = live_rules::with(WHOLE);
    for streams in all {
        node.give(Input::Streams {
            netns: MESHED,
            streams: streams.clone(),
            left: 0,
        });
        node.pass(1.0);
    }
    node
}

#[test]
fn an_old_socket_in_the_way_is_told_with_both_ends() {
    for (state, says) in [
        (StreamState::PeerClosed, "CLOSE_WAIT"),
        (StreamState::OwnerClosed, "FIN_WAIT"),
        (StreamState::Open, "ESTABLISHED"),
    ] {
        let old = || kept(2, "10.0.0.5:40000", state);
        let mut node = looks(&[vec![dials(1), old()], vec![dials(2), old()]]);
        let finding = node.only(Code::FailTupleCollision);
        assert_eq!(finding.confidence, Confidence::Certain);
        let told = facts(&finding);
        for says in [says, "10.0.0.5:40000", "10.9.0.2:81", "uid 1337"] {
            assert!(told.contains(says), "{told}");
        }
        node.give(Input::Streams {
            netns: MESHED,
            streams: vec![old()],
            left: 0,
        });
        assert_eq!(node.open(), []);
    }
}

#[test]
fn what_heals_and_what_only_looks_alike_is_not_told() {
    let old = || kept(2, "10.0.0.5:40000", StreamState::PeerClosed);
    let other = || kept(2, "10.0.0.5:40001", StreamState::PeerClosed);
    let upstream = || {
        socket(
            3,
            "10.0.0.5:40000",
            "10.9.0.9:80",
            StreamState::PeerClosed,
            0,
        )
    };
    for all in [
        // The kernel ended the old one.
        vec![vec![dials(1), old()], vec![dials(2)]],
        // Not sent again often enough yet.
        vec![vec![dials(1), old()], vec![dials(1), old()]],
        // The handshake ended while the table was read: another socket each time.
        vec![
            vec![dials(2), kept(4, "10.0.0.5:40000", StreamState::Open)],
            vec![dials(3), kept(5, "10.0.0.5:40000", StreamState::Open)],
        ],
        // Another port's, and another leg's.
        vec![vec![dials(2), other()], vec![dials(3), other()]],
        vec![vec![dials(2), upstream()], vec![dials(3), upstream()]],
    ] {
        assert_eq!(looks(&all).told(), []);
    }
}
