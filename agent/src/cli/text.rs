//! Printing for people: width, colour, columns, times.
//!
//! Columns are plain text parted by two spaces, so that `grep` and `awk` work on them too.
//! Colour only underlines what the words say already.

use std::io::{self, IsTerminal, Write};

use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, presets::NOTHING,
};

use crate::model::Time;

/// Width without a terminal (a pipe, a log): wide enough for most names on one line.
const WIDTH_OF_A_PIPE: u16 = 160;

/// How to lay out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Columns to fill, `None` for as many as it takes.
    pub(super) width: Option<u16>,
    /// Colours and bold.
    pub(super) colour: bool,
}

impl Style {
    /// For stdout: as wide as the terminal; colour only there and without `NO_COLOR`.
    pub(super) fn of_stdout(wide: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // A serial console is a terminal that does not know its width, and says 0.
        let width = Table::new().width().filter(|width| *width > 0);
        let width = width.unwrap_or(WIDTH_OF_A_PIPE);
        Self {
            width: (!wide).then_some(width),
            colour: terminal && !no_colour,
        }
    }

    /// An empty table whose columns are parted by two spaces.
    fn table(self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        match self.width {
            Some(width) => {
                table
                    .set_content_arrangement(ContentArrangement::Dynamic)
                    .set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    /// A table with a header. Columns listed in `fixed` are never wrapped.
    pub(super) fn columns(self, header: &[&str], rows: Vec<Row>, fixed: &[usize]) -> String {
        let mut table = self.table();
        table.set_header(
            header
                .iter()
                .map(|name| Cell::new(name).add_attribute(Attribute::Bold)),
        );
        table.add_rows(rows);
        finish(table, 0, fixed)
    }

    /// Lines of `name  value`, indented; values wrap under themselves.
    pub(super) fn facts(self, indent: u16, facts: &[(String, String)]) -> String {
        let mut table = self.table();
        for (name, value) in facts {
            table.add_row([cell(name), cell(value)]);
        }
        finish(table, indent, &[0])
    }

    /// A paragraph of one colour, indented.
    pub(super) fn coloured(self, indent: u16, text: &str, colour: Color) -> String {
        let mut table = self.table();
        table.add_row([cell(text).fg(colour)]);
        finish(table, indent, &[])
    }

    /// A paragraph, indented.
    pub(super) fn paragraph(self, indent: u16, text: &str) -> String {
        let mut table = self.table();
        table.add_row([cell(text)]);
        finish(table, indent, &[])
    }
}

/// Sets the paddings and constraints, and drops the spaces at the ends of lines.
fn finish(mut table: Table, indent: u16, fixed: &[usize]) -> String {
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = if index == 0 { indent } else { 0 };
        column.set_padding((left, if index == last { 0 } else { 2 }));
        if fixed.contains(&index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// A cell of text from elsewhere: names of processes and pods, annotations, errors.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(printable(text.as_ref()))
}

/// Control characters as escapes: a process may be named to rewrite the reader's terminal.
pub(super) fn printable(text: &str) -> String {
    let control = |c: char| c.is_control() && c != '\n';
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if control(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Writes to stdout. A reader that went away is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A duration in its two largest units: `45s`, `3m12s`, `2h05m`, `4d03h`.
pub(super) fn duration(micros: u64) -> String {
    let secs = micros / 1_000_000;
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h{:02}m", secs / 3_600, secs / 60 % 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs / 3_600 % 24),
    }
}

/// A point in time as people write it, in UTC like the log: `2026-03-01 02:13:05`.
pub(super) fn instant(time: Time) -> String {
    let stamp = i64::try_from(time.0)
        .ok()
        .and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    stamp.map_or_else(
        || "?".to_owned(),
        |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// `1 pod`, `2 pods`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_725, "1h02m"),
            (90_000, "1d01h"),
        ];
        for (secs, text) in cases {
            assert_eq!(duration(secs * 1_000_000), text);
        }
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tä\n"), "a\\u{1b}[2Jb\\tä\n");
        let style = Style {
            width: Some(80),
            colour: false,
        };
        let facts = [("process".to_owned(), "\u{1b}]0;x\u{7}".to_owned())];
        assert!(!style.facts(2, &facts).contains('\u{1b}'));
    }

    #[test]
    fn instants_are_utc_and_never_fail() {
        assert_eq!(instant(Time(1_772_330_400_000_000)), "2026-03-01 02:00:00");
        assert_eq!(instant(Time(u64::MAX)), "?");
    }
}
