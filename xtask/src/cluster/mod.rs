//! `cargo xtask cluster`: a real Kubernetes of one node on this machine, for an hour or for one test.
//!
//! etcd, API server, controllers, scheduler, kubelet, containerd and kube-proxy are the real programs; only that they share
//! a machine with a developer is special. They live in namespaces and a cgroup of their own, and `down` leaves nothing.

mod certificates;
mod cgroups;
mod config;
mod daemons;
mod images;
mod kubectl;
mod lifecycle;
mod node;
mod place;
mod signals;
mod test;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};

use daemons::NAMES;
use kubectl::Kubectl;
use lifecycle::Running;
use place::Place;
use signals::Stop;

/// `cargo xtask cluster`
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the cluster and leave it running
    Up,
    /// End it and remove everything but its logs
    Down,
    /// Show its nodes and pods
    Status,
    /// Run kubectl as its administrator
    Kubectl {
        /// What to run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Give it an image from a file
    Import {
        /// The image
        file: PathBuf,
    },
    /// Stop one of its daemons
    Stop {
        /// Which
        daemon: String,
    },
    /// Start a daemon again
    Start {
        /// Which
        daemon: String,
    },
    /// Install the chart on a fresh cluster and check what the agent says, with pods and under trouble
    Test(test::Options),
    /// The supervisor (used by `up` itself)
    #[command(hide = true)]
    Node(node::Options),
}

/// Does what was asked for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Command::Up => up()?,
        Command::Down => lifecycle::end(&Place::find()?)?,
        Command::Status => {
            print!(
                "{}",
                running()?.run(&["get", "nodes,pods", "--all-namespaces", "--output", "wide"])?
            );
        }
        Command::Kubectl { arguments } => {
            return Err(running()?.command().args(arguments).exec().into());
        }
        Command::Import { file } => images::import(&Place::find()?, &lifecycle::programs()?, file)?,
        Command::Stop { daemon } => fs::write(known(daemon)?, "")?,
        Command::Start { daemon } => crate::cache::remove(&known(daemon)?)?,
        Command::Test(options) => return test::run(options),
        Command::Node(options) => node::run(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up() -> Result<()> {
    let stop = Stop::watch()?;
    let start = Instant::now();
    let place = Running::start(&stop)?.leave()?;
    println!(
        "ready after {:.1} s; `cargo xtask cluster down` ends it",
        start.elapsed().as_secs_f64()
    );
    println!("export KUBECONFIG={}", place.kubeconfig().display());
    Ok(())
}

fn running() -> Result<Kubectl> {
    let place = Place::find()?;
    ensure!(
        place.ready_file().exists() && cgroups::any(),
        "there is no cluster; `cargo xtask cluster up` starts one"
    );
    Ok(Kubectl::new(&place, &lifecycle::programs()?))
}

/// The file that holds a daemon stopped.
fn known(daemon: &str) -> Result<PathBuf> {
    if !NAMES.contains(&daemon) {
        bail!("there is no {daemon}; there are {}", NAMES.join(", "));
    }
    Ok(Place::find()?.hold(daemon))
}
