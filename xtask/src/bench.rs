//! `cargo xtask bench`: what the agent costs, in instructions, and how fast it is.
//!
//! Costs are measured in a machine that counts instructions on one CPU, so that they repeat on any computer, loaded or not.
//! Memory needs many pods and no precision, and gets an ordinary machine. The harness measures (`tests/src/bench/`);
//! this command boots, collects and compares with the targets.
//!
//! It must never round in its own favour: targets are compared with what was measured.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::scenario::{self, Programs, Target};
use crate::setup::Kernel;

/// `cargo xtask bench`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Only these parts
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// One JSON object and nothing else on stdout
    #[arg(long)]
    json: bool,
    /// Repetitions of the overhead measurement
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Connections per repetition
    #[arg(long, default_value_t = 3000)]
    connections: u32,
    /// An agent that is built already, in place of this checkout's
    #[arg(long, value_name = "PATH")]
    agent: Option<std::path::PathBuf>,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Instructions per connection and per MiB
    Overhead,
    /// The agent's own CPU time by rate
    Cpu,
    /// Peak memory
    Memory,
    /// Time to detect
    Detect,
    /// The start on a full node
    Start,
}

/// A number with its target, the highest value that is still good.
struct Row {
    key: &'static str,
    what: &'static str,
    unit: &'static str,
    target: f64,
    value: f64,
}

/// Measures and tells.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let programs = scenario::programs(Some(options.agent.as_deref()), Target::Machine)?;
    let programs = Programs {
        envoy: None,
        ..programs
    };
    let parts = if options.parts.is_empty() {
        Part::value_variants()
    } else {
        &options.parts
    };
    let mut measured = json!({});
    for &part in parts {
        eprintln!("bench: {part:?} in Linux {} …", options.kernel);
        measured[format!("{part:?}").to_lowercase()] = measure(options, &programs, part)?;
    }
    let rows = rows(&measured);
    if options.json {
        println!("{}", object(&rows, &measured));
    } else {
        table(&rows, &measured);
    }
    let good = rows.iter().all(|row| row.value <= row.target);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn measure(options: &Options, programs: &Programs, part: Part) -> Result<Value> {
    let name = part
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    let mut command = vec![
        "/usr/local/bin/sidestep-tests".to_owned(),
        "bench".to_owned(),
        name,
    ];
    let pods = if part == Part::Detect { "24" } else { "250" };
    for (flag, value) in [
        ("--rounds", options.rounds.to_string()),
        ("--connections", options.connections.to_string()),
        ("--pods", pods.to_owned()),
    ] {
        command.extend([flag.to_owned(), value]);
    }
    let mut guest = scenario::machine(options.kernel, command, programs);
    guest.timeout = Duration::from_mins(40);
    if part != Part::Start {
        guest.icount = true;
        guest.fast_strings = true;
        guest.smp = 1;
    }
    let outcome = guest.run(&mut |line| {
        if !line.starts_with('{') {
            eprintln!("  {line}");
        }
    })?;
    if outcome.code != 0 {
        bail!("the measurement ended with exit code {}", outcome.code);
    }
    let line = outcome
        .lines
        .iter()
        .rev()
        .find(|line| line.starts_with('{'));
    let line = line.context("the measurement printed no result")?;
    serde_json::from_str(line).with_context(|| format!("not a result: {line}"))
}

fn rows(measured: &Value) -> Vec<Row> {
    let all = [
        (
            "/overhead/connection/agent_pct",
            "connection_overhead_pct",
            "redirected connection, with agent",
            "%",
            4.0,
        ),
        (
            "/overhead/mib/agent_pct",
            "bulk_overhead_pct",
            "MiB over an established connection, with agent",
            "%",
            0.2,
        ),
        (
            "/cpu/ratio_2000_vs_500",
            "agent_cpu_ratio_2000_vs_500",
            "agent's CPU at 2000 against 500 connections/s",
            "×",
            1.2,
        ),
        (
            "/memory/peak_mib",
            "agent_rss_mib",
            "agent's peak memory, 250 pods, 10 000 edges",
            "MiB",
            32.0,
        ),
        (
            "/detect/p95",
            "detect_seconds_p95",
            "time to detect, 95th percentile",
            "s",
            1.0,
        ),
        (
            "/start/busiest_second",
            "start_cpu_busiest",
            "agent's start with 250 pods, its busiest second",
            "CPU",
            1.0,
        ),
    ];
    all.into_iter()
        .filter_map(|(path, key, what, unit, target)| {
            let value = measured.pointer(path)?.as_f64()?;
            Some(Row {
                key,
                what,
                unit,
                target,
                value,
            })
        })
        .collect()
}

fn object(rows: &[Row], measured: &Value) -> Value {
    let mut object = json!({"details": measured});
    for row in rows {
        object[row.key] = json!(row.value);
    }
    object
}

fn table(rows: &[Row], measured: &Value) {
    println!("{:<50} {:>10}  {:>10}", "what", "measured", "target");
    for row in rows {
        let verdict = if row.value <= row.target {
            "ok"
        } else {
            "MISSED"
        };
        println!(
            "{:<50} {:>6.2} {:<3}  ≤ {:>4} {:<3}  {verdict}",
            row.what, row.value, row.unit, row.target, row.unit
        );
    }
    let number = |path: &str| measured.pointer(path).and_then(Value::as_f64);
    for (what, path) in [
        ("redirected connection", "/overhead/connection"),
        ("MiB", "/overhead/mib"),
    ] {
        let part = |key: &str| number(&format!("{path}/{key}"));
        if let (Some(base), Some(probes), Some(agent)) =
            (part("base"), part("probes_pct"), part("agent_pct"))
        {
            let spread = part("base_spread_pct").unwrap_or(f64::NAN);
            println!(
                "one {what}: {base:.0} instructions without the agent (repeats within {spread:.2} %), probes alone {probes:+.2} %, agent {agent:+.2} %"
            );
        }
    }
    for row in measured
        .pointer("/cpu/rates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        println!(
            "at {} connections/s (reached {:.0}): agent {:.2} ms CPU per second",
            row["rate"],
            row["reached"].as_f64().unwrap_or(f64::NAN),
            row["agent_ms_per_s"].as_f64().unwrap_or(f64::NAN)
        );
    }
    if let (Some(edges), Some(idle)) = (number("/memory/edges"), number("/memory/idle_mib")) {
        let rest = number("/memory/agent_ms_per_s_at_rest").unwrap_or(f64::NAN);
        println!(
            "memory: {edges:.0} edges, {idle:.1} MiB before the traffic; {rest:.1} ms CPU per second after it"
        );
    }
    if let (Some(p50), Some(max)) = (number("/detect/p50"), number("/detect/max")) {
        println!("time to detect: median {p50:.2} s, longest {max:.2} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_names_of_the_contract() {
        let measured = json!({
            "overhead": {"connection": {"agent_pct": 3.0}, "mib": {"agent_pct": 0.1}},
            "cpu": {"ratio_2000_vs_500": 1.1}, "memory": {"peak_mib": 20.0}, "detect": {"p95": 0.9},
        });
        let rows = rows(&measured);
        let object = object(&rows, &measured);
        for key in [
            "connection_overhead_pct",
            "bulk_overhead_pct",
            "agent_cpu_ratio_2000_vs_500",
            "agent_rss_mib",
            "detect_seconds_p95",
        ] {
            assert!(object[key].is_number(), "{key}");
        }
        assert!(rows.iter().all(|row| row.value <= row.target));
    }
}
