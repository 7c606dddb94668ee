//! The few kernel types aya must know, at their real ids, and nothing else.
//!
//! aya resolves attach targets by name in a complete parse of the kernel's types: tens of
//! megabytes for three ids. This makes a file in which every other id is an empty forward
//! declaration: the same answer for a tenth of the memory.

use aya::{Btf, Endianness};

use super::ProbeError;

/// A name that must be found at an id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor<'a> {
    /// Id in the kernel's types.
    pub(super) id: u32,
    /// BTF kind.
    pub(super) kind: u32,
    /// Name.
    pub(super) name: &'a str,
}

/// Forward declaration: a header and nothing after it.
const KIND_FWD: u32 = 7;
/// Size of the BTF header.
const HEADER: u32 = 24;

/// Makes the file and lets aya parse it.
///
/// # Errors
/// [`ProbeError::NoBtf`] if aya refuses it.
pub(super) fn build(anchors: &[Anchor<'_>]) -> Result<Btf, ProbeError> {
    Btf::parse(&bytes(anchors), Endianness::Little).map_err(|e| ProbeError::NoBtf {
        path: "(reduced)".into(),
        reason: e.to_string(),
    })
}

fn bytes(anchors: &[Anchor<'_>]) -> Vec<u8> {
    let last = anchors.iter().map(|a| a.id).max().unwrap_or(0);
    let mut types = Vec::with_capacity(last as usize * 12);
    let mut strings = vec![0_u8];
    for id in 1..=last {
        let anchor = anchors.iter().find(|a| a.id == id);
        let name = anchor.map_or(0, |_| strings.len());
        push(&mut types, u32::try_from(name).unwrap_or(0));
        push(&mut types, anchor.map_or(KIND_FWD, |a| a.kind) << 24);
        push(&mut types, 0);
        if let Some(anchor) = anchor {
            strings.extend_from_slice(anchor.name.as_bytes());
            strings.push(0);
        }
    }
    let types_len = u32::try_from(types.len()).unwrap_or(0);
    let strings_len = u32::try_from(strings.len()).unwrap_or(0);
    let mut file = vec![0x9f, 0xeb, 1, 0];
    for value in [HEADER, 0, types_len, types_len, strings_len] {
        push(&mut file, value);
    }
    file.extend(types);
    file.extend(strings);
    file
}

fn push(to: &mut Vec<u8>, value: u32) {
    to.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aya_reads_what_was_made() {
        let anchors = [
            Anchor {
                id: 3,
                kind: 8,
                name: "btf_trace_x",
            },
            Anchor {
                id: 9,
                kind: 12,
                name: "inet_csk_accept",
            },
        ];
        assert!(build(&anchors).is_ok());
        assert!(build(&[]).is_ok());
    }
}
