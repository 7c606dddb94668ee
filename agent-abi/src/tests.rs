//! Malformed input is refused, well-formed input comes back as it was.
#![expect(unsafe_code, reason = "turns records into bytes to read them back")]

use super::*;

/// Bytes of a record.
fn bytes<T: Plain, const N: usize>(record: &T) -> [u8; N] {
    assert_eq!(size_of::<T>(), N);
    // SAFETY: `Plain` has no padding and N is its size, asserted above.
    unsafe {
        core::ptr::from_ref(record)
            .cast::<[u8; N]>()
            .read_unaligned()
    }
}

fn key() -> EdgeKey {
    EdgeKey {
        cgroup: 7,
        netns: 4_026_531_840,
        uid: 1000,
        gid: NO_ID,
        remote_port: 443,
        arrival: ARRIVAL_PORT,
        arrival_port: 15001,
        family: FAMILY_IPV4,
        local: [0x0100_000a, 0, 0, 0],
        ..EdgeKey::default()
    }
}

#[test]
fn a_key_comes_back() {
    assert_eq!(EdgeKey::from_bytes(&bytes::<_, 64>(&key())), Ok(key()));
}

#[test]
fn a_key_with_an_unknown_value_is_refused() {
    let cases = [
        (
            "direction",
            EdgeKey {
                direction: 2,
                ..key()
            },
        ),
        (
            "arrival",
            EdgeKey {
                arrival: 5,
                ..key()
            },
        ),
        ("family", EdgeKey { family: 0, ..key() }),
    ];
    for (name, case) in cases {
        let refused = EdgeKey::from_bytes(&bytes::<_, 64>(&case));
        assert!(
            matches!(refused, Err(Malformed::Value { field, .. }) if field == name),
            "{name}: {refused:?}"
        );
    }
}

#[test]
fn an_event_comes_back_and_a_broken_one_is_refused() {
    let event = Event {
        at_ns: 1,
        kind: EVENT_FAILED,
        errno: 111,
        outcome: OUTCOME_REFUSED,
        key: key(),
        ..Event::default()
    };
    assert_eq!(Event::from_bytes(&bytes::<_, 112>(&event)), Ok(event));
    for broken in [
        Event { kind: 0, ..event },
        Event {
            kind: EVENT_CLOSED + 1,
            ..event
        },
        Event {
            outcome: 8,
            ..event
        },
        Event {
            key: EdgeKey::default(),
            ..event
        },
    ] {
        assert!(
            Event::from_bytes(&bytes::<_, 112>(&broken)).is_err(),
            "{broken:?}"
        );
    }
}

#[test]
fn a_drop_comes_back_and_a_broken_one_is_refused() {
    let drop = DropKey {
        location: 1 << 63,
        netns: 4_026_531_840,
        reason: 8,
        remote_port: 443,
        direction: DIRECTION_INBOUND,
        family: FAMILY_IPV6,
        tcp_flags: TCP_SYN | TCP_ACK,
        local: [1, 2, 3, 4],
        remote: [5, 6, 7, 8],
        ..DropKey::default()
    };
    assert_eq!(DropKey::from_bytes(&bytes::<_, 56>(&drop)), Ok(drop));
    for broken in [
        DropKey { family: 0, ..drop },
        DropKey {
            direction: 2,
            ..drop
        },
    ] {
        assert!(DropKey::from_bytes(&bytes::<_, 56>(&broken)).is_err());
    }
    assert!(DropKey::from_bytes(&[0; 55]).is_err());
}

#[test]
fn any_other_size_is_refused() {
    let zeros = [0_u8; 256];
    for n in (0..256).filter(|n| *n != 112) {
        let expected = Malformed::Size {
            expected: 112,
            found: n,
        };
        assert_eq!(Event::from_bytes(&zeros[..n]), Err(expected));
    }
    assert!(EdgeValue::from_bytes(&zeros[..143]).is_err());
    assert!(EdgeValue::from_bytes(&zeros[..144]).is_ok());
    assert!(AwaitSlot::from_bytes(&zeros[..104]).is_err(), "no family");
}

#[test]
fn the_symbol_names_the_version() {
    let digits = ABI_SYMBOL.trim_start_matches("SIDESTEP_ABI_");
    assert_eq!(digits.parse::<u32>(), Ok(ABI_VERSION));
}

#[test]
fn names_are_unique() {
    for (i, name) in COUNTER_NAMES.iter().enumerate() {
        assert!(!COUNTER_NAMES[..i].contains(name), "{name}");
    }
    for table in [FIELDS, LATE_FIELDS] {
        for (i, field) in table.iter().enumerate() {
            assert!(
                table[..i].iter().all(|f| f.name != field.name),
                "{}",
                field.name
            );
        }
    }
}
