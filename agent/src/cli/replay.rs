//! `sidestep replay FILE`: a recording through the same engine, without the node.
//!
//! Shows when findings opened and resolved, and the findings at its end. Nothing of this
//! machine is consulted but the profiles: the same recording gives the same report
//! everywhere. The recording is read line by line, so that a long one needs no memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{ArgGroup, Args};
use comfy_table::{Cell, Color, Row};
use serde::Serialize;

use super::{
    Exit, Fault,
    findings::{json, severity_parser, verdict},
    profiles,
    report::{self, Detail},
    text::{self, Style, count},
};
use crate::{
    engine::{
        Board, Engine, Finding, Output, Severity,
        record::{self, RecordError},
    },
    model::Time,
    output::api::{self, FindingFilter, FindingsPage},
};

/// Options of `sidestep replay`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json", "brief", "wide"]))]
pub struct Options {
    /// Recording written by `sidestep agent --record FILE`; `-` for stdin.
    file: PathBuf,
    /// Directory of mesh profiles (*.toml), as given to the agent that recorded.
    #[arg(long, env = "SIDESTEP_PROFILES", value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// Timeline and findings as JSON, for machines.
    #[arg(long)]
    json: bool,
    /// One line per finding, without evidence and remedy.
    #[arg(long, short)]
    brief: bool,
    /// Do not wrap or cut lines to the terminal's width.
    #[arg(long, short)]
    wide: bool,
    /// End with exit code 1 if a finding open at the end is at least this severe.
    #[arg(long, value_name = "SEVERITY", value_parser = severity_parser())]
    fail_on: Option<Severity>,
}

/// What a replay shows.
#[derive(Debug, Serialize)]
pub(super) struct Replayed {
    /// Version of the agent that recorded.
    agent: String,
    /// Inputs replayed.
    inputs: u64,
    /// The last line was cut off (the agent was killed while writing) and is left out.
    cut_off: bool,
    /// When findings opened and resolved.
    timeline: Vec<Moment>,
    /// All findings at the end.
    #[serde(flatten)]
    page: FindingsPage,
}

/// A finding opened or resolved.
#[derive(Debug, Serialize)]
struct Moment {
    at: Time,
    /// `opened` or `resolved`.
    event: &'static str,
    finding: Box<Finding>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let profiles = profiles::load(options.profiles.as_deref())?;
    let replayed = if options.file.as_os_str() == "-" {
        replay(io::stdin().lock(), profiles)
    } else {
        let file = File::open(&options.file).map_err(|error| unreadable(&options.file, &error))?;
        replay(BufReader::new(file), profiles)
    }
    .map_err(|error| malformed(&options.file, &error))?;
    if options.json {
        text::print(&json(&replayed)?)?;
    } else {
        let detail = if options.brief {
            Detail::Brief
        } else {
            Detail::Full
        };
        text::print(&show(&replayed, Style::of_stdout(options.wide), detail))?;
    }
    Ok(verdict(&replayed.page.findings, options.fail_on))
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Record(#[from] RecordError),
}

/// Runs a recording.
pub(super) fn replay(
    mut lines: impl BufRead,
    profiles: crate::mesh::Profiles,
) -> Result<Replayed, ReplayError> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let header = record::read_header(Some(line.trim_end()))?;
    let mut engine = Engine::new(header.config, profiles, header.started);
    let mut timeline = Vec::new();
    let (mut inputs, mut cut_off) = (0, false);
    for number in 2.. {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            break;
        }
        match record::read_input(number, &line) {
            Ok(Some(entry)) => {
                inputs += 1;
                engine.input(entry.at, entry.input);
                timeline.extend(told(&mut engine, entry.at));
            }
            Ok(None) => {}
            Err(_) if !line.ends_with('\n') => cut_off = true,
            Err(error) => return Err(error.into()),
        }
    }
    let board: Arc<Board> = engine.board();
    let page = api::findings(
        &board,
        &FindingFilter {
            limit: Some(usize::MAX),
            ..FindingFilter::default()
        },
    );
    Ok(Replayed {
        agent: header.agent,
        inputs,
        cut_off,
        timeline,
        page,
    })
}

fn told(engine: &mut Engine, at: Time) -> Vec<Moment> {
    std::iter::from_fn(|| engine.next_output())
        .map(|output| match output {
            Output::Opened(finding) => Moment {
                at,
                event: "opened",
                finding,
            },
            Output::Resolved(finding) => Moment {
                at,
                event: "resolved",
                finding,
            },
        })
        .collect()
}

/// The timeline, then the findings at the end.
pub(super) fn show(replayed: &Replayed, style: Style, detail: Detail) -> String {
    let head = &replayed.page.head;
    let mut out = style.paragraph(
        0,
        &format!(
            "{} over {}, recorded by agent {} from {} UTC.{}",
            count(replayed.inputs, "input"),
            text::duration(head.at.micros_since(head.started)),
            replayed.agent,
            text::instant(head.started),
            if replayed.cut_off {
                " The last line is cut off and left out."
            } else {
                ""
            },
        ),
    );
    out.push('\n');
    if !replayed.timeline.is_empty() {
        let rows = replayed
            .timeline
            .iter()
            .map(|moment| row(moment, head.started));
        let header = ["AT", "EVENT", "SEVERITY", "CODE", "POD"];
        out.push_str(
            &Style {
                width: None,
                ..style
            }
            .columns(&header, rows.collect(), &[]),
        );
        out.push('\n');
    }
    out.push_str(&report::findings(&replayed.page, style, detail, false));
    out
}

fn row(moment: &Moment, started: Time) -> Row {
    let event = Cell::new(moment.event);
    let event = if moment.event == "opened" {
        event
    } else {
        event.fg(Color::Green)
    };
    let finding = &moment.finding;
    Row::from(vec![
        Cell::new(format!(
            "+{}",
            text::duration(moment.at.micros_since(started))
        )),
        event,
        Cell::new(finding.severity.as_str()),
        Cell::new(finding.code.as_str()),
        text::cell(report::subject(finding)),
    ])
}

fn unreadable(file: &Path, error: &io::Error) -> Fault {
    Fault::new(
        Exit::BadInput,
        "the recording cannot be read",
        format!("{}: {error}", file.display()),
        "name a file written by `sidestep agent --record FILE`",
    )
}

fn malformed(file: &Path, error: &ReplayError) -> Fault {
    match error {
        ReplayError::Read(error) => unreadable(file, error),
        ReplayError::Record(error) => Fault::new(
            Exit::BadInput,
            "the recording cannot be replayed",
            format!("{}: {error}", file.display()),
            "replay the file as the agent wrote it, with a sidestep of the version that recorded",
        ),
    }
}

#[cfg(test)]
mod tests;
