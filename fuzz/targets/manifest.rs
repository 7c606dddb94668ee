//! Pods, and what must be captured in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestep_fuzz::pods::manifest(data));
