//! `sidestep completions SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, text};

/// Options of `sidestep completions`.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "sidestep", &mut script);
    text::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
