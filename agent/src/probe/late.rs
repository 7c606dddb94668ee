//! What lives in modules: NAT's decision and changes of rules are attached when their
//! module is there.
//!
//! What compares destinations is attached when somebody can rewrite them.
//!
//! Netfilter loads with the first rule, which may be long after the agent. The check is a
//! `stat`, so it may be made every few seconds for ever. Until then nothing is missing: what
//! is not loaded decides nothing and holds no rules.

use std::path::Path;

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use sidestep_abi::{ABSENT, LATE_FIELD_COUNT, LATE_FIELDS, LateOffsets, TABLE_FAMILY};

use super::{
    btf::{self, Types},
    load::chain,
    plan::{CATALOGUE, Capabilities, SIGNALS, SignalId, SignalInfo},
};

/// Modules whose types the decision needs, in the order they are looked through.
const MODULES: &[&str] = &["nf_conntrack", "nf_nat"];

/// The module of a table's type.
const TABLES: &str = "x_tables";
/// How the reason of what waits for its module ends.
const NOT_YET: &str = "is not loaded yet; attached when it is";
/// The reason of what compares destinations, as long as nobody rewrites them.
pub(super) const NO_HOOK: &str = "no pod's cgroup has a BPF hook on connect(2)";
/// Where the kernel offers kprobes; without them a module that loads changes nothing.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// Whether a module is loaded. What a kernel has built in is found at start.
fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// Whether this is the reason of what waits for its module, and misses nothing meanwhile.
pub(super) fn waits(reason: &str) -> bool {
    reason.ends_with(NOT_YET) || reason.ends_with(NO_HOOK)
}

/// Whether the probe that compares destinations was not tried yet.
pub(super) fn waits_for_hook(known: &Capabilities) -> bool {
    let mut variants = CATALOGUE.iter().filter(|v| v.signal == SignalId::Rewrite);
    variants.any(|v| matches!(known.get(v.program), Some(Err(reason)) if reason == NO_HOOK))
}

/// Signals whose module came since they were tried.
pub(super) fn due(known: &Capabilities) -> Vec<SignalId> {
    let waiting = |info: &&SignalInfo| {
        let mut variants = CATALOGUE.iter().filter(|v| v.signal == info.id);
        variants.any(|v| matches!(known.get(v.program), Some(Err(reason)) if waits(reason)))
    };
    let loaded = |info: &&SignalInfo| info.module.is_some_and(is_loaded);
    let due = SIGNALS.iter().filter(waiting).filter(loaded);
    due.map(|info| info.id).collect()
}

/// Says of what could not be attached that it waits for its module, where that is so.
pub(super) fn excuse(known: &mut Capabilities) {
    if !Path::new(KPROBES).exists() {
        return;
    }
    for info in SIGNALS {
        let Some(module) = info.module.filter(|module| !is_loaded(module)) else {
            continue;
        };
        for variant in CATALOGUE.iter().filter(|v| v.signal == info.id) {
            if let Some(Err(reason)) = known.get_mut(variant.program) {
                *reason = format!("module {module} {NOT_YET}");
            }
        }
    }
}

/// Where a table of the older backend says its family; 0 if this kernel does not describe it.
pub(super) fn table_family(types: &Types<'_>) -> u32 {
    let module = Types::module(TABLES, types);
    let files: Vec<&Types<'_>> = std::iter::once(types).chain(&module).collect();
    let offsets = btf::resolve(&files, &[TABLE_FAMILY]).unwrap_or_default();
    let offset = offsets.first().copied().unwrap_or(ABSENT);
    if offset == ABSENT { 0 } else { offset }
}

/// Tells the probes where a table says its family. Failing costs that detail only.
pub(super) fn provide_table_family(ebpf: &mut Ebpf, offset: u32) {
    let map = ebpf.map_mut("TABLE_FAMILY");
    let map = map.and_then(|map| Array::<&mut MapData, u32>::try_from(map).ok());
    if let Some(mut map) = map
        && let Err(error) = map.set(0, offset, 0)
    {
        tracing::debug!(%error, "the family of changed tables is not told");
    }
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
        if !is_loaded("nf_nat") {
            format!("module nf_nat {NOT_YET}")
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

#[cfg(test)]
mod tests {
    use super::{NO_HOOK, NOT_YET, waits};

    #[test]
    fn what_waits_is_known_by_its_reason_also_behind_how_it_was_tried() {
        assert!(waits(&format!("raw_tracepoint: {NO_HOOK}")));
        assert!(waits(&format!("kprobe: module nf_nat {NOT_YET}")));
        assert!(!waits("kprobe: refused"));
    }
}
