//! What nft prints.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sidestep_fuzz::rules::nft(data));
