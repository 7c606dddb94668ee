//! What probes and agent add to a connection, and to a MiB.
//!
//! Three states: no agent; probes attached and nobody reading; the agent as it runs on a node. Every connection leaves
//! something behind (TIME_WAIT, conntrack), so the next one costs a little more: every other round goes through the
//! states backwards, and what drifts favours none of them. The one CPU of the machine is shared, so the third includes everything
//! the agent does in user space meanwhile.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::lab::Lab;
use super::median;
use crate::agent::{Agent, Recipe};
use crate::reap::Session;

/// Faster than any machine: the next connection follows at once.
const UNPACED: f64 = 1e9;
/// More than a second of traffic, several times: less would measure where in its second the agent was met.
const BULK_MIB: u32 = 192;
const BULKS: u32 = 5;
/// An agent runs for months: what it does in its first seconds, and as long as all there is is new to it, is not measured.
const SETTLED: Duration = Duration::from_secs(20);
/// First connections fill caches and first-sight tables.
const WARM_UP: u32 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Base,
    Probes,
    Agent,
}

#[derive(Debug, Default)]
struct Samples {
    connection: Vec<f64>,
    mib: Vec<f64>,
}

/// Measures; values are nanoseconds, which are instructions under instruction counting.
pub(super) fn measure(
    session: &Session,
    recipe: &Recipe,
    rounds: u32,
    connections: u32,
) -> Result<Value> {
    let lab = Lab::new(session)?;
    let mut samples = [Samples::default(), Samples::default(), Samples::default()];
    for round in 0..rounds.next_multiple_of(2) {
        let there = [State::Base, State::Probes, State::Agent];
        let order: Vec<State> = match round % 2 {
            0 => there.into(),
            _ => there.into_iter().rev().collect(),
        };
        for state in order {
            let samples = &mut samples[state as usize];
            let _agent = start(&lab, recipe, state)?;
            thread::sleep(SETTLED);
            lab.connections(WARM_UP, UNPACED)?;
            let tally = lab.connections(connections, UNPACED)?;
            let each = tally.elapsed_ns as f64 / f64::from(connections);
            for _ in 0..BULKS {
                let bulk = lab.bulk(u64::from(BULK_MIB) << 20)?;
                let mib = bulk.elapsed_ns as f64 / f64::from(BULK_MIB);
                samples.mib.push(mib);
            }
            samples.connection.push(each);
            let mib = median(&samples.mib);
            eprintln!("round {round}: {state:?}: {each:.0} per connection, {mib:.0} per MiB");
        }
    }
    let [base, probes, agent] = &samples;
    Ok(json!({
        "connection": compared(&base.connection, &probes.connection, &agent.connection),
        "mib": compared(&base.mib, &probes.mib, &agent.mib),
    }))
}

fn start(lab: &Lab, recipe: &Recipe, state: State) -> Result<Option<Agent>> {
    match state {
        State::Base => Ok(None),
        State::Probes => Agent::start_probes_only(&lab.world, recipe).map(Some),
        State::Agent => Agent::start(&lab.world, recipe).map(Some),
    }
}

fn compared(base: &[f64], probes: &[f64], agent: &[f64]) -> Value {
    let (base_median, probes_median, agent_median) = (median(base), median(probes), median(agent));
    let percent = |value: f64| (value / base_median - 1.0) * 100.0;
    let spread = base.iter().copied().fold(f64::MIN, f64::max)
        - base.iter().copied().fold(f64::MAX, f64::min);
    json!({
        "base": base_median, "probes": probes_median, "agent": agent_median,
        "probes_pct": percent(probes_median), "agent_pct": percent(agent_median),
        "base_spread_pct": spread / base_median * 100.0,
    })
}
