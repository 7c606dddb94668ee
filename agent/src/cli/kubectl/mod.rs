//! `kubectl sidestep`: what all agents of a cluster say, with the user's own kubeconfig and rights.
//!
//! The same reports as those of one agent, drawn from all. Pages are merged and nothing is concluded here; a node that does
//! not answer is named in every report, because a clean answer that lacks a node is no clean answer.

mod ask;
mod gather;
mod lines;
mod top;

use std::{ffi::OsStr, path::Path, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::ask::Asker;
use super::{Exit, Fault, explain::code_parser, findings, why::Asked};
use crate::{
    cluster::FleetError,
    engine::{Code, Severity},
    output::api::pod,
};

/// Name under which kubectl finds a plugin called `sidestep`.
const PLUGIN: &str = "kubectl-sidestep";
/// Label the chart gives its agents.
const AGENTS: &str = "app.kubernetes.io/name=sidestep";
/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(2);

/// `kubectl sidestep`.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-sidestep",
    bin_name = "kubectl sidestep",
    version,
    about = "Shows, for every pod of the cluster, whether its traffic really goes through the service-mesh sidecar"
)]
struct Plugin {
    #[command(flatten)]
    options: Options,
}

/// Options of `kubectl sidestep`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what is wrong; with a pod's name, the evidence and what to do.
    Findings(FindingsOptions),
    /// Show every pod: its mesh, what should be captured, and what was.
    Pods(PodsOptions),
    /// Explain one connection of a pod: what its spec wants, what the live rules do, and what was seen.
    Why(WhyOptions),
    /// Show the live netfilter rules of a pod, with those marked that take its connections.
    Rules(RulesOptions),
    /// Show the busiest pods live: connections a second, by what became of them.
    Top(top::TopOptions),
}

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Json,
    Yaml,
    /// Not cut to the terminal's width, with the node.
    Wide,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Namespace of the pods; without it that of the kubeconfig's context.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
    /// Pods of all namespaces.
    #[arg(long, short = 'A', global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only pods with these labels, as in `kubectl get pods -l`.
    #[arg(long, short = 'l', global = true, value_name = "LABELS")]
    selector: Option<String>,
    /// Form of the answer.
    #[arg(long, short, global = true, value_enum)]
    output: Option<Form>,
    /// File of the kubeconfig.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Labels of the agents' pods.
    #[arg(long, global = true, env = "SIDESTEP_AGENTS", value_name = "LABELS", default_value = AGENTS)]
    agents: String,
    /// Namespace of the agents, for users who may not list pods of all namespaces.
    #[arg(
        long,
        global = true,
        env = "SIDESTEP_AGENTS_NAMESPACE",
        value_name = "NAME"
    )]
    agents_namespace: Option<String>,
    /// Port of the agents, if their pods do not name it.
    #[arg(long, global = true, env = "SIDESTEP_AGENTS_PORT", value_name = "PORT")]
    agents_port: Option<u16>,
    /// Token for agents that ask for one (their --authenticate).
    #[arg(
        long,
        global = true,
        env = "SIDESTEP_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    agents_token: Option<String>,
}

#[derive(Debug, Args)]
struct FindingsOptions {
    /// Only this pod, in full.
    pod: Option<String>,
    /// Only findings of this code.
    #[arg(long, value_parser = code_parser())]
    code: Option<Code>,
    /// Show findings that are resolved too.
    #[arg(long)]
    resolved: bool,
    /// Show what is there, then what changes.
    #[arg(long, short, conflicts_with = "pod")]
    watch: bool,
    /// End with exit code 1 if a finding shown is open and at least this severe.
    #[arg(long, value_name = "SEVERITY", value_parser = findings::severity_parser())]
    fail_on: Option<Severity>,
}

#[derive(Debug, Args)]
struct PodsOptions {
    /// Only this pod.
    pod: Option<String>,
    /// Only pods with an open finding of this code.
    #[arg(long, value_parser = code_parser())]
    code: Option<Code>,
    /// Show what is there, then what changes.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
struct WhyOptions {
    /// The pod: its name, or `namespace/name`.
    pod: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct RulesOptions {
    /// The pod: its name, or `namespace/name`.
    pod: String,
}

/// The options, if the program was started under the plugin's name.
#[must_use]
pub fn as_plugin() -> Option<Options> {
    let name = std::env::args_os().next()?;
    let name = Path::new(&name).file_name().map(OsStr::to_owned)?;
    (name == PLUGIN).then(|| Plugin::parse().options)
}

/// Asks, and prints.
///
/// # Errors
/// The cluster cannot be asked, or has no agent that answers.
pub fn run(options: &Options) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut asker = Asker::open(&options.common).await?;
        match &options.what {
            What::Findings(asked) => asker.findings(asked).await,
            What::Pods(asked) => asker.pods(asked).await,
            What::Why(asked) => asker.why(asked).await,
            What::Rules(asked) => asker.rules(asked).await,
            What::Top(asked) => top::run(&mut asker, asked).await,
        }
    })
}

fn path(page: &str, query: &[(&'static str, String)]) -> String {
    let pairs = query
        .iter()
        .map(|(name, value)| format!("{name}={}", pod::encoded(value)));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() {
        page.to_owned()
    } else {
        format!("{page}?{query}")
    }
}

fn fault(error: FleetError) -> Fault {
    match error {
        FleetError::Config(place) => Fault::new(
            Exit::BadInput,
            "there is no usable kubeconfig",
            place,
            "name one with --kubeconfig or KUBECONFIG, and a context of it with --context",
        ),
        FleetError::Api(place) => Fault::new(
            Exit::Unreachable,
            "the API server does not answer the question",
            place,
            "`kubectl get pods` with the same kubeconfig must work; if you may not list pods of all namespaces, give --agents-namespace",
        ),
    }
}

fn no_agents(common: &Common) -> Fault {
    let place = format!(
        "no running pod with the labels {} in {}",
        common.agents,
        common
            .agents_namespace
            .as_deref()
            .unwrap_or("any namespace")
    );
    Fault::new(
        Exit::Unreachable,
        "the cluster has no agent that runs",
        place,
        "install the chart, or name the agents with --agents LABELS and --agents-namespace NAME",
    )
}
