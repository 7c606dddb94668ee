//! What may be asked of the story: how much of it, where, and with which programs.
//!
//! On this machine all is told; in a virtual machine, what differs by kernel.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::setup::Kernel;

/// `cargo xtask cluster test`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Pods that come and go
    #[arg(long, default_value_t = 200)]
    pub(super) churn: u32,
    /// Pods that stay meanwhile
    #[arg(long, default_value_t = 210)]
    pub(super) crowd: u32,
    /// Only these chapters, in the story's order
    #[arg(long, value_enum)]
    pub(super) only: Vec<Chapter>,
    /// In a virtual machine with this kernel; the chapters are few there unless named
    #[arg(long, value_enum, conflicts_with = "keep")]
    pub(super) kernel: Option<Kernel>,
    /// An agent that is built already, instead of building one
    #[arg(long, requires = "tests")]
    pub(super) agent: Option<PathBuf>,
    /// A `sidestep-tests` that is built already, instead of building one
    #[arg(long, requires = "agent")]
    pub(super) tests: Option<PathBuf>,
    /// The agent of the images, which are made already (used by `--kernel` itself)
    #[arg(long, hide = true)]
    pub(super) made: Option<PathBuf>,
    /// Leave the cluster running at the end, to look around
    #[arg(long)]
    pub(super) keep: bool,
}

/// A part of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Chapter {
    /// What the agent sees where the kernel allows everything; not on this machine unless named
    Kernel,
    /// The agent's own tests against an API server alone
    Watches,
    /// What a quiet node costs the API server
    Quiet,
    /// A pod in the node's network
    HostNetwork,
    /// A native sidecar
    NativeSidecar,
    /// A Service without endpoints
    EmptyService,
    /// Pods that come and go
    Churn,
    /// The agent killed
    Killed,
    /// The API server gone
    ApiServer,
    /// The node rebooted
    Reboot,
    /// Tokens and TLS on the port
    Secured,
    /// docs/install.md, line by line
    Guide,
}

impl Options {
    /// Whether a chapter is to be told.
    pub(super) fn wants(&self, chapter: Chapter) -> bool {
        if self.only.is_empty() {
            chapter != Chapter::Kernel
        } else {
            self.only.contains(&chapter)
        }
    }
}
