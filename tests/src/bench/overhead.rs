//! What probes and agent add to a connection, and to a MiB.
//!
//! Three states, interleaved, so that nothing that drifts favours one of them: no agent; probes attached and nobody
//! reading; the agent as it runs on a node. The one CPU of the machine is shared, so the third includes everything
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
/// Seconds of traffic: less would measure where in its second the agent was met.
const BULK_MIB: u32 = 1024;
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
    for round in 0..rounds {
        for (state, samples) in [State::Base, State::Probes, State::Agent]
            .into_iter()
            .zip(&mut samples)
        {
            let _agent = start(&lab, recipe, state)?;
            thread::sleep(Duration::from_secs(3));
            lab.connections(WARM_UP, UNPACED)?;
            let tally = lab.connections(connections, UNPACED)?;
            let each = tally.elapsed_ns as f64 / f64::from(connections);
            let mib = lab.bulk(u64::from(BULK_MIB) << 20)?.elapsed_ns as f64 / f64::from(BULK_MIB);
            samples.connection.push(each);
            samples.mib.push(mib);
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
