//! Running other programs: found in plain words, failed in plain words.
//!
//! Every failure names the command line and, where output was captured, its last lines: "exit status 1" alone has never
//! helped anybody. Nothing here goes through a shell.

use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of captured output shown when a command fails.
const TAIL_LINES: usize = 15;
/// How often a command with a time limit is looked at.
const POLL: Duration = Duration::from_millis(50);

/// System folders that an ordinary user's `PATH` leaves out, and those of programs that other programs start.
const FOLDERS: [&str; 5] = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/libexec",
    "/usr/lib/qemu",
];

/// Where a program is: in `PATH` first, then in the system's other folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FOLDERS.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
}

/// Whether a path is a file that may be run.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Has the kernel end the program when the thread that started it is gone, however it went.
pub(crate) fn dies_with_us(program: &Path) -> Command {
    let Some(setpriv) = find("setpriv") else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Runs a command with the terminal's own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command silently and returns what it printed; a failure shows the end of both its outputs.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!(
            "{} failed: {}\n{}",
            line(command),
            output.status,
            tail(&text)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`output`], but gives up after `limit` and ends the command.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<String> {
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file.try_clone()?)
        .spawn()
        .with_context(|| cannot_start(command))?;
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    match status {
        Some(status) if status.success() => Ok(text),
        Some(status) => bail!("{} failed: {status}\n{}", line(command), tail(&text)),
        None => bail!(
            "{} was still running after {} s\n{}",
            line(command),
            limit.as_secs(),
            tail(&text)
        ),
    }
}

/// The command as a person would type it, without its environment.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a text, which is where programs say what went wrong.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", line(command))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit 3") && text.contains("why"), "{text}");
    }

    #[test]
    fn a_command_past_its_limit_is_ended() {
        let error =
            output_within(Command::new("sleep").arg("60"), Duration::from_millis(10)).unwrap_err();
        assert!(format!("{error:#}").contains("still running"));
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
