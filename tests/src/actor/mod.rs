//! The processes of a pod, all in one program: pause, server, toy proxy, client, and any other program in its place.
//!
//! One multi-call binary keeps the image of a virtual machine small and makes every process start in milliseconds. An
//! actor says `ready` on stdout when its sockets listen; a client says its result as one JSON object.
//!
//! An actor must never decide what is right: it does what its arguments say and counts what happened.

pub(crate) mod connect;
mod counters;
pub(crate) mod proxy;
pub(crate) mod serve;
pub(crate) mod sock;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};

use crate::place::Place;

/// One process of a pod.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Does nothing, as the container that holds a pod's namespaces
    Pause,
    /// Becomes another program
    Exec(Exec),
    /// A sidecar: original destination in, the same destination out
    Proxy(proxy::Options),
    /// A small HTTP server
    Serve(serve::Options),
    /// A client
    Connect(connect::Options),
}

#[derive(Args, Debug)]
struct Exec {
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    program: Vec<String>,
}

/// Lives in its place and does what it was started for.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let place = &options.place;
    if let Role::Connect(client) = &options.role {
        // A client may open its sockets as somebody else before it becomes its user.
        place.enter_namespaces()?;
        return connect::run(client, place);
    }
    if let Role::Proxy(proxy::Options {
        counters: Some(path),
        ..
    })
    | Role::Serve(serve::Options {
        counters: Some(path),
        ..
    }) = &options.role
    {
        counters::make(path, place.uid, place.gid)?;
    }
    place.enter()?;
    match &options.role {
        Role::Pause => pause(),
        Role::Exec(exec) => Err(become_program(&exec.program)),
        Role::Proxy(proxy) => proxy::run(proxy),
        Role::Serve(server) => serve::run(server),
        Role::Connect(client) => connect::run(client, place),
    }
}

fn pause() -> Result<ExitCode> {
    ready()?;
    forever()
}

/// Sleeps until a signal ends the process.
fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn become_program(program: &[String]) -> anyhow::Error {
    match program.split_first() {
        Some((name, args)) => {
            let error = Command::new(name).args(args).exec();
            anyhow!(error).context(format!("cannot run {name}"))
        }
        None => anyhow!("no program named"),
    }
}

/// Tells the harness that the sockets listen.
fn ready() -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")
        .and_then(|()| out.flush())
        .context("cannot say `ready`")
}
