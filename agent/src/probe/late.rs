//! What lives in modules: NAT's decision is attached when its module is there.
//!
//! Netfilter loads with the first rule, which may be long after the agent. The check is a
//! `stat`, so it may be made every few seconds for ever.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use sidestep_abi::{LATE_FIELD_COUNT, LATE_FIELDS, LateOffsets};

use super::{
    btf::{self, Types},
    load::chain,
};

/// Modules whose types the decision needs, in the order they are looked through.
const MODULES: &[&str] = &["nf_conntrack", "nf_nat"];

/// Whether NAT may be there: its module is loaded. A kernel with NAT built in is found at start.
pub(super) fn module_loaded() -> bool {
    Path::new("/sys/module/nf_nat").exists()
}

/// Where connection tracking's fields are, in the order of [`LATE_FIELDS`].
pub(super) type Offsets = [u32; LATE_FIELD_COUNT];

/// Finds connection tracking's fields.
///
/// # Errors
/// Why they are not known, for people.
pub(super) fn offsets(types: &Types<'_>) -> Result<Offsets, String> {
    let modules: Vec<Types<'_>> = MODULES
        .iter()
        .filter_map(|name| Types::module(name, types))
        .collect();
    let files: Vec<&Types<'_>> = std::iter::once(types).chain(&modules).collect();
    let offsets = btf::resolve(&files, LATE_FIELDS).map_err(|error| {
        if !module_loaded() {
            "module nf_nat is not loaded yet; attached when it is".to_owned()
        } else if modules.is_empty() {
            "this kernel does not describe its modules' types (CONFIG_DEBUG_INFO_BTF_MODULES, \
             Linux 5.11)"
                .to_owned()
        } else {
            error.to_string()
        }
    })?;
    let offsets: Offsets = offsets
        .try_into()
        .map_err(|_| "internal: field table and offsets differ in length".to_owned())?;
    if !LateOffsets::from_list(offsets).fits() {
        return Err("connection tracking's tuple or range is laid out differently here".into());
    }
    Ok(offsets)
}

/// Tells the probes where connection tracking's fields are.
///
/// # Errors
/// What failed, for people.
pub(super) fn provide(ebpf: &mut Ebpf, offsets: Offsets) -> Result<(), String> {
    let map = ebpf.map_mut("LATE").ok_or("the object has no map LATE")?;
    let mut map: Array<&mut MapData, Offsets> = map.try_into().map_err(|e| chain(&e))?;
    map.set(0, offsets, 0).map_err(|e| chain(&e))
}
