//! What the wire says is what the core hears.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is the test's failure"
)]

use super::*;

fn key() -> abi::EdgeKey {
    abi::EdgeKey {
        netns: 5,
        uid: 1337,
        gid: abi::NO_ID,
        remote_port: 443,
        family: abi::FAMILY_IPV4,
        local: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
        remote: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0],
        ..abi::EdgeKey::default()
    }
}

#[test]
fn addresses_keep_their_byte_order() {
    let decoded = edge_key(&key());
    assert_eq!(decoded.local.to_string(), "10.0.0.1");
    assert_eq!(decoded.remote.to_string(), "10.0.0.2:443");
    let six = abi::EdgeKey {
        family: abi::FAMILY_IPV6,
        remote: [
            u32::from_ne_bytes([0xfd, 0, 0, 0]),
            0,
            0,
            u32::from_ne_bytes([0, 0, 0, 9]),
        ],
        ..key()
    };
    assert_eq!(edge_key(&six).remote.to_string(), "[fd00::9]:443");
}

#[test]
fn every_arrival_is_told() {
    let cases = [
        (abi::ARRIVAL_NOWHERE, Arrival::Nowhere),
        (abi::ARRIVAL_PORT, Arrival::Port(15001)),
        (abi::ARRIVAL_DECIDED, Arrival::Decided(15001)),
        (abi::ARRIVAL_LOOPBACK, Arrival::Loopback),
        (abi::ARRIVAL_UNKNOWN, Arrival::Unknown),
    ];
    for (arrival, expected) in cases {
        let key = abi::EdgeKey {
            arrival,
            arrival_port: 15001,
            ..key()
        };
        assert_eq!(edge_key(&key).arrival, expected);
    }
}

#[test]
fn a_delta_survives_the_wrap_of_a_counter() {
    let mut old = abi::EdgeValue::default();
    old.outcomes[usize::from(abi::OUTCOME_REFUSED)] = u32::MAX;
    let mut new = old;
    new.outcomes[usize::from(abi::OUTCOME_REFUSED)] = 1;
    add_settled(&mut new, 1000);
    let delta = delta(&key(), &new, &old).unwrap();
    assert_eq!((delta.counts.refused, delta.counts.established), (2, 1));
    assert_eq!(
        (delta.duration.sum_us, delta.duration.buckets[9]),
        (1000, 1)
    );
    assert_eq!(super::delta(&key(), &new, &new), None);
}

#[test]
fn durations_fall_into_their_buckets() {
    for (us, bucket) in [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 2),
        (1 << 25, 25),
        (u32::MAX - 1, 25),
    ] {
        let mut value = abi::EdgeValue::default();
        add_settled(&mut value, us);
        assert_eq!(value.buckets[bucket], 1, "{us}");
    }
    let mut value = abi::EdgeValue::default();
    add_settled(&mut value, u32::MAX);
    assert_eq!((value.buckets, value.outcomes[0]), ([0; 26], 1));
}

#[test]
fn every_kind_of_event_becomes_a_signal() {
    for kind in abi::EVENT_FIRST_SEEN..=abi::EVENT_RULES_CHANGED {
        let event = abi::Event {
            kind,
            key: abi::EdgeKey {
                local_port: abi::RULES_NFT,
                ..key()
            },
            ..abi::Event::default()
        };
        assert!(signal(&event, Time(1)).is_some(), "{kind}");
    }
}

#[test]
fn a_change_of_rules_says_what_is_known() {
    for (backend, family, expected) in [
        (
            abi::RULES_LEGACY,
            2,
            Some((RulesBackend::Legacy, Some(Family::Ipv4))),
        ),
        (
            abi::RULES_LEGACY,
            10,
            Some((RulesBackend::Legacy, Some(Family::Ipv6))),
        ),
        (abi::RULES_LEGACY, 3, Some((RulesBackend::Legacy, None))),
        (abi::RULES_NFT, 0, Some((RulesBackend::Nft, None))),
        (9, 0, None),
    ] {
        let event = abi::Event {
            kind: abi::EVENT_RULES_CHANGED,
            key: abi::EdgeKey {
                local_port: backend,
                remote_port: family,
                ..key()
            },
            ..abi::Event::default()
        };
        let found = signal(&event, Time(7)).map(|signal| match signal {
            Signal::RulesChanged {
                backend,
                family,
                netns: NetnsId(5),
                at: Time(7),
                uid: 1337,
                ..
            } => (backend, family),
            _ => panic!("{signal:?}"),
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn a_name_ends_at_its_zero_and_survives_bad_text() {
    let mut task = abi::Task {
        pid: 7,
        comm: [b'a'; 16],
    };
    assert_eq!(process(&task).comm.len(), 16);
    task.comm[3] = 0;
    assert_eq!(process(&task).comm, "aaa");
    task.comm[0] = 0xff;
    assert_eq!(process(&task).comm, "\u{fffd}aa");
}
