//! The node rebooted: everything that ran is gone at once, and everything starts again from the disk, in no order.
//!
//! The pods are the same to the API server and new to the kernel: other namespaces, cgroups, addresses and containers. What
//! is counted after that is compared with what the sidecar itself counts.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::agent::Agent;
use super::chaos;
use super::{Scene, Test, world};
use crate::process;

/// How long both count. The client makes five connections a second.
const COUNTED: Duration = Duration::from_secs(15);
/// What may be under way between two readings: two seconds of connections.
const UNDER_WAY: f64 = 10.0;
/// Envoy's counter of the connections that it captured.
const CAPTURED: &str = "listener.0.0.0.0_15001.downstream_cx_total: ";

/// Reboots the node; the agent must come to the same findings, and count each connection once.
pub(super) fn reboot(test: &mut Test, scene: &mut Scene<'_>) -> Result<()> {
    let boot = boot_id(test)?;
    let started = scene.agent.metric("process_start_time_seconds", &[])?;
    let events = chaos::counted(test)?;
    test.running.reboot(&test.stop)?;
    test.until("the rebooted node says so", |test| {
        ensure!(boot_id(test)? != boot, "it still has boot id {boot}");
        Ok(())
    })?;
    // What the API server has of the pods is of before for a while; only a younger agent is the one.
    test.until("on the rebooted node is an agent again", |test| {
        let agent = Agent::find(&test.kubectl)?;
        let now = agent.metric("process_start_time_seconds", &[])?;
        ensure!(now > started, "it is the old one");
        Ok(())
    })?;
    scene.moved(test)?;
    test.until("on the rebooted node the mesh's pods are ready", |test| {
        envoy_counts(test)?;
        world::ready(&test.kubectl, "mesh", 3)
    })?;
    test.finding(&scene.agent)?;
    let after = chaos::counted(test)?;
    test.check("a reboot makes no second Event of what was told", || {
        ensure!(after == events, "there were {events} Events, now {after}");
        Ok(String::new())
    });
    let counts = both_count(test, &scene.agent);
    test.check("after a reboot each connection is counted once", || {
        let (ours, envoys) = counts?;
        ensure!(
            envoys >= 20.0 && (ours - envoys).abs() <= UNDER_WAY,
            "{ours}, and Envoy says {envoys}"
        );
        Ok(format!("{ours}, and Envoy says {envoys}"))
    });
    Ok(())
}

fn boot_id(test: &Test) -> Result<String> {
    test.kubectl.run(&[
        "get",
        "nodes",
        "--output=jsonpath={.items[0].status.nodeInfo.bootID}",
    ])
}

/// How many connections were captured meanwhile: by the agent, and by the sidecar that captured them.
fn both_count(test: &Test, agent: &Agent) -> Result<(f64, f64)> {
    let ours = || {
        let series = [
            "pod=\"healthy\"",
            "direction=\"outbound\"",
            "verdict=\"intercepted\"",
        ];
        agent.metric("sidestep_interception_total", &series)
    };
    let (ours_before, envoys_before) = (ours()?, envoy_counts(test)?);
    test.rest(COUNTED)?;
    Ok((ours()? - ours_before, envoy_counts(test)? - envoys_before))
}

/// What Envoy of the healthy pod says, asked in the pod's own network.
fn envoy_counts(test: &Test) -> Result<f64> {
    let uid = test.kubectl.run(&[
        "get",
        "pod",
        "--namespace=mesh",
        "healthy",
        "--output=jsonpath={.metadata.uid}",
    ])?;
    let pid = chaos::process_of(&uid, "usr/bin/envoy")?;
    let text = process::output(
        Command::new("nsenter")
            .args(["--net", "--target", &pid.to_string()])
            .args(["curl", "--silent", "--max-time", "5"])
            .arg("http://127.0.0.1:15000/stats?filter=downstream_cx_total"),
    )?;
    let count = text.lines().find_map(|line| line.strip_prefix(CAPTURED));
    count
        .with_context(|| format!("Envoy says {text}"))?
        .parse()
        .context("no number")
}
