//! Asking the test cluster's API server, the way a person does: through kubectl.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::daemons::Programs;
use super::place::Place;
use crate::process;

/// kubectl with the cluster's administrator.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(crate) fn new(place: &Place, programs: &Programs) -> Self {
        Self {
            program: programs.tools.join("usr/bin/kubectl"),
            kubeconfig: place.kubeconfig(),
        }
    }

    /// A command, to be given arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .arg("--request-timeout=10s");
        command
    }

    /// Runs it and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        process::output(self.command().args(arguments))
    }
}
