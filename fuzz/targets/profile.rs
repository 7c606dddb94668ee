//! A mesh as data.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestep_fuzz::pods::profile(data));
