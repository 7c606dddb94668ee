//! Splits a line into words the way save programs quote them: `"…"` with a backslash before quotes and backslashes.

/// The words of a line. A quote that is never closed ends with the line.
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            _ if letter.is_whitespace() && !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_what_is_between_blanks() {
        assert_eq!(split("-A  X -j Y "), ["-A", "X", "-j", "Y"]);
        assert!(split("  ").is_empty());
    }

    #[test]
    fn quotes_keep_blanks_and_emptiness() {
        assert_eq!(
            split(r#"--comment "a b" -j X"#),
            ["--comment", "a b", "-j", "X"]
        );
        assert_eq!(split(r#""" x"#), ["", "x"]);
        assert_eq!(split(r#""a \"b\" \\""#), [r#"a "b" \"#]);
        assert_eq!(split(r#"x "a b"#), ["x", "a b"]);
    }
}
