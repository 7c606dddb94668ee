//! A node where pods come and go: what the agent costs the API server, and whether it still knows whose connections are whose.
//!
//! The number of connections is known because the pods make exactly so many; the API server's own record tells the requests.
//! It must never count by what the agent says it did.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::agent::Agent;
use super::load::Begin;
use super::prometheus::Prometheus;
use super::{SOON, Test, world};

/// Pods that are there at once.
const AT_ONCE: u32 = 40;
/// How long a full node may take to start its pods, or to end them.
const CROWD_WITHIN: Duration = Duration::from_secs(400);
/// How many are made and deleted in a minute, at least: what a kubelet is tested for. Two processors that are not
/// busy otherwise do twice that.
const PER_MINUTE: f64 = 110.0;
/// Connections that each of them makes.
pub(super) const CONNECTIONS: u32 = 20;
/// How long requests are counted.
const COUNTED: Duration = Duration::from_secs(60);
/// Most requests in that time while nothing happens: two watches that are renewed every few minutes, and an Event now and then.
const REQUESTS: usize = 6;

/// What the agent asks of the API server while the node is quiet, by the API server's own record.
pub(super) fn requests(test: &mut Test) -> Result<()> {
    let before = audited(test)?;
    test.rest(COUNTED)?;
    let count = audited(test)? - before;
    test.check(
        &format!("at most {REQUESTS} requests to the API server in a quiet minute"),
        || {
            ensure!(count <= REQUESTS, "{count}");
            Ok(count.to_string())
        },
    );
    Ok(())
}

fn audited(test: &Test) -> Result<usize> {
    let log = fs::read_to_string(test.running.place.log("audit"))?;
    Ok(log.lines().count())
}

/// Pods that stay, beside which the others come and go: each must be known, and the memory must do for all.
pub(super) fn crowd(
    test: &mut Test,
    agent: &Agent,
    prometheus: &Prometheus,
    pods: u32,
) -> Result<()> {
    let start = Instant::now();
    let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: crowd}\n";
    test.kubectl.feed(&["apply", "--filename=-"], space)?;
    let manifests: String = (0..pods).map(staying_pod).collect();
    test.kubectl.feed(&["apply", "--filename=-"], &manifests)?;
    there_are(test, "Running", pods)?;
    test.check(
        &format!("of {pods} pods at once each one's connections are its own"),
        || {
            let question = "count(sum by (pod) (sidestep_connections_total{namespace=\"crowd\",leg=\"direct_out\"}) >= 5)";
            let seen = prometheus.wait(question, |value| value >= f64::from(pods))?;
            Ok(format!("{seen}, after {:.0} s", start.elapsed().as_secs_f64()))
        },
    );
    test.memory(agent);
    Ok(())
}

/// Ends the crowd.
pub(super) fn disperse(test: &Test) -> Result<()> {
    test.kubectl.run(&[
        "delete",
        "pods",
        "--namespace=crowd",
        "--all",
        "--now",
        "--wait=false",
    ])?;
    there_are(test, "", 0)
}

/// Waits until so many pods of the crowd, and no others, are in this phase.
fn there_are(test: &Test, phase: &str, pods: u32) -> Result<()> {
    let end = Instant::now() + CROWD_WITHIN;
    loop {
        test.stop.check()?;
        let text = test
            .kubectl
            .run(&["get", "pods", "--namespace=crowd", "--no-headers"])?;
        let there = text.lines().filter(|line| line.contains(phase)).count();
        if there == usize::try_from(pods)? && there == text.lines().count() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "of {pods} pods {there} are {phase} within {} s",
            CROWD_WITHIN.as_secs()
        );
        std::thread::sleep(super::LOOK * 4);
    }
}

