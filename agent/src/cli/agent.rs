//! Options of `sidestep agent`.
//!
//! Only what a person or a DaemonSet sets; everything is checked while parsing, so that
//! `app` never meets a value it has to refuse. Every option has an environment variable.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
    value_parser,
};
use serde::Serialize;

use super::{cluster::ClusterOptions, port::PortOptions, rules::RulesOptions};
use crate::{engine, output::log::LogFormat};

/// Options of `sidestep agent`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct AgentOptions {
    /// Directory of Pod manifests (*.yaml, *.yml, *.json) that say who is who on this host.
    ///
    /// Watched for changes. A malformed manifest is reported and never hides the others.
    #[arg(long, env = "SIDESTEP_PODS", value_name = "DIR")]
    pub pods: Option<PathBuf>,

    /// Address and port of /metrics, /healthz, /readyz and /v1.
    #[arg(
        long,
        env = "SIDESTEP_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9964"
    )]
    pub listen: SocketAddr,

    /// The port.
    #[command(flatten)]
    #[serde(flatten)]
    pub port: PortOptions,

    /// Write every input of the engine to this file, for `sidestep replay`.
    ///
    /// It holds pod specs, addresses, ports and process names; no payload and no environment values of processes.
    #[arg(long, env = "SIDESTEP_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Directory of mesh profiles (*.toml) read in addition to the built-in ones.
    ///
    /// A profile with the name of a built-in one replaces it.
    #[arg(long, env = "SIDESTEP_PROFILES", value_name = "DIR")]
    pub profiles: Option<PathBuf>,

    /// Name of this node in metrics, JSON and the cluster; default is NODE_NAME, else the host name.
    #[arg(long, env = "SIDESTEP_NODE_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node_name: Option<String>,

    /// Use tracepoints only, as on a kernel that refuses kprobes and fentry.
    #[arg(long, env = "SIDESTEP_NO_KPROBES", value_parser = BoolishValueParser::new())]
    pub no_kprobes: bool,

    /// Most edges (who connected to what) held; the rest is counted without destinations.
    #[arg(long, env = "SIDESTEP_MAX_EDGES", value_name = "N", default_value_t = engine::Config::default().max_edges)]
    pub max_edges: usize,

    /// Seconds a finding stays open without new evidence.
    #[arg(
        long, env = "SIDESTEP_RESOLVE_AFTER", value_name = "SECS",
        default_value_t = engine::Config::default().resolve_after_s, value_parser = value_parser!(u32).range(1..)
    )]
    pub resolve_after: u32,

    /// The cluster.
    #[command(flatten)]
    #[serde(flatten)]
    pub cluster: ClusterOptions,

    /// How rules are read.
    #[command(flatten)]
    #[serde(flatten)]
    pub rules: RulesOptions,

    /// Run for this many seconds, then stop.
    #[arg(long = "for", env = "SIDESTEP_FOR", value_name = "SECS", value_parser = value_parser!(u32).range(1..))]
    pub run_for: Option<u32>,

    /// Attach the probes and read nothing: the middle term of the benchmark.
    #[arg(long, hide = true)]
    pub probes_only: bool,

    /// Form of the log on stderr.
    #[arg(long, env = "SIDESTEP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What to log, e.g. `info`, `debug`, `sidestep::probe=trace,info`.
    #[arg(
        long,
        env = "SIDESTEP_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
}

impl AgentOptions {
    /// How long to run, `None` for ever.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.run_for
            .map(|secs| Duration::from_secs(u64::from(secs)))
    }

    /// The engine's settings from these options; `host` is the name used without `--node-name`.
    #[must_use]
    pub fn engine_config(&self, host: &str) -> engine::Config {
        engine::Config {
            node: self
                .node_name
                .clone()
                .or_else(given_name)
                .unwrap_or_else(|| host.to_owned()),
            max_edges: self.max_edges,
            resolve_after_s: self.resolve_after,
            ..engine::Config::default()
        }
    }
}

/// What a DaemonSet says through the downward API, under the name most of them use.
fn given_name() -> Option<String> {
    std::env::var("NODE_NAME")
        .ok()
        .filter(|name| !name.is_empty())
}
