//! Findings and troubles as structured log lines, and the log's set-up.
//!
//! A log pipeline gets one line when a finding opens and one when it resolves, with the
//! same field names as the JSON API. Lines are rate-limited by a token bucket, because a
//! node-wide fault opens a finding in every pod at once; what is suppressed is counted
//! and told. The board still has everything: the log must never be the only place.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::{
    engine::{Finding, FindingState, Output, Severity},
    model::Time,
};

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("the log filter {filter:?} is not understood: {source}")]
    Filter {
        /// The filter given.
        filter: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else set the global subscriber.
    #[error("the log is already set up")]
    AlreadySet,
}

/// The client of the API server warns of every try that fails; the agent tells the trouble once, in its own words. What the user's
/// filter says of them comes after this, and wins.
const QUIET: &str = "kube_runtime=error,kube_client=error";

/// Sends the log to stderr.
///
/// # Errors
/// The filter does not parse, or the log is set up already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let whole = format!("{QUIET},{filter}");
    let parsed = EnvFilter::try_new(whole).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(parsed);
    match format {
        LogFormat::Text => lines.with_ansi(colour_on_stderr()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(|_| LogError::AlreadySet)
}

/// Colour only for eyes: a terminal, and no `NO_COLOR` (<https://no-color.org>).
fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Lines that may come at once before the limit bites.
const BURST: u64 = 50;
/// Microseconds in which one more line is allowed.
const REFILL_MICROS: u64 = 1_000_000;

/// Writes the engine's outputs and its sources' troubles to the log, at most [`BURST`] at once and one a second after that.
#[derive(Debug)]
pub struct FindingLog {
    tokens: u64,
    refilled: Time,
    suppressed: u64,
    suppressed_total: Arc<AtomicU64>,
    sources: BTreeMap<String, String>,
}

impl Default for FindingLog {
    fn default() -> Self {
        Self {
            tokens: BURST,
            refilled: Time(0),
            suppressed: 0,
            suppressed_total: Arc::default(),
            sources: BTreeMap::new(),
        }
    }
}

impl FindingLog {
    /// Logs one output at `now`, or counts it as suppressed. Tells whether it was logged.
    pub fn write(&mut self, now: Time, output: &Output) -> bool {
        if !self.allowed(now) {
            return false;
        }
        match output {
            Output::Opened(finding) => opened(finding),
            Output::Resolved(finding) => resolved(finding),
        }
        true
    }

    /// Logs which sources of identity got into trouble or out of it since the last call.
    pub fn sources(&mut self, now: Time, sources: &BTreeMap<String, String>) {
        if self.sources == *sources {
            return;
        }
        let before = std::mem::replace(&mut self.sources, sources.clone());
        for (source, trouble) in sources {
            if before.get(source) != Some(trouble) && self.allowed(now) {
                tracing::warn!(%source, %trouble, "a source of identity is in trouble");
            }
        }
        for source in before.keys() {
            if !self.sources.contains_key(source) && self.allowed(now) {
                tracing::info!(%source, "the source of identity works again");
            }
        }
    }

    /// Whether one more line may be written now; if not, it is counted.
    fn allowed(&mut self, now: Time) -> bool {
        self.refill(now);
        if self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            self.suppressed_total.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.tokens -= 1;
        let before = std::mem::take(&mut self.suppressed);
        if before > 0 {
            tracing::warn!(
                suppressed = before,
                "lines left out of the log; see /v1/findings"
            );
        }
        true
    }

    /// Lines suppressed since the start, for [`super::View::with_loss`].
    #[must_use]
    pub fn suppressed_total(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.suppressed_total)
    }

    fn refill(&mut self, now: Time) {
        let earned = now.micros_since(self.refilled) / REFILL_MICROS;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = self
                .refilled
                .plus_micros(earned.saturating_mul(REFILL_MICROS));
        }
    }
}

/// The log's level is fixed per call site, hence one line of code per severity.
fn opened(finding: &Finding) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                code = finding.code.as_str(),
                severity = finding.severity.as_str(),
                confidence = finding.confidence.as_str(),
                pod = %pod(finding),
                container = finding.container.as_deref().unwrap_or_default(),
                evidence = %evidence(finding),
                remedy = %finding.remedy,
                "finding opened: {}", finding.summary
            )
        };
    }
    match finding.severity {
        Severity::Critical => line!(error),
        Severity::Warning => line!(warn),
        Severity::Info => line!(info),
    }
}

fn resolved(finding: &Finding) {
    let until = match finding.state {
        FindingState::Resolved { at } => at,
        FindingState::Open => finding.last_seen,
    };
    tracing::info!(
        code = finding.code.as_str(),
        severity = finding.severity.as_str(),
        pod = %pod(finding),
        container = finding.container.as_deref().unwrap_or_default(),
        connections = finding.connections,
        open_seconds = until.micros_since(finding.first_seen) / 1_000_000,
        "finding resolved: {}", finding.summary
    );
}

fn pod(finding: &Finding) -> String {
    finding
        .pod
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

fn evidence(finding: &Finding) -> String {
    let facts: Vec<String> = finding
        .evidence
        .iter()
        .map(|fact| format!("{}={}", fact.what, fact.value))
        .collect();
    facts.join("; ")
}

#[cfg(test)]
mod tests;
