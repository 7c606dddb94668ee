//! Hands the compiled probes to the agent, which embeds them.
//!
//! They are a crate for another target and need another linker, so cargo cannot build them as a dependency; `cargo xtask
//! build` does, and says where they are in `SIDESTEP_EBPF_OBJECT`. Without that variable the place where it leaves them is
//! looked at, so that an editor's `cargo check` works too.

use std::path::{Path, PathBuf};

const VARIABLE: &str = "SIDESTEP_EBPF_OBJECT";

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    let object =
        std::env::var_os(VARIABLE).map_or_else(|| target.join("bpf/sidestep.bpf.o"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let object = object.canonicalize().map_err(|error| {
        format!(
            "the compiled probes are missing ({}: {error}); run `cargo xtask build`, which makes them first",
            object.display()
        )
    })?;
    println!("cargo:rustc-env={VARIABLE}={}", object.display());
    Ok(())
}
