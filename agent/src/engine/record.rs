//! Recordings: a header line, then one JSON line per input. A bug report that replays.
//!
//! Pure text in and out; files are somebody else's. The header says how the engine was
//! started, so that a replay starts the same one. A line that cannot be read is an error
//! with its number: guessing on would replay something that never happened.

use serde::{Deserialize, Serialize};

use super::{Config, Input};
use crate::model::Time;

/// Version of the format; raised when an old agent could misread a new recording.
pub const FORMAT: u32 = 1;

/// First line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Format version, see [`FORMAT`].
    pub sidestep_recording: u32,
    /// Version of the agent that wrote it.
    pub agent: String,
    /// When its engine started.
    pub started: Time,
    /// What its engine was told at its start.
    pub config: Config,
}

/// Any later line: an input and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When the input was given, microseconds since the epoch.
    pub at: Time,
    /// The input.
    pub input: Input,
}

/// Why a recording cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is no header.
    #[error("the recording is empty: it must begin with a header line")]
    Empty,
    /// The first line is something else.
    #[error(
        "line 1 is not the header of a recording ({0}): was this file written by `sidestep agent --record`?"
    )]
    Header(serde_json::Error),
    /// Another format.
    #[error(
        "line 1: the recording has format {found}, this agent reads format {FORMAT}: replay it with the agent version that wrote it ({agent})"
    )]
    Format {
        /// The recording's format.
        found: u32,
        /// The agent that wrote it.
        agent: String,
    },
    /// A line that is no input.
    #[error("line {line} is not an input of this agent: {error}")]
    Line {
        /// Number of the line, the header being 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// An input that cannot be written (never with the types of today).
    #[error("cannot write the input: {0}")]
    Write(serde_json::Error),
}

impl Header {
    /// The header of a recording that begins now.
    #[must_use]
    pub fn new(config: Config, started: Time) -> Self {
        Self {
            sidestep_recording: FORMAT,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            config,
        }
    }
}

/// The header as a line, newline included.
///
/// # Errors
/// [`RecordError::Write`].
pub fn write_header(header: &Header) -> Result<String, RecordError> {
    line(header)
}

/// An input as a line, newline included.
///
/// # Errors
/// [`RecordError::Write`].
pub fn write_input(at: Time, input: &Input) -> Result<String, RecordError> {
    /// [`Entry`] without owning the input.
    #[derive(Serialize)]
    struct Borrowed<'a> {
        at: Time,
        input: &'a Input,
    }
    line(&Borrowed { at, input })
}

fn line(value: &impl Serialize) -> Result<String, RecordError> {
    let mut text = serde_json::to_string(value).map_err(RecordError::Write)?;
    text.push('\n');
    Ok(text)
}

/// Reads the header line.
///
/// # Errors
/// [`RecordError::Empty`], [`RecordError::Header`], [`RecordError::Format`].
pub fn read_header(line: Option<&str>) -> Result<Header, RecordError> {
    /// What every format has had, to tell a newer one from something else.
    #[derive(Deserialize)]
    struct Any {
        sidestep_recording: u32,
        #[serde(default)]
        agent: String,
    }
    let text = line
        .filter(|l| !l.trim().is_empty())
        .ok_or(RecordError::Empty)?;
    let any: Any = serde_json::from_str(text).map_err(RecordError::Header)?;
    if any.sidestep_recording != FORMAT {
        return Err(RecordError::Format {
            found: any.sidestep_recording,
            agent: any.agent,
        });
    }
    serde_json::from_str(text).map_err(RecordError::Header)
}

/// Reads line `number` (the header is line 1); `None` for an empty one.
///
/// # Errors
/// [`RecordError::Line`].
pub fn read_input(number: usize, text: &str) -> Result<Option<Entry>, RecordError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| RecordError::Line {
            line: number,
            error,
        })
}

/// Reads a whole recording.
///
/// # Errors
/// The first line that cannot be read.
pub fn read(text: &str) -> Result<(Header, Vec<Entry>), RecordError> {
    let mut lines = text.lines();
    let header = read_header(lines.next())?;
    let mut entries = Vec::new();
    for (number, line) in (2..).zip(lines) {
        entries.extend(read_input(number, line)?);
    }
    Ok((header, entries))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::{
        engine::{RulesRead, RulesReading, RulesSource},
        model::{Family, NetnsId, Process, RulesBackend, Signal},
        rules::Backend,
    };

    #[test]
    fn round_trip() {
        let header = Header::new(Config::default(), Time(5));
        let mut text = write_header(&header).unwrap();
        text += &write_input(Time(6), &Input::Tick).unwrap();
        let entry = Entry {
            at: Time(6),
            input: Input::Tick,
        };
        assert_eq!(read(&text).unwrap(), (header, vec![entry]));
    }

    #[test]
    fn rules_come_back_as_they_were() {
        let mut ruleset = crate::rules::Ruleset::default();
        let text =
            "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
        crate::rules::parse_save(text, Backend::Legacy, Family::Ipv4, &mut ruleset);
        assert!(!ruleset.is_empty());
        let reading = RulesReading {
            netns: NetnsId(5),
            sources: vec![
                (RulesSource::IptablesLegacy, RulesRead::Complete),
                (RulesSource::Nft, RulesRead::Failed("why".to_owned())),
            ],
            ruleset,
            took_us: 7,
            lasted_us: 9,
        };
        let changed = Signal::RulesChanged {
            netns: NetnsId(5),
            at: Time(4),
            backend: RulesBackend::Nft,
            family: None,
            uid: 0,
            process: Process {
                pid: 9,
                comm: "nft".to_owned(),
            },
        };
        for input in [Input::Rules(Box::new(reading)), Input::Signal(changed)] {
            let line = write_input(Time(6), &input).unwrap();
            let entry = read_input(2, &line).unwrap().unwrap();
            assert_eq!(entry, Entry { at: Time(6), input });
        }
    }

    #[test]
    fn errors_say_where_and_what() {
        let header = write_header(&Header::new(Config::default(), Time(5))).unwrap();
        let say = |text: &str| read(text).unwrap_err().to_string();
        assert!(say("").contains("header"));
        assert!(say("{}\n").contains("line 1"));
        assert!(say("{\"sidestep_recording\":9,\"agent\":\"9.1\"}").contains("format 9"));
        let bad =
            format!("{header}{{\"at\":1,\"input\":\"tick\"}}\n\n{{\"at\":2,\"input\":\"tock\"}}\n");
        let text = say(&bad);
        assert!(text.contains("line 4") && text.contains("tock"), "{text}");
    }
}
