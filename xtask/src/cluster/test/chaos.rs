//! Trouble: an agent that is killed, and an API server that goes away and comes back.
//!
//! Both must cost nothing but time: the same findings, told as the same Events, and connections judged all along.
//! It must never end what is not the test cluster's: the agent's process is found by its cgroup.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::agent::Agent;
use super::churn::{self, CONNECTIONS, short_pod};
use super::prometheus::Prometheus;
use super::{Test, world};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(20);

/// Kills the agent's process; the kubelet starts it again, and it must come to the same findings.
pub(super) fn kill_agent(test: &mut Test, agent: &Agent) -> Result<Agent> {
    let started = agent.metric("process_start_time_seconds", &[])?;
    let events = counted(test)?;
    // It is the container's first process, which the kernel protects from itself but not from the node.
    let pid = process_of("", "usr/bin/sidestep")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    test.until("a killed agent is back", |test| {
        let agent = Agent::find(&test.kubectl)?;
        ensure!(
            agent.metric("process_start_time_seconds", &[])? > started,
            "still the old one"
        );
        Ok(())
    })?;
    let agent = Agent::find(&test.kubectl)?;
    test.finding(&agent)?;
    let after = counted(test)?;
    test.check("it tells what it told before as the same Event", || {
        ensure!(after == events, "there were {events} Events, now {after}");
        Ok(String::new())
    });
    Ok(agent)
}

/// Events of the agent about the mesh.
pub(super) fn counted(test: &Test) -> Result<usize> {
    let text = test
        .kubectl
        .run(&["get", "events", "--namespace=mesh", "--no-headers"])?;
    Ok(text
        .lines()
        .filter(|line| line.contains("BypassNoRules"))
        .count())
}

/// A process of the node's pods by its program and a part of its cgroup's name. Others on this machine may run the same.
pub(super) fn process_of(part: &str, program: &str) -> Result<i32> {
    fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let groups = fs::read_to_string(entry.path().join("cgroup")).ok()?;
            let runs = fs::read_link(entry.path().join("exe")).ok()?;
            (groups.contains("/sidestep-cluster/kubepods/")
                && groups.contains(part)
                && runs.ends_with(program))
            .then_some(pid)
        })
        .next()
        .with_context(|| format!("no process {program} of {part}"))
}

/// How many of the agent's sources at the API server are in trouble. Others may be, for what else this machine does.
fn troubled(agent: &Agent) -> Result<f64> {
    agent.metric("sidestep_agent_sources_failed", &["source=\"kubernetes"])
}

/// Without the API server the agent goes on; when it is back, so are its watches.
pub(super) fn api_server_away(
    test: &mut Test,
    agent: &Agent,
    prometheus: &Prometheus,
) -> Result<()> {
    let hold = test.running.place.hold("kube-apiserver");
    fs::write(&hold, "")?;
    let away = while_away(test, agent);
    fs::remove_file(&hold)?;
    away?;
    back(test, agent, prometheus)
}

fn while_away(test: &mut Test, agent: &Agent) -> Result<()> {
    let judged = || {
        let series = [
            "namespace=\"mesh\"",
            "pod=\"healthy\"",
            "verdict=\"intercepted\"",
        ];
        agent.metric("sidestep_interception_total", &series)
    };
    let before = judged()?;
    let end = Instant::now() + AWAY;
    while Instant::now() < end {
        test.stop.check()?;
        std::thread::sleep(super::LOOK);
    }
    test.check(
        "without the API server connections are still judged",
        || {
            let more = judged()? - before;
            ensure!(more >= 20.0, "{more} more in {} s", AWAY.as_secs());
            Ok(format!("{more} in {} s", AWAY.as_secs()))
        },
    );
    test.check(
        "without the API server the finding stays, and nothing new comes",
        || {
            let found = agent.findings("mesh")?;
            ensure!(
                found == [("broken".to_owned(), "bypass-no-rules".to_owned())],
                "there is {found:?}"
            );
            Ok(String::new())
        },
    );
    test.check(
        "without the API server the agent is ready and says what is wrong",
        || {
            let (status, text) = agent.page("/readyz")?;
            let trouble = troubled(agent)?;
            ensure!(
                status == 200 && trouble >= 1.0,
                "{status}, sources in trouble {trouble}: {text}"
            );
            Ok(format!("{trouble} sources in trouble"))
        },
    );
    Ok(())
}

fn back(test: &mut Test, agent: &Agent, prometheus: &Prometheus) -> Result<()> {
    test.until("the API server is back", |test| {
        test.kubectl.run(&["get", "--raw", "/readyz"]).map(drop)
    })?;
    test.until("the agent's watches are back", |_| {
        let trouble = troubled(agent)?;
        ensure!(trouble == 0.0, "{trouble} are not");
        Ok(())
    })?;
    churn::namespace(test)?;
    test.kubectl.feed(
        &["apply", "--filename=-"],
        &short_pod("churn", 9_999, world::SERVICE),
    )?;
    // It lives for a second or two: the watches must not only be said to be back.
    test.until("a short pod made after that is seen", |_| {
        let question = "sum(sidestep_connections_total{namespace=\"churn\",pod=\"short-9999\"})";
        let seen = prometheus.ask(question)?;
        ensure!(seen >= f64::from(CONNECTIONS / 2), "{seen} connections");
        Ok(())
    })?;
    test.until("the node is as before", |test| {
        world::ready(&test.kubectl, "mesh", 3)
    })
}
