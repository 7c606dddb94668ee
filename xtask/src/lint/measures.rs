//! House measures: a file a person can hold in mind, a function that fits a screen, a module that says what it is for.
//!
//! Where a measure makes a piece of code worse, the code stays and says why: `// lint: long because …` above or inside the
//! function, `// lint: long file because …` in the file.

use super::Violation;
use super::source::{Function, Source};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;
/// Lines of `//!` a module opens with at most.
const INTRODUCTION_MOST: usize = 15;
/// … and at least, from this length of the file on; a short module may say what it is in one line.
const INTRODUCTION_LEAST: usize = 3;
const SHORT_FILE_LINES: usize = 150;
const LONG_FUNCTION: &str = "// lint: long because ";
const LONG_FILE: &str = "// lint: long file because ";
/// How far above `fn` its reason may stand: attributes and documentation are between.
const REASON_ABOVE: usize = 8;

/// What a file breaks.
pub(crate) fn check(path: &str, source: &Source, is_test: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let lines: Vec<&str> = source.raw.lines().collect();
    let mut add = |line: usize, what: String| {
        found.push(Violation {
            path: path.to_owned(),
            line,
            what,
        });
    };
    if lines.len() > FILE_LINES && !source.raw.contains(LONG_FILE) {
        add(
            1,
            format!(
                "{} lines, {FILE_LINES} is the limit; divide it or say `{LONG_FILE}…`",
                lines.len()
            ),
        );
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES && !has_reason(&lines, &function) {
            add(
                function.line,
                format!(
                    "`{}` has {} lines, {FUNCTION_LINES} is the limit; divide it or say `{LONG_FUNCTION}…`",
                    function.name, function.lines
                ),
            );
        }
    }
    let introduction = lines
        .iter()
        .take_while(|line| line.starts_with("//!"))
        .count();
    let least = if lines.len() > SHORT_FILE_LINES {
        INTRODUCTION_LEAST
    } else {
        1
    };
    if !is_test && !(least..=INTRODUCTION_MOST).contains(&introduction) {
        add(
            1,
            format!(
                "opens with {introduction} lines of `//!`; say in {least} to {INTRODUCTION_MOST} what it does, why this way, \
                 what it must never do"
            ),
        );
    }
    found
}

fn has_reason(lines: &[&str], function: &Function) -> bool {
    let first = function.line.saturating_sub(REASON_ABOVE + 1);
    let last = (function.line + function.lines).min(lines.len());
    lines[first..last]
        .iter()
        .any(|line| line.contains(LONG_FUNCTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTRODUCED: &str = "//! One.\n//! Two.\n//! Three.\n";

    fn broken(raw: &str) -> usize {
        check("agent/src/x.rs", &Source::new(raw.to_owned(), false), false).len()
    }

    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_sixty_lines_is_the_longest() {
        assert_eq!(broken(&format!("{INTRODUCED}{}", function(60))), 0);
        assert_eq!(broken(&format!("{INTRODUCED}{}", function(61))), 1);
        assert_eq!(
            broken(&format!(
                "{INTRODUCED}// lint: long because a table\n{}",
                function(61)
            )),
            0
        );
    }

    #[test]
    fn a_file_of_four_hundred_lines_is_the_longest() {
        assert_eq!(
            broken(&format!("{INTRODUCED}{}", "use x;\n".repeat(397))),
            0
        );
        assert_eq!(
            broken(&format!("{INTRODUCED}{}", "use x;\n".repeat(398))),
            1
        );
        assert_eq!(
            broken(&format!(
                "{INTRODUCED}// lint: long file because data\n{}",
                "use x;\n".repeat(398)
            )),
            0
        );
    }

    #[test]
    fn a_module_says_what_it_is_for() {
        assert_eq!(broken("use x;\n"), 1);
        assert_eq!(broken("//! One.\nuse x;\n"), 0);
        assert_eq!(broken(&format!("//! One.\n{}", "use x;\n".repeat(150))), 1);
        assert_eq!(broken(&"//! line\n".repeat(16)), 1);
    }
}
