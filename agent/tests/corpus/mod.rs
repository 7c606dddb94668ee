//! The fuzzer's corpus as an ordinary test: inputs that reached something new, and those
//! that broke something once. Each file is checked once, and must not take long.
//!
//! A folder that is not there or empty is an error: it would prove nothing.

use std::{fs, path::Path, time::Instant};

/// Checks every input of a target.
pub(crate) fn each(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut count = 0;
    for entry in fs::read_dir(corpus.join(target)).unwrap() {
        let path = entry.unwrap().path();
        let start = Instant::now();
        check(&fs::read(&path).unwrap());
        let took = start.elapsed();
        assert!(took.as_secs() < 20, "{} took {took:?}", path.display());
        count += 1;
    }
    assert!(count > 0, "no corpus for {target}");
}
