//! Sidestep: parse, dispatch, and end with the exit code that the table in `cli::exit` gives.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use sidestep::{
    app,
    cli::{self, Cli, exit},
};

fn main() -> ExitCode {
    let done = match cli::kubectl::as_plugin() {
        Some(options) => cli::kubectl::run(&options),
        None => cli::run(Cli::parse(), |options| app::run(&options)),
    };
    match done {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            // Nobody is left to tell when stderr is closed too.
            drop(std::io::stderr().write_all(exit::message(&error).as_bytes()));
            ExitCode::from(exit::Exit::of(&error).code())
        }
    }
}