/// Pods that make a known number of connections and are deleted: nearly all must be theirs.
pub(super) fn churn(
    test: &mut Test,
    agent: &Agent,
    prometheus: &Prometheus,
    pods: u32,
) -> Result<()> {
    let requests = audited(test)?;
    let begin = Begin::now(agent)?;
    conveyor(test, pods)?;
    let load = begin.end(agent)?;
    let requests = audited(test)? - requests;
    let made = pods * CONNECTIONS;
    let question = "sum(max_over_time(sidestep_connections_total{namespace=\"churn\",leg=\"direct_out\"}[15m]))";
    test.check(
        &format!("99.9 % of {made} connections of {pods} pods that live for seconds are theirs"),
        || {
            let seen = prometheus
                .wait(question, |value| value >= f64::from(made) * 0.999)
                .with_context(|| unaccounted(agent, prometheus))?;
            ensure!(
                seen.parse::<f64>()? <= f64::from(made),
                "more than were made: {seen}"
            );
            Ok(seen)
        },
    );
    // Slower, and what stands above was not tried as hard as it should be.
    test.check(
        &format!("at least {PER_MINUTE} pods a minute came and went"),
        || {
            let rate = f64::from(pods) / load.own.as_secs_f64() * 60.0;
            ensure!(rate >= PER_MINUTE, "the node took {rate:.0}; {load}");
            Ok(format!("{rate:.0}; {load}"))
        },
    );
    let lost = counted(&agent.text("/metrics")?);
    test.check("nothing was lost at a bound", || {
        ensure!(
            !lost.iter().any(|line| line.contains("_lost_")),
            "{}",
            lost.join("\n")
        );
        Ok(format!("{requests} requests to the API server meanwhile"))
    });
    Ok(())
}

/// What the agent counts of that which it does not know or did not get.
fn counted(metrics: &str) -> Vec<String> {
    let names = [
        "sidestep_unattributed_connections_total",
        "sidestep_agent_lost_total",
    ];
    metrics
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0"))
        .map(str::to_owned)
        .collect()
}

/// Where connections are that are nobody's: what the agent counts, and whose are too few.
fn unaccounted(agent: &Agent, prometheus: &Prometheus) -> String {
    let mut lines = counted(&agent.text("/metrics").unwrap_or_default());
    let few = format!(
        "sum by (pod) (max_over_time(sidestep_connections_total{{namespace=\"churn\"}}[15m])) != {CONNECTIONS}"
    );
    lines.push(format!("{:?}", prometheus.rows(&few)));
    let pods = "count(count by (pod) (max_over_time(sidestep_connections_total{namespace=\"churn\"}[15m])))";
    lines.push(format!("pods with series: {:?}", prometheus.ask(pods)));
    lines.join("\n")
}

/// Makes the namespace of such pods, if it is not there.
pub(super) fn namespace(test: &Test) -> Result<()> {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: churn}\n";
    test.kubectl
        .feed(&["apply", "--filename=-"], text)
        .map(drop)
}

/// Makes and deletes so many pods: a done one gives its place to the next, as on a node that is always full.
fn conveyor(test: &Test, pods: u32) -> Result<()> {
    namespace(test)?;
    let mut made = 0;
    let mut last = Instant::now();
    loop {
        test.stop.check()?;
        let text = test
            .kubectl
            .run(&["get", "pods", "--namespace=churn", "--no-headers"])?;
        let done: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(" Completed "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        if !done.is_empty() {
            last = Instant::now();
            let mut arguments = vec![
                "delete",
                "pods",
                "--namespace=churn",
                "--now",
                "--wait=false",
            ];
            arguments.extend(done);
            test.kubectl.run(&arguments)?;
        }
        let there = u32::try_from(text.lines().count())?;
        let new = (pods - made).min(AT_ONCE.saturating_sub(there));
        if new > 0 {
            let manifests: String = (made..made + new)
                .map(|index| short_pod("churn", index, world::SERVICE))
                .collect();
            test.kubectl.feed(&["apply", "--filename=-"], &manifests)?;
            made += new;
        } else if there == 0 {
            return Ok(());
        }
        ensure!(
            last.elapsed() < SOON,
            "no pod is done within {} s:\n{text}",
            SOON.as_secs()
        );
        std::thread::sleep(super::LOOK);
    }
}

/// A pod that connects now and then, for as long as it is there.
fn staying_pod(index: u32) -> String {
    short_pod("crowd", index, world::SERVICE)
        .replace("short-", "staying-")
        .replace(
            &format!("--count, \"{CONNECTIONS}\", --rate, \"{CONNECTIONS}\""),
            "--count, \"1000000\", --rate, \"0.2\"",
        )
}

/// A pod that makes its connections within a second, and is done.
pub(super) fn short_pod(namespace: &str, index: u32, to: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: short-{index}, namespace: {namespace}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
    - name: client
      image: sidestep.local/mesh:1
      imagePullPolicy: Never
      command: [sidestep-tests, actor, connect, --to, \"{to}\", --count, \"{CONNECTIONS}\", --rate, \"{CONNECTIONS}\"]
"
    )
}
