//! The real Prometheus, which scrapes the agent as in any cluster and is asked as from any dashboard.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::daemons::Programs;
use super::super::place::Place;
use crate::process;

/// A scrape a second, so anything is there after a few.
const SOON: Duration = Duration::from_secs(60);

/// Ended when dropped.
#[derive(Debug)]
pub(super) struct Prometheus {
    child: Child,
    /// Where it listens.
    address: &'static str,
    /// Its configuration.
    config: PathBuf,
}

impl Prometheus {
    /// Starts it on this machine; it reaches the pods over the cluster's link.
    pub(super) fn start(
        place: &Place,
        programs: &Programs,
        name: &str,
        address: &'static str,
        config: &str,
    ) -> Result<Self> {
        let path = place.join(format!("{name}.yaml"));
        fs::write(&path, config)?;
        process::output(
            std::process::Command::new(programs.tools.join("usr/bin/promtool"))
                .args(["check", "config"])
                .arg(&path),
        )?;
        let log = File::create(place.log(name))?;
        let child = process::dies_with_us(&programs.tools.join("usr/bin/prometheus"))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                place.join(name).display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Prometheus")?;
        Ok(Self {
            child,
            address,
            config: path,
        })
    }

    /// Gives it another configuration; what it has seen stays.
    pub(super) fn configure(&self, config: &str) -> Result<()> {
        fs::write(&self.config, config)?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP)?;
        Ok(())
    }

    /// Sum of what a question is answered with; an error if that is nothing.
    pub(super) fn ask(&self, question: &str) -> Result<f64> {
        let series = self.rows(question)?;
        ensure!(!series.is_empty(), "no series for {question}");
        Ok(series.iter().map(|(_, value)| value).sum())
    }

    /// Labels and values of what a question is answered with.
    pub(super) fn rows(&self, question: &str) -> Result<Vec<(String, f64)>> {
        let answer: Value = ureq::get(format!("http://{}/api/v1/query", self.address))
            .query("query", question)
            .call()
            .context("Prometheus does not answer")?
            .body_mut()
            .read_json()?;
        let series = answer
            .pointer("/data/result")
            .and_then(Value::as_array)
            .context("no result")?;
        series
            .iter()
            .map(|one| {
                let value = one.pointer("/value/1").and_then(Value::as_str);
                let value = value.and_then(|value| value.parse().ok());
                Ok((one["metric"].to_string(), value.context("no value")?))
            })
            .collect()
    }

    /// Asks until the answer is good.
    pub(super) fn wait(&self, question: &str, good: impl Fn(f64) -> bool) -> Result<String> {
        let end = Instant::now() + SOON;
        loop {
            let answer = self.ask(question);
            match answer {
                Ok(value) if good(value) => return Ok(value.to_string()),
                answer if Instant::now() >= end => bail!("{question}: {answer:?}"),
                _ => std::thread::sleep(Duration::from_millis(250)),
            }
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
