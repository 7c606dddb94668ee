//! Makes the agent: sources, probes, engine and server, or says which of them cannot be had and what to do.

use std::{io, sync::Arc};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    Agent, INPUTS,
    clock::Clock,
    port,
    recorder::Recorder,
    sources::{rules_options, sources},
};
use crate::{
    cli::{
        agent::AgentOptions,
        exit::{Exit, Fault},
        profiles,
    },
    engine::{Engine, Input},
    model::Coverage,
    node,
    output::{View, boards, http, log::FindingLog},
    probe::{self, ProbeError, ProbeOptions, Probes},
};

/// Answers requests until it is ended.
pub(super) struct Server {
    stop: watch::Sender<bool>,
    served: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Answers what was asked already, and no more.
    ///
    /// # Errors
    /// The server failed.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.served.await.context("the HTTP server was aborted")??;
        Ok(())
    }
}

/// Makes everything there is.
///
/// # Errors
/// See [`super::run`].
pub(super) async fn start(
    options: &AgentOptions,
) -> anyhow::Result<(Agent, mpsc::Receiver<Input>, Server)> {
    let clock = Clock::start();
    let profiles = profiles::load(options.profiles.as_deref())?;
    let config = options.engine_config(&host_name());
    let recorder = match &options.record {
        Some(path) => Recorder::create(path, &config, clock.now()).map_err(|error| {
            Fault::new(
                Exit::BadInput,
                "cannot write the recording",
                format!("{}: {error}", path.display()),
                "give a file in a writable directory to --record",
            )
        })?,
        None => Recorder::default(),
    };
    let listener = http::bind(options.listen).await?;
    let protection = port::protection(&options.port).await?;
    let probes = start_probes(options)?;
    let log = FindingLog::default();
    let (boards, latest) = boards();
    let view = View::new(latest, Arc::new(move || clock.now()))
        .with_config(options)?
        .with_loss("log", log.suppressed_total())
        .with_loss("recording", recorder.lost());
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(http::serve(listener, view, protection, until(stopped)));
    tracing::info!(listen = %options.listen, "watching");
    let (send, inputs) = mpsc::channel(INPUTS);
    let node_options = node::Options {
        rules: rules_options(options)?,
        ask_hook: Some(probe::has_connect_hook),
        ..node::Options::default()
    };
    let node = node::spawn(node_options, send.clone())
        .context("cannot start the thread that looks at the node")?;
    let cluster = sources(options, &config.node, &profiles, send).await?;
    let agent = Agent {
        engine: Engine::new(config, profiles, clock.now()),
        clock,
        probes,
        recorder,
        log,
        boards,
        drains: 0,
        coverage: Coverage::default(),
        node,
        cluster,
    };
    Ok((agent, inputs, Server { stop, served }))
}

/// # Errors
/// A [`Fault`]: what is missing, and what to do.
pub(super) fn start_probes(options: &AgentOptions) -> anyhow::Result<Probes> {
    let kprobes = !options.no_kprobes;
    Ok(Probes::start(&ProbeOptions { kprobes }).map_err(probe_fault)?)
}

fn probe_fault(error: ProbeError) -> Fault {
    let (exit, to_do) = match error {
        ProbeError::NoPrivileges { .. } => (
            Exit::NoPrivileges,
            "run as root, or give the agent CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_PTRACE; on Linux 5.10 \
             CAP_SYS_RESOURCE, too (the chart's capabilities.addForOldKernels)",
        ),
        ProbeError::NoBtf { .. } | ProbeError::Field { .. } | ProbeError::Required { .. } => (
            Exit::Kernel,
            "see docs/troubleshooting.md for the kernels that are supported",
        ),
        ProbeError::Abi { .. } | ProbeError::Object { .. } | ProbeError::System { .. } => {
            (Exit::Internal, "report it with the output of `uname -r`")
        }
    };
    Fault::new(exit, "the probes cannot start", error.to_string(), to_do)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}
