//! Puts this kernel's field offsets into the object and makes its maps.
//!
//! No program is loaded here: each is loaded when its signal is tried, so that one that
//! this kernel refuses does not take the others with it.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError},
    programs::RawTracePoint,
};
use sidestep_abi::{ABI_SYMBOL, FIELDS};

use super::{
    ProbeError,
    btf::{self, Types},
    sys::{self, Shared},
};

/// The compiled probes; `build.rs` names the file.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SIDESTEP_EBPF_OBJECT"));

/// Where this kernel keeps the fields the probes read.
///
/// # Errors
/// [`ProbeError::Field`] if a required one is missing or not unique.
pub(super) fn offsets(types: &Types<'_>) -> Result<Vec<u32>, ProbeError> {
    btf::resolve(&[types], FIELDS)
}

/// Makes the maps and returns the object, its programs not loaded yet.
///
/// # Errors
/// [`ProbeError`] for missing privileges, fields, or an object of another ABI.
pub(super) fn load(offsets: &[u32]) -> Result<Ebpf, ProbeError> {
    sys::lift_memlock();
    EbpfLoader::new()
        .btf(None)
        .override_global("OFFSETS", offsets, true)
        .override_global(ABI_SYMBOL, &0_u32, true)
        .load(OBJECT)
        .map_err(explain)
}

fn explain(error: EbpfError) -> ProbeError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error, .. })
            if io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            ProbeError::NoPrivileges {
                call: format!("creating map {name}"),
                source: io_error,
            }
        }
        EbpfError::ParseError(error) => ProbeError::Abi {
            reason: error.to_string(),
        },
        other => ProbeError::Object {
            reason: chain(&other),
        },
    }
}

/// A program of the object that runs on a raw tracepoint, or is run like one.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn raw_tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut RawTracePoint, String> {
    let program = ebpf.program_mut(name);
    let program = program.ok_or_else(|| format!("the object has no program {name}"))?;
    program.try_into().map_err(|error| chain(&error))
}

/// Maps the first `len` bytes of an array of the object into memory.
///
/// # Errors
/// [`ProbeError`] if it is missing or cannot be mapped.
pub(super) fn shared(map: Option<&Map>, name: &str, len: usize) -> Result<Shared, ProbeError> {
    let Some(Map::Array(map)) = map else {
        return Err(ProbeError::Object {
            reason: format!("no array {name}"),
        });
    };
    Shared::map(map.fd().as_fd(), len).map_err(|source| ProbeError::System {
        what: format!("cannot map {name} into memory"),
        source,
    })
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
