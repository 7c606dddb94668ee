//! Programs of the system (ip, iptables-restore), with errors that say what failed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end with this standard input; an error carries what it said.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let name = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}: is it installed and in PATH?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses its arguments does not read; its own message is the better one.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    feed(command, "")
}
