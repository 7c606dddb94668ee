//! What the agent sees on a node whose kernel allows everything: machines that developers have often do not.
//!
//! Where kprobes are forbidden the agent makes do with tracepoints, and all other chapters pass all the same. Here nothing may be
//! missing, and the decision of NAT, for which there is no tracepoint, must be seen to be made.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Test;
use super::agent::Agent;

/// What only a probe in a function of the kernel tells: NAT decides in none that has a tracepoint.
const DECISION: &str = "nat_decision";

/// Every signal is there or has nothing to tell, and NAT's decision comes from the function that makes it.
pub(super) fn everything_is_seen(test: &mut Test, agent: &Agent) {
    test.check("no signal of the kernel is missing", || {
        let coverage = coverage(agent)?;
        let signals = coverage["signals"].as_array().context("no signals")?;
        let missing: Vec<String> = signals
            .iter()
            .filter(|signal| signal["variant"].is_null() && signal["idle"] != true)
            .map(|signal| format!("{}: {}", signal["signal"], signal["reason"]))
            .collect();
        ensure!(missing.is_empty(), "{}", missing.join("; "));
        Ok(format!("{} on Linux {}", signals.len(), coverage["kernel"]))
    });
    test.check("what NAT decides is seen where it decides", || {
        let coverage = coverage(agent)?;
        let signals = coverage["signals"].as_array().context("no signals")?;
        let decision = signals.iter().find(|signal| signal["signal"] == DECISION);
        let decision = decision.with_context(|| format!("no signal {DECISION}"))?;
        let variant = decision["variant"].as_str().unwrap_or("nothing");
        ensure!(
            ["kprobe", "kretprobe", "fentry", "fexit"].contains(&variant),
            "by {variant}"
        );
        Ok(format!("{variant} of {}", decision["target"]))
    });
}

fn coverage(agent: &Agent) -> Result<Value> {
    let mut page: Value = serde_json::from_str(&agent.text("/v1/coverage")?)?;
    Ok(page["coverage"].take())
}
