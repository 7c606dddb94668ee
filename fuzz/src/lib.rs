//! What the fuzzer does with its inputs: the very checks that the ordinary tests do with the corpus.

#[path = "../../agent/tests/golden_pods/inputs.rs"]
pub mod pods;
#[path = "../../agent/tests/rules/inputs.rs"]
pub mod rules;
