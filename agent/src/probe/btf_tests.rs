//! The reader against the running kernel where it has BTF, and against nonsense.

use super::*;

#[test]
fn nonsense_is_refused() {
    for data in [vec![], vec![0; 24], vec![0x9f, 0xeb, 1, 0], {
        let mut header = vec![0x9f, 0xeb, 1, 0];
        for value in [24_u32, 0, u32::MAX, 0, u32::MAX] {
            header.extend(value.to_le_bytes());
        }
        header
    }] {
        assert!(Types::parse(data, None).is_none());
    }
}

#[test]
fn a_field_is_found_missing_or_ambiguous() {
    let field = |need| Field {
        name: "x",
        of: "sock",
        path: "sk_x",
        unit: Unit::Byte,
        need,
    };
    assert_eq!(offset(&field(Need::Required), &[64]).ok(), Some(8));
    assert_eq!(offset(&field(Need::Optional), &[]).ok(), Some(ABSENT));
    for (need, places) in [
        (Need::Required, &[][..]),
        (Need::Optional, &[64, 128][..]),
        (Need::Required, &[65][..]),
    ] {
        let error = offset(&field(need), places).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("sk_x")), "{places:?}");
    }
}
