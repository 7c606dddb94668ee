//! Peak memory of the agent on a full node: many pods, many edges; and what it takes of a processor while they rest.
//!
//! Every pod connects to a number of ports of one server, so that there are pods × ports edges out and as many in.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::cpu::cpu_us;
use super::full_node;
use crate::agent::{Agent, Recipe};
use crate::command;
use crate::process::{self, Running};
use crate::reap::Session;
use crate::world::World;

/// Several rounds of everything that is done now and then.
const REST: Duration = Duration::from_secs(30);
/// With 250 pods: 5 000 edges out and 5 000 in.
const PORTS: std::ops::Range<u16> = 7000..7020;

/// Measures; MiB.
pub(super) fn measure(session: &Session, recipe: &Recipe, pods: u16) -> Result<Value> {
    let (world, mut running) = full_node(session, &text(pods))?;
    servers(&world, &mut running)?;
    let agent = Agent::start(&world, recipe)?;
    let mib = |field: &str| Ok::<_, anyhow::Error>(status_kib(agent.pid(), field)? as f64 / 1024.0);
    let (idle, start_peak) = (mib("VmRSS:")?, mib("VmHWM:")?);
    for pod in &world.pods {
        let place = process::place_in(pod, "app", None, None)?;
        for port in PORTS {
            let mut command = process::actor(&place);
            command.args([
                "connect",
                "--bare",
                "--rate",
                "1000000",
                "--to",
                &format!("{}:{port}", world.net.node()),
            ]);
            command::run(&mut command)?;
        }
    }
    thread::sleep(Duration::from_secs(5));
    let (before, start) = (cpu_us(&world)?, Instant::now());
    thread::sleep(REST);
    let spent = cpu_us(&world)?.saturating_sub(before);
    let at_rest = spent as f64 / 1e3 / start.elapsed().as_secs_f64();
    let page = agent.coverage()?;
    let mut tables = page["kernel"]["maps"].as_array().into_iter().flatten();
    let edges = tables.find(|table| table[0] == "edges");
    // What the kernel's traffic took, before anybody asked for pages.
    let unasked = mib("VmHWM:")?;
    let _ = agent.get("/metrics")?;
    let _ = agent.get("/v1/edges")?;
    Ok(json!({
        "pods": pods, "edges": edges.map(|table| table[1].clone()), "agent_ms_per_s_at_rest": at_rest,
        "idle_mib": idle, "start_peak_mib": start_peak, "unasked_peak_mib": unasked,
        "peak_mib": mib("VmHWM:")?, "rss_mib": mib("VmRSS:")?,
        "own_mib": mib("RssAnon:")?, "file_mib": mib("RssFile:")?, "shared_mib": mib("RssShmem:")?,
    }))
}

/// What all pods connect to.
fn servers(world: &World, running: &mut Vec<Running>) -> Result<()> {
    for port in PORTS {
        let mut command = process::actor(&world.node());
        command.args([
            "serve",
            "--hang-up",
            "--listen",
            "0.0.0.0",
            "--port",
            &port.to_string(),
        ]);
        running.push(process::start(
            world,
            &format!("node/{port}"),
            command,
            PathBuf::new(),
        )?);
    }
    Ok(())
}

fn text(pods: u16) -> String {
    let mut text = "name = \"bench\"\ndescription = \"a full node\"\n".to_owned();
    for index in 0..pods {
        // The rules would cost minutes to install, and are not what is measured.
        text.push_str(&format!("[[pod]]\nname = \"p{index}\"\nmesh = \"istio\"\nrules = []\nproxy = {{ kind = \"none\" }}\n"));
    }
    text
}

/// A field of /proc/PID/status.
pub(crate) fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent's status")?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no {field}"))
}
