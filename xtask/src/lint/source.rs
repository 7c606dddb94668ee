//! Just enough of Rust's grammar to check a source file: what is comment, what is text, what is code, where functions are.
//!
//! No parser, on purpose: the rules are about words and lengths, they must also work on a file that does not compile, and
//! every line here can be tested. Blanked parts keep their line breaks, so line numbers stay right.

/// A source file in three views of equal length and equal lines.
#[derive(Debug)]
pub(crate) struct Source {
    /// As it is.
    pub(crate) raw: String,
    /// Without comments.
    pub(crate) text: String,
    /// Without comments and without what is between quotes.
    pub(crate) code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// The line of `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace.
    pub(crate) lines: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Quoted,
}

impl Source {
    /// Reads a file; with `skip_tests`, items under `#[cfg(test)]` are blank in `text` and `code`.
    pub(crate) fn new(raw: String, skip_tests: bool) -> Self {
        let kinds = kinds(&raw);
        let keep = |wanted: &[Kind]| -> String {
            raw.chars()
                .zip(&kinds)
                .map(|(character, kind)| blank_unless(character, wanted.contains(kind)))
                .collect()
        };
        let mut text = keep(&[Kind::Code, Kind::Quoted]);
        let mut code = keep(&[Kind::Code]);
        if skip_tests {
            for (first, last) in test_items(&code) {
                text = blank_lines(&text, first, last);
                code = blank_lines(&code, first, last);
            }
        }
        Self { raw, text, code }
    }

    /// The functions that have a body, in order.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (index, _) in self.code.match_indices("fn ") {
            if self.code[..index].ends_with(is_word) {
                continue;
            }
            let rest = &self.code[index..];
            let name: String = rest[3..]
                .chars()
                .take_while(|&character| is_word(character))
                .collect();
            let Some(end) = item_end(rest).filter(|_| !name.is_empty()) else {
                continue;
            };
            found.push(Function {
                name,
                line: 1 + self.code[..index].matches('\n').count(),
                lines: 1 + rest[..end].matches('\n').count(),
            });
        }
        found
    }
}

/// Whether a character may be part of a name.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Byte positions at which `word` stands alone, not as a part of a longer name.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(index, _)| index)
        .filter(move |&index| !text[..index].ends_with(is_word))
        .filter(move |&index| !text[index + word.len()..].starts_with(is_word))
}

/// The position of the brace that closes an item, or nothing if a semicolon ends it first.
fn item_end(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (index, character) in code.char_indices() {
        match character {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// First and last line (from 0) of each item under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let line_of = |index: usize| code[..index].matches('\n').count();
    code.match_indices("#[cfg(test)]")
        .map(|(index, attribute)| {
            let rest = &code[index + attribute.len()..];
            let end = item_end(rest).or_else(|| rest.find(';')).unwrap_or(0);
            (line_of(index), line_of(index + attribute.len() + end))
        })
        .collect()
}

fn blank_lines(text: &str, first: usize, last: usize) -> String {
    text.split('\n')
        .enumerate()
        .map(|(number, line)| {
            if (first..=last).contains(&number) {
                ""
            } else {
                line
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn blank_unless(character: char, keep: bool) -> char {
    if keep || character == '\n' {
        character
    } else {
        ' '
    }
}

/// What each character is part of.
fn kinds(raw: &str) -> Vec<Kind> {
    let characters: Vec<char> = raw.chars().collect();
    let mut kinds = Vec::with_capacity(characters.len());
    while kinds.len() < characters.len() {
        let at = kinds.len();
        let rest = &characters[at..];
        let after_word = at > 0 && is_word(characters[at - 1]);
        let (kind, length) = match rest {
            ['/', '/', ..] => (Kind::Comment, until(rest, '\n')),
            ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
            ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if !after_word => {
                (Kind::Quoted, raw_string(rest))
            }
            ['"', ..] => (Kind::Quoted, quoted(rest, '"')),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => (Kind::Quoted, quoted(rest, '\'')),
            _ => (Kind::Code, 1),
        };
        kinds.resize(at + length.clamp(1, rest.len()), kind);
    }
    kinds
}

fn until(rest: &[char], end: char) -> usize {
    rest.iter()
        .position(|&character| character == end)
        .unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            character if character == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// `r"…"`, `r#"…"#`, with `b` before it or not; one character if it is a raw name like `r#type`.
fn raw_string(rest: &[char]) -> usize {
    let start = if rest[0] == 'b' { 2 } else { 1 };
    let hashes = rest[start..]
        .iter()
        .take_while(|&&character| character == '#')
        .count();
    if rest.get(start + hashes) != Some(&'"') {
        return 1;
    }
    let mut at = start + hashes + 1;
    while at < rest.len() {
        let closes = rest[at] == '"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&character| character == '#')
                .count()
                == hashes;
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(raw: &str) -> Source {
        Source::new(raw.to_owned(), false)
    }

    #[test]
    fn comments_and_quotes_are_told_from_code() {
        let source = source(
            "a /* x /* y */ z */ b // c\n\"d // e\" r#\"f\"g\"# 'h' '\\'' &'life i \"\\\"j\" k",
        );
        assert_eq!(
            source.code.split_whitespace().collect::<String>(),
            "ab&'lifeik"
        );
        assert!(source.text.contains("d // e") && !source.text.contains('c'));
        assert_eq!(source.code.len(), source.raw.len());
    }

    #[test]
    fn raw_names_are_code() {
        assert!(source("let r#type = 1;").code.contains("type"));
    }

    #[test]
    fn functions_have_lengths() {
        let source = source(
            "trait T { fn a(); }\nfn b(x: [u8; 3]) -> u8 {\n  if x { \"}\" }\n}\n// fn c() {}\n",
        );
        let wanted = Function {
            name: "b".to_owned(),
            line: 2,
            lines: 3,
        };
        assert_eq!(source.functions(), [wanted]);
    }

    #[test]
    fn items_for_tests_are_left_out() {
        let raw = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\n#[cfg(test)]\nmod more;\nfn c() {}\n";
        let source = Source::new(raw.to_owned(), true);
        let names: Vec<String> = source
            .functions()
            .into_iter()
            .map(|function| function.name)
            .collect();
        assert_eq!(names, ["a", "c"]);
        assert!(!source.code.contains("more"));
    }

    #[test]
    fn words_stand_alone() {
        assert_eq!(words("aya ayah xaya (aya)", "aya").count(), 2);
    }
}
