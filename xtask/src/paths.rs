//! Where the checkout is.
//!
//! Cargo tells a running `cargo xtask` where the xtask crate is; a copied binary falls back on where it was compiled.
//! Nothing here may be taken from the current folder: commands work from any folder of the checkout.

use std::path::PathBuf;

/// The root of the checkout: the folder that holds the workspace's `Cargo.toml`.
pub(crate) fn workspace() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or(xtask.clone(), PathBuf::from)
}

/// Cargo's output folder: `CARGO_TARGET_DIR` if set, else `target` in the checkout.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace().join("target"),
        |dir| workspace().join(PathBuf::from(dir)),
    )
}

/// The compiled probes, as `cargo xtask build` leaves them and `agent/build.rs` looks for them.
pub(crate) fn ebpf_object() -> PathBuf {
    target().join("bpf").join("sidestep.bpf.o")
}
