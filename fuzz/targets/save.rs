//! What the save programs print.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestep_fuzz::rules::save(data));
