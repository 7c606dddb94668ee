//! What was found against what is right.
//!
//! A finding counts from the first time it was seen, even if it is gone by the end: an alarm that came and went was
//! still an alarm. Findings about pods of other runs on the same machine are not ours to judge.
//!
//! It must never excuse a code because another one is right.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::actions::Stage;
use crate::agent::{Agent, Finding};
use crate::run::Report;
use crate::spec::{Check, Counter, Scenario};
use crate::world::World;

/// Seen findings, each with the time of its first sight.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In the order of their first sight.
    pub(crate) all: Vec<(Instant, Finding)>,
}

impl Seen {
    /// Asks the agent once.
    pub(crate) fn look(&mut self, agent: &Agent, world: &World) -> Result<()> {
        self.note(agent.findings(world.namespace())?, world);
        Ok(())
    }

    /// Asks once for everything, the agent's findings about itself included.
    pub(crate) fn look_at_all(&mut self, agent: &Agent, world: &World) -> Result<()> {
        self.note(agent.findings(None)?, world);
        Ok(())
    }

    fn note(&mut self, findings: Vec<Finding>, world: &World) {
        let now = Instant::now();
        for finding in findings
            .into_iter()
            .filter(|finding| is_ours(finding, world))
        {
            let known = self
                .all
                .iter_mut()
                .find(|(_, known)| known.code == finding.code && known.pod == finding.pod);
            match known {
                // Its evidence grows.
                Some((_, known)) => *known = finding,
                None => self.all.push((now, finding)),
            }
        }
    }

    /// The first sight of a finding.
    pub(crate) fn first(&self, pod: &str, code: &str) -> Option<&(Instant, Finding)> {
        self.all.iter().find(|(_, finding)| {
            finding.code == code && finding.pod.as_ref().is_some_and(|key| key.name == pod)
        })
    }

    /// Everything that is expected was seen.
    pub(crate) fn complete(&self, scenario: &Scenario) -> bool {
        scenario
            .expect
            .iter()
            .all(|expect| self.first(&expect.pod, &expect.code).is_some())
    }
}

/// Fills the report with what was found, missed and wrong.
pub(crate) fn judge(stage: &Stage<'_>, seen: &Seen, kprobes: bool, report: &mut Report) {
    let scenario = stage.scenario;
    let start = stage.affected.unwrap_or_else(Instant::now);
    let mut latest = None;
    for expect in &scenario.expect {
        match seen.first(&expect.pod, &expect.code) {
            Some((at, finding)) => {
                report.found.push(expect.code.clone());
                let seconds = at.saturating_duration_since(start).as_secs_f64();
                latest = Some(seconds.max(latest.unwrap_or(0.0)));
                let text = serde_json::to_string(finding).unwrap_or_default();
                for words in expect
                    .says
                    .iter()
                    .filter(|words| !text.contains(words.as_str()))
                {
                    report.problems.push(format!(
                        "{} of pod {} does not say `{words}`",
                        expect.code, expect.pod
                    ));
                }
            }
            None => report
                .problems
                .push(format!("missed: {} of pod {}", expect.code, expect.pod)),
        }
    }
    report.found = codes(report.found.iter());
    report.seconds_to_detect = latest.map(|seconds| (seconds * 1000.0).round() / 1000.0);
    if let Some(seconds) = latest.filter(|seconds| *seconds > scenario.detect_within) {
        report.problems.push(format!(
            "found after {seconds:.1} s, later than {} s",
            scenario.detect_within
        ));
    }
    let wrong: Vec<&Finding> = seen
        .all
        .iter()
        .map(|(_, finding)| finding)
        .filter(|finding| is_unexpected(stage, finding, kprobes))
        .collect();
    for finding in &wrong {
        let pod = finding.pod.as_ref().map_or("the agent", |pod| &pod.name);
        let summary = finding
            .rest
            .get("summary")
            .and_then(|value| value.as_str())
            .unwrap_or_default();
        report
            .problems
            .push(format!("unexpected: {} of {pod}: {summary}", finding.code));
    }
    report.unexpected = codes(wrong.iter().map(|finding| &finding.code));
}

