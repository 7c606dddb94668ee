//! How a run ends: one table of exit codes, and errors in three parts.
//!
//! Scripts and supervisors act on the number, people on the text, so both come from one
//! place: every error that reaches `main` becomes a [`Fault`] (what, where, what to do)
//! with one [`Exit`]. Nothing else in the program may pick an exit code.

use std::{borrow::Cow, error::Error, fmt};

use crate::output::{http::ListenError, log::LogError};

/// Exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// Findings at or above `--fail-on` are open.
    Findings = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The kernel refuses for lack of privileges.
    NoPrivileges = 3,
    /// The kernel lacks what is required (no BTF, a tracepoint is missing).
    Kernel = 4,
    /// The address to listen on is taken or not ours.
    Listen = 5,
    /// A file or directory given is missing or malformed: recording, profile, pods directory.
    BadInput = 6,
    /// No agent answers at the given URL, or it answers something else.
    Unreachable = 7,
    /// An error of Sidestep itself (`EX_SOFTWARE` of sysexits.h).
    Internal = 70,
}

impl Exit {
    /// All codes, in the order of the table shown by `--help`.
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::Findings,
        Self::Usage,
        Self::NoPrivileges,
        Self::Kernel,
        Self::Listen,
        Self::BadInput,
        Self::Unreachable,
        Self::Internal,
    ];

    /// The number the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for `--help` and the docs.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "all went well",
            Self::Findings => "findings at or above --fail-on are open",
            Self::Usage => "the command line is wrong",
            Self::NoPrivileges => "not enough privileges",
            Self::Kernel => "the kernel lacks what is required",
            Self::Listen => "cannot listen on the given address",
            Self::BadInput => "a file or directory given is missing or malformed",
            Self::Unreachable => "no agent answers at the given URL",
            Self::Internal => "an error of Sidestep itself; please report it",
        }
    }

    /// The exit code of an error: that of the first [`Fault`] in its chain, else [`Exit::Internal`].
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        fault_in(error).map_or(Self::Internal, |fault| fault.exit)
    }
}

/// The exit codes as a table, for `--help`.
#[must_use]
pub fn table() -> String {
    let lines = Exit::ALL
        .iter()
        .map(|exit| format!("  {:>2}  {}", exit.code(), exit.meaning()));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// An error for people: what went wrong, where, and what to do; and its exit code.
///
/// Attach it to an `anyhow` error by returning it: `Err(Fault { … })?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exit code.
    pub exit: Exit,
    /// What went wrong, one sentence without a full stop.
    pub what: String,
    /// Where: the file, address, program or setting, with the system's own words.
    pub place: String,
    /// What to do about it.
    pub to_do: String,
}

impl Fault {
    /// A fault from its parts.
    pub fn new(
        exit: Exit,
        what: impl Into<String>,
        place: impl Into<String>,
        to_do: impl Into<String>,
    ) -> Self {
        Self {
            exit,
            what: what.into(),
            place: place.into(),
            to_do: to_do.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.place.is_empty() {
            write!(f, "\n  where:      {}", indented(&self.place))?;
        }
        if !self.to_do.is_empty() {
            write!(f, "\n  what to do: {}", indented(&self.to_do))?;
        }
        Ok(())
    }
}

impl Error for Fault {}

/// Later lines of a part line up under its first.
fn indented(part: &str) -> String {
    part.trim_end().replace('\n', "\n              ")
}

fn fault_in(error: &anyhow::Error) -> Option<Cow<'_, Fault>> {
    error.chain().find_map(|cause| {
        let fault = cause.downcast_ref::<Fault>().map(Cow::Borrowed);
        fault.or_else(|| known(cause).map(Cow::Owned))
    })
}

/// Errors of the outputs, which must not know the command line.
fn known(cause: &(dyn Error + 'static)) -> Option<Fault> {
    if let Some(error) = cause.downcast_ref::<ListenError>() {
        let what = "cannot listen for /metrics and /v1";
        let place = format!("{}: {}", error.addr, error.source);
        return Some(Fault::new(Exit::Listen, what, place, error.to_do()));
    }
    let error = cause.downcast_ref::<LogError>()?;
    match error {
        LogError::Filter { filter, source } => Some(Fault::new(
            Exit::Usage,
            "the log filter is not understood",
            format!("--log (or SIDESTEP_LOG) {filter:?}: {source}"),
            "write a level (error, warn, info, debug, trace) or target=level pairs separated by commas",
        )),
        LogError::AlreadySet => None,
    }
}

/// The text printed on stderr for an error.
///
/// A [`Fault`] speaks for itself; anything else is an error nobody foresaw, shown with its causes.
#[must_use]
pub fn message(error: &anyhow::Error) -> String {
    match fault_in(error) {
        Some(fault) => format!("sidestep: {fault}\n"),
        None => format!(
            "sidestep: {error}\n  where:      {}\n  what to do: please report this with the command line used and, for the agent, a recording (--record FILE)\n",
            causes(error)
        ),
    }
}

fn causes(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    if causes.is_empty() {
        "inside Sidestep".to_owned()
    } else {
        indented(&causes.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn fault() -> Fault {
        Fault::new(
            Exit::BadInput,
            "cannot read the recording",
            "/tmp/x: No such file",
            "check the path",
        )
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
    }

    #[test]
    fn the_docs_have_the_same_table() {
        let docs = include_str!("../../../docs/troubleshooting.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            // In Markdown an option stands in backticks.
            assert!(
                docs.replace('`', "").contains(&row),
                "docs/troubleshooting.md lacks {row}"
            );
        }
    }

    #[test]
    fn a_fault_keeps_its_code_under_context() {
        let error = anyhow::Error::from(fault()).context("while replaying");
        assert_eq!(Exit::of(&error), Exit::BadInput);
        let text = message(&error);
        assert!(text.contains("where:      /tmp/x: No such file"), "{text}");
        assert!(text.contains("what to do: check the path"), "{text}");
    }

    #[test]
    fn anything_else_is_internal_and_shows_its_causes() {
        let cause: Result<(), std::io::Error> = Err(std::io::Error::other("disk on fire"));
        let error = cause
            .context("cannot write")
            .err()
            .unwrap_or_else(|| anyhow::anyhow!("none"));
        assert_eq!(Exit::of(&error), Exit::Internal);
        assert!(message(&error).contains("disk on fire"));
    }
}
