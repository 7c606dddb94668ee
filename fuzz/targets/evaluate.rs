//! Rules from several sources, and connections through them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestep_fuzz::rules::evaluate(data));