/// No finding of a pod was opened more than once: that is an alert that flaps. (None at all is a log that was full.)
pub(crate) fn steady(agent: &Agent, seen: &Seen, report: &mut Report) -> Result<()> {
    for (_, finding) in &seen.all {
        let Some(pod) = &finding.pod else { continue };
        let times = agent.opened(&finding.code, pod)?;
        if times > 1 {
            let code = &finding.code;
            report
                .problems
                .push(format!("{code} was opened {times} times: it flaps"));
        }
    }
    Ok(())
}

/// About the agent, or about a pod of this run. A pod that is known from the node alone has the run's id in its name.
pub(crate) fn is_ours(finding: &Finding, world: &World) -> bool {
    finding.pod.as_ref().is_none_or(|key| {
        let named = world.pods.iter().map(|pod| &pod.spec);
        let mut named = named.filter(|pod| pod.name == key.name && pod.namespace == key.namespace);
        named.next().is_some() || key.name.contains(&world.id)
    })
}

fn is_unexpected(stage: &Stage<'_>, finding: &Finding, kprobes: bool) -> bool {
    let scenario = stage.scenario;
    let pod = finding.pod.as_ref().map(|key| key.name.as_str());
    let expected = scenario
        .expect
        .iter()
        .any(|expect| expect.code == finding.code && Some(expect.pod.as_str()) == pod);
    let allowed = scenario.allow.iter().any(|allow| {
        allow.code == finding.code && (allow.pod.is_none() || allow.pod.as_deref() == pod)
    });
    // Where kernel functions cannot be probed, the agent has to say so.
    let says_so = !kprobes && pod.is_none() && finding.code == "agent-degraded";
    // Namespaces of other runs on the same machine have no manifest here.
    let others = pod.is_none() && finding.code == "agent-unattributed";
    !expected && !allowed && !says_so && !others
}

/// Compares a counter of the harness's own processes with what the scenario says.
pub(crate) fn fact(stage: &Stage<'_>, check: &Check) -> Result<()> {
    let running = stage
        .running
        .get(&check.process)
        .ok_or_else(|| anyhow!("process `{}` does not run", check.process))?;
    let key = match check.counter {
        Counter::Outbound => "outbound",
        Counter::Inbound => "inbound",
        Counter::Served => "served",
        Counter::Dialed => "dialed",
        Counter::DialFailed => "dial_failed",
    };
    let counters = running.counters();
    let value = counters
        .get(key)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    if check.min.is_some_and(|min| value < min) || check.max.is_some_and(|max| value > max) {
        bail!(
            "the world is not as described: {} counted {key} = {value}, wanted {}..{}",
            check.process,
            check.min.unwrap_or(0),
            check.max.map_or_else(String::new, |max| max.to_string())
        );
    }
    Ok(())
}

/// Compares how signals are attached with what the scenario says.
pub(crate) fn attached(agent: &Agent, signals: &BTreeMap<String, String>) -> Result<()> {
    if signals.is_empty() {
        return Ok(());
    }
    let page = agent.coverage()?;
    let rows = page["coverage"]["signals"]
        .as_array()
        .context("no signals")?;
    for (signal, variant) in signals {
        let row = rows.iter().find(|row| row["signal"] == signal.as_str());
        let row = row.ok_or_else(|| anyhow!("there is no signal {signal}: {page}"))?;
        ensure!(
            row["variant"] == variant.as_str(),
            "{signal} is not attached as {variant}: {row}"
        );
    }
    Ok(())
}

/// Codes in order, each once.
pub(crate) fn codes<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut codes: Vec<String> = all.cloned().collect();
    codes.sort();
    codes.dedup();
    codes
}
