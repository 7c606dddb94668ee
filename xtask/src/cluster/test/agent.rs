//! The agent as its users see it: over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::kubectl::Kubectl;
use super::world;

/// An agent's address.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    /// Address and port.
    pub(super) address: String,
}

impl Agent {
    /// The one that is ready.
    pub(super) fn find(kubectl: &Kubectl) -> Result<Self> {
        let address = world::agent_address(kubectl)?;
        Ok(Self {
            address: format!("{address}:9964"),
        })
    }

    /// A page, whatever its status, as text.
    pub(super) fn page(&self, path: &str) -> Result<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .build()
            .into();
        let mut answer = agent
            .get(format!("http://{}{path}", self.address))
            .call()
            .with_context(|| format!("the agent does not answer {path}"))?;
        let text = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), text))
    }

    /// A page that must be there.
    pub(super) fn text(&self, path: &str) -> Result<String> {
        match self.page(path)? {
            (200, text) => Ok(text),
            (status, text) => bail!("{path} says {status}: {text}"),
        }
    }

    /// Pod and code of the open findings of a namespace, sorted.
    pub(super) fn findings(&self, namespace: &str) -> Result<Vec<(String, String)>> {
        let page: Value = serde_json::from_str(&self.text("/v1/findings")?)?;
        let word = |finding: &Value, path: &str| {
            finding
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut found: Vec<(String, String)> = page["findings"]
            .as_array()
            .context("the page has no findings")?
            .iter()
            .filter(|finding| {
                word(finding, "/pod/namespace") == namespace && word(finding, "/state") == "open"
            })
            .map(|finding| (word(finding, "/pod/name"), word(finding, "/code")))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Sum of a metric's series that contain all of some texts.
    pub(super) fn metric(&self, name: &str, with: &[&str]) -> Result<f64> {
        let text = self.text("/metrics")?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && with.iter().all(|part| line.contains(part))
        });
        lines
            .map(|line| {
                let value = line.rsplit(' ').next().unwrap_or_default();
                value
                    .parse::<f64>()
                    .with_context(|| format!("no number in {line}"))
            })
            .sum()
    }

    /// Processor time that it took since its start, in seconds.
    pub(super) fn processor_seconds(&self) -> Result<f64> {
        self.metric("process_cpu_seconds_total", &[])
    }

    /// Resident memory in bytes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of bytes, exact in a double"
    )]
    pub(super) fn memory(&self) -> Result<u64> {
        Ok(self.metric("process_resident_memory_bytes", &[])? as u64)
    }
}
