//! Runs one program of ours, within a time and an amount of output.
//!
//! It runs in the namespace of the calling thread, with nothing of the agent's: no
//! environment, no input, a group of its own, so that whatever it starts ends with it. It is
//! ended by its own id when its time is over, when it prints too much, and whenever the
//! caller gives up early.

use std::{
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Time between two looks whether a program that closed its output has ended.
const LINGER: Duration = Duration::from_millis(1);
/// Time between two looks whether the agent ends.
const LOOK_UP: Duration = Duration::from_millis(100);
/// What is kept of the complaints of a program.
const COMPLAINTS: usize = 4 << 10;
/// Read at once.
const CHUNK: usize = 64 << 10;

/// How much a program may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From start to end.
    pub(super) time: Duration,
    /// On its standard output.
    pub(super) bytes: usize,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, content; what it printed.
    Well(String),
    /// By itself, with a complaint.
    Badly(String),
    /// It could not be started.
    NotStarted(io::Error),
    /// It was ended: its time was over.
    TooLong,
    /// It was ended: it printed more than this.
    TooMuch,
}

/// Until when to wait.
struct Patience<'a> {
    end: Instant,
    stop: &'a AtomicBool,
}

impl Patience<'_> {
    /// How long to wait before asking again, `None` when it is over.
    fn left(&self) -> Option<PollTimeout> {
        let left = self.end.saturating_duration_since(Instant::now());
        let over = left.is_zero() || self.stop.load(Ordering::Relaxed);
        let rounded = left.min(LOOK_UP) + Duration::from_millis(1);
        (!over).then(|| PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX))
    }
}

/// Ends the program and all it started, whatever happens to the caller.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait()
            && let Ok(id) = i32::try_from(self.0.id())
        {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// Runs a program to its end, to the end of its limits, or until `stop` is set.
pub(super) fn run(program: &Path, arguments: &[&str], limits: Limits, stop: &AtomicBool) -> Ended {
    let end = Patience {
        end: Instant::now() + limits.time,
        stop,
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(child) => watch(&mut Guard(child), &end, limits.bytes)
            .unwrap_or_else(|error| Ended::Badly(error.to_string())),
        Err(error) => Ended::NotStarted(error),
    }
}

fn watch(child: &mut Guard, end: &Patience<'_>, bytes: usize) -> io::Result<Ended> {
    let (Some(mut out), Some(mut err)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(io::Error::other("no output"));
    };
    let (mut printed, mut complaints) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    let mut chunk = vec![0; CHUNK];
    while out_open || err_open {
        let Some(time) = end.left() else {
            return Ok(Ended::TooLong);
        };
        let flags = |open| {
            if open {
                PollFlags::POLLIN
            } else {
                PollFlags::empty()
            }
        };
        let mut fds = Vec::with_capacity(2);
        // A closed pipe would be ready for ever.
        fds.extend(out_open.then(|| PollFd::new(out.as_fd(), flags(true))));
        fds.extend(err_open.then(|| PollFd::new(err.as_fd(), flags(true))));
        poll(&mut fds, time)?;
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter();
        if out_open && ready.next() == Some(true) {
            out_open = take(&mut out, &mut chunk, &mut printed, usize::MAX)?;
        }
        if err_open && ready.next() == Some(true) {
            err_open = take(&mut err, &mut chunk, &mut complaints, COMPLAINTS)?;
        }
        if printed.len() > bytes {
            return Ok(Ended::TooMuch);
        }
    }
    finish(child, end, &printed, &complaints)
}

/// Waits for a program that said everything it has to say.
fn finish(child: &mut Guard, end: &Patience<'_>, out: &[u8], err: &[u8]) -> io::Result<Ended> {
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok(if status.success() {
                Ended::Well(String::from_utf8_lossy(out).into_owned())
            } else {
                Ended::Badly(complaint(err, &status.to_string()))
            });
        }
        if end.left().is_none() {
            return Ok(Ended::TooLong);
        }
        thread::sleep(LINGER);
    }
}

/// Reads once; false at the end. Keeps no more than `most`.
fn take(from: &mut impl Read, chunk: &mut [u8], to: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let read = from.read(chunk)?;
    let room = most.saturating_sub(to.len()).min(read);
    to.extend_from_slice(&chunk[..room]);
    Ok(read > 0)
}

/// The first line a program complained with, or how it ended.
fn complaint(said: &[u8], status: &str) -> String {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| status.to_owned(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_millis(400),
        bytes: 100_000,
    };

    fn sh(script: &str) -> (Ended, Duration) {
        let start = Instant::now();
        let ended = run(
            Path::new("/bin/sh"),
            &["-c", script],
            LIMITS,
            &AtomicBool::new(false),
        );
        (ended, start.elapsed())
    }

    #[test]
    fn an_ordinary_end() {
        let (ended, _) = sh("echo hello; echo world >&2");
        assert!(
            matches!(&ended, Ended::Well(out) if out == "hello\n"),
            "{ended:?}"
        );
        let (ended, _) = sh("echo out; echo >&2; echo why >&2; exit 3");
        assert!(
            matches!(&ended, Ended::Badly(why) if why == "why"),
            "{ended:?}"
        );
        let (ended, _) = sh("exit 3");
        assert!(
            matches!(&ended, Ended::Badly(why) if why.contains('3')),
            "{ended:?}"
        );
        let ended = run(Path::new("/nothing"), &[], LIMITS, &AtomicBool::new(false));
        assert!(matches!(ended, Ended::NotStarted(_)), "{ended:?}");
    }

    #[test]
    fn whoever_hangs_is_ended_with_all_it_started() {
        for script in [
            "sleep 77.25; echo",
            "sleep 77.25 & wait",
            "exec >&- 2>&-; sleep 77.25",
        ] {
            let (ended, took) = sh(script);
            assert!(matches!(ended, Ended::TooLong), "{ended:?}");
            assert!(took < LIMITS.time * 4, "{took:?}");
        }
        let left = Command::new("pgrep").args(["-f", "sleep 77[.]25"]).output();
        assert!(
            left.is_ok_and(|o| o.stdout.is_empty()),
            "something lives on"
        );
    }

    #[test]
    fn who_ends_the_agent_does_not_wait_for_it() {
        let (start, stop) = (Instant::now(), AtomicBool::new(true));
        let limits = Limits {
            time: Duration::from_secs(60),
            ..LIMITS
        };
        let ended = run(Path::new("/bin/sleep"), &["66.5"], limits, &stop);
        assert!(matches!(ended, Ended::TooLong), "{ended:?}");
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn whoever_talks_without_end_is_cut() {
        let (ended, took) = sh("while :; do echo 0123456789012345678901234567890123456789; done");
        assert!(matches!(ended, Ended::TooMuch), "{ended:?}");
        assert!(took < LIMITS.time * 4, "{took:?}");
        let (ended, _) = sh("yes >&2");
        assert!(matches!(ended, Ended::TooLong), "{ended:?}");
    }

    #[test]
    fn nothing_of_the_agents_is_passed_on() {
        let (ended, _) = sh("env | grep -c CARGO; pwd");
        assert!(
            matches!(&ended, Ended::Well(out) if out == "0\n/\n"),
            "{ended:?}"
        );
    }
}
