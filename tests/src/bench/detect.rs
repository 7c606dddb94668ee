//! From the first connection to the finding, as a user sees it over HTTP.
//!
//! Pods without rules that have been there for a while each make their first connection, one after the other.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::quantile;
use crate::actor::connect::Tally;
use crate::agent::{Agent, Recipe};
use crate::command;
use crate::process;
use crate::reap::Session;
use crate::spec::Scenario;
use crate::world::{Standing, World};

const PORT: u16 = 7000;
/// A pod that just started is given time; these have started long ago.
const AGE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(10);

/// Measures; seconds.
pub(super) fn measure(session: &Session, recipe: &Recipe, trials: u16) -> Result<Value> {
    let id = session.run_id(0);
    let mut world = World::new(&id, &session.dir.join(&id), None, false)?;
    let mut text = "name = \"bench\"\ndescription = \"pods without rules\"\n".to_owned();
    for index in 0..trials {
        text.push_str(&format!(
            "[[pod]]\nname = \"p{index}\"\nmesh = \"istio\"\nrules = []\n"
        ));
    }
    let scenario: Scenario = toml::from_str(&text).context("the bench's own world")?;
    let mut running = Vec::new();
    for pod in &scenario.pod {
        world.add_pod(&scenario, pod)?;
        let standing = world.pods.last().context("no pod")?;
        running.push(process::pause(&world, standing)?);
        // A container that runs has a process: by it the agent knows the container before the first connection.
        let mut app = process::actor(&process::place_in(standing, "app", None, None)?);
        app.arg("pause");
        let name = format!("{}/app", pod.name);
        running.push(process::start(&world, &name, app, PathBuf::new())?);
    }
    let mut server = process::actor(&world.node());
    server.args([
        "serve",
        "--hang-up",
        "--listen",
        "0.0.0.0",
        "--port",
        &PORT.to_string(),
    ]);
    running.push(process::start(
        &world,
        "node/server",
        server,
        PathBuf::new(),
    )?);
    let agent = Agent::start(&world, recipe)?;
    agent.wait_for_pods(&world)?;
    thread::sleep(AGE);
    let mut times = Vec::new();
    for pod in &world.pods {
        times.push(trial(&agent, pod, world.net.node())?);
        // Trials start at all phases of the agent's second.
        thread::sleep(Duration::from_millis(130));
    }
    Ok(json!({
        "trials": times.len(), "p50": quantile(&times, 0.5), "p95": quantile(&times, 0.95), "max": quantile(&times, 1.0),
    }))
}

fn trial(agent: &Agent, pod: &Standing, node: Ipv4Addr) -> Result<f64> {
    let place = process::place_in(pod, "app", None, None)?;
    let mut command = process::actor(&place);
    command.args(["connect", "--bare", "--to", &format!("{}:{PORT}", node)]);
    let tally: Tally =
        serde_json::from_str(&command::run(&mut command)?).context("the client's result")?;
    ensure!(tally.ok == 1, "the connection failed: {tally:?}");
    let start = Instant::now();
    loop {
        let found = agent.findings(None)?.into_iter().any(|finding| {
            finding.code == "bypass-no-rules"
                && finding.pod.is_some_and(|key| key.name == pod.spec.name)
        });
        if found {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            return Ok(now.as_secs_f64() - tally.began_us as f64 / 1e6);
        }
        ensure!(
            start.elapsed() < LIMIT,
            "nothing was found about pod {} in {} s",
            pod.spec.name,
            LIMIT.as_secs()
        );
        thread::sleep(POLL);
    }
}
