//! How much of a stretch of time the node had for itself, and what the agent took of it.
//!
//! A node is often a virtual machine among others. What the hypervisor gives to them (`steal`) is neither
//! the node's slowness nor the agent's, and a rate that does not leave it out measures the neighbours.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::agent::Agent;

/// Where such a stretch begins.
pub(super) struct Begin {
    at: Instant,
    ticks: Ticks,
    agent: f64,
}

/// What is known when it has ended.
pub(super) struct Load {
    /// The time that the node's processors ran the node, or rested.
    pub(super) own: Duration,
    /// Share of the whole time that was not the node's, from 0 to 1.
    pub(super) stolen: f64,
    /// Processor time of the agent.
    pub(super) agent: Duration,
}

impl Begin {
    /// From now on.
    pub(super) fn now(agent: &Agent) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            ticks: Ticks::read()?,
            agent: agent.processor_seconds()?,
        })
    }

    /// Until now.
    pub(super) fn end(&self, agent: &Agent) -> Result<Load> {
        let stolen = Ticks::read()?.stolen_since(&self.ticks);
        Ok(Load {
            own: self.at.elapsed().mul_f64(1.0 - stolen),
            stolen,
            agent: Duration::from_secs_f64((agent.processor_seconds()? - self.agent).max(0.0)),
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, agent) = (self.own.as_secs_f64(), self.agent.as_secs_f64());
        let stolen = self.stolen * 100.0;
        write!(
            out,
            "in {own:.0} s of the node's own the agent took {agent:.1} s of processor time, and other machines {stolen:.1} % of the whole"
        )
    }
}

/// The first line of `/proc/stat`: ticks of all processors since the boot.
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// user, nice, system, idle, iowait, irq, softirq, steal; what guests took stands in `user` already.
    const FIELDS: usize = 8;

    fn read() -> Result<Self> {
        let path = "/proc/stat";
        let text = fs::read_to_string(path).context(path)?;
        Self::parse(&text)
            .with_context(|| format!("{path} does not begin with times of processors"))
    }

    fn parse(text: &str) -> Option<Self> {
        let times = text.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = times
            .split_whitespace()
            .take(Self::FIELDS)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            all: times.iter().sum(),
            stolen: *times.get(Self::FIELDS - 1)?,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "ticks of a test")]
    fn stolen_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

    use super::Ticks;

    #[test]
    fn what_others_took_is_a_share_of_all_time() {
        let before = Ticks::parse("cpu  100 0 50 800 10 0 5 35 7 0\ncpu0 1 2\n").unwrap();
        let after = Ticks::parse("cpu  150 0 60 800 10 0 5 75 7 0\n").unwrap();
        assert!((after.stolen_since(&before) - 0.4).abs() < 1e-9);
        assert!(before.stolen_since(&before).abs() < 1e-9);
    }

    #[test]
    fn other_lines_are_refused() {
        for text in ["", "intr 1 2", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x"] {
            assert!(Ticks::parse(text).is_none(), "{text}");
        }
    }
}
