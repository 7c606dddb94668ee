//! From a finding to the text of its Event. Pure.
//!
//! An Event is short, and what to do about a finding is what its reader needs most: the remedy keeps its place however long
//! the evidence is. Nothing but the finding's own words is told.

use sha2::{Digest, Sha256};

use super::Note;
use crate::{
    engine::{Finding, Output, Severity},
    model::PodKey,
};

/// Longest message the API takes, bytes.
const MAX_MESSAGE: usize = 1_024;
/// Part of the message kept for what to do.
const FOR_REMEDY: usize = 400;
/// Longest name of an object (a DNS subdomain), bytes.
const MAX_NAME: usize = 253;

/// An Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// Name of the Event.
    pub(super) name: String,
    /// The pod.
    pub(super) pod: PodKey,
    /// Its uid.
    pub(super) uid: String,
    /// In CamelCase.
    pub(super) reason: String,
    /// `Warning`, else `Normal`.
    pub(super) warning: bool,
    /// At most 1024 bytes.
    pub(super) message: String,
    /// How often it happened since it was written last.
    pub(super) times: u32,
}

/// The Event for a finding; `None` if its pod is gone or never had a uid.
pub(super) fn draft(note: &Note, node: &str) -> Option<Draft> {
    let (finding, open) = match &note.output {
        Output::Opened(finding) => (finding, true),
        Output::Resolved(finding) => (finding, false),
    };
    let pod = finding.pod.clone()?;
    let uid = note.uid.clone().filter(|uid| !uid.is_empty())?;
    let reason = reason(finding.code.as_str(), open);
    Some(Draft {
        name: name(&pod.name, &uid, &reason, node),
        pod,
        uid,
        warning: open && finding.severity > Severity::Info,
        message: if open {
            opened(finding)
        } else {
            resolved(finding)
        },
        reason,
        times: 1,
    })
}

/// `bypass-no-rules` is `BypassNoRules`, and `BypassNoRulesResolved` when it is over.
fn reason(code: &str, open: bool) -> String {
    let mut reason: String = code.split('-').map(capitalised).collect();
    if !open {
        reason.push_str("Resolved");
    }
    reason
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// The same for the same pod, reason and node: told again, it is the same Event.
fn name(pod: &str, uid: &str, reason: &str, node: &str) -> String {
    let hash = Sha256::digest(format!("{uid}\0{reason}\0{node}"));
    let hash: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let room = MAX_NAME - hash.len() - ".sidestep-".len();
    // A name must not end in a dot or dash where it is cut.
    let pod = cut(pod, room).trim_end_matches(['.', '-']);
    format!("{pod}.sidestep-{hash}")
}

fn opened(finding: &Finding) -> String {
    let remedy = ellipsis(&format!(" What to do: {}", finding.remedy), FOR_REMEDY);
    let facts: Vec<String> = finding
        .evidence
        .iter()
        .map(|fact| format!("{}: {}", fact.what, fact.value))
        .collect();
    let mut text = finding.summary.clone();
    if !facts.is_empty() {
        text.push_str(&format!(" ({})", facts.join("; ")));
    }
    ellipsis(&text, MAX_MESSAGE - remedy.len()) + &remedy
}

fn resolved(finding: &Finding) -> String {
    let text = format!("No more evidence of: {}", finding.summary);
    ellipsis(&text, MAX_MESSAGE)
}

/// The text, or its beginning and an ellipsis, in at most `most` bytes; on one line, without control characters.
fn ellipsis(text: &str, most: usize) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.len() <= most {
        return text;
    }
    format!("{}…", cut(&text, most - '…'.len_utf8()))
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;
    use crate::output::fixture;

    fn finding() -> Finding {
        let all = fixture::board().findings.clone();
        all.into_iter().find(|f| f.pod.is_some()).unwrap()
    }

    fn note(output: Output) -> Note {
        Note {
            output,
            uid: Some("u".to_owned()),
        }
    }

    #[test]
    fn reasons_are_camel_case() {
        for code in crate::engine::Code::ALL {
            let reason = reason(code.as_str(), true);
            assert!(
                reason.starts_with(|c: char| c.is_ascii_uppercase())
                    && reason.chars().all(|c| c.is_ascii_alphanumeric()),
                "{reason}"
            );
        }
        assert_eq!(reason("bypass-no-rules", false), "BypassNoRulesResolved");
    }

    #[test]
    fn the_remedy_is_told_however_long_the_evidence_is() {
        let mut finding = finding();
        finding.remedy = "set the annotation".to_owned();
        finding.evidence[0].value = "ä\n".repeat(2_000);
        let draft = draft(&note(Output::Opened(Box::new(finding.clone()))), "node").unwrap();
        assert!(
            draft.message.len() <= MAX_MESSAGE,
            "{}",
            draft.message.len()
        );
        assert!(draft.message.len() > MAX_MESSAGE - 8);
        assert!(draft.message.ends_with("… What to do: set the annotation"));
        assert!(!draft.message.contains('\n'));
        finding.remedy = "x".repeat(5_000);
        finding.summary = "y".repeat(5_000);
        let draft = super::draft(&note(Output::Opened(Box::new(finding))), "node").unwrap();
        assert!(draft.message.len() <= MAX_MESSAGE);
        assert!(draft.message.starts_with("yyy") && draft.message.ends_with("xx…"));
    }

    #[test]
    fn only_what_is_wrong_is_a_warning() {
        let mut one = finding();
        one.severity = Severity::Critical;
        let opened = draft(&note(Output::Opened(Box::new(one.clone()))), "node").unwrap();
        let resolved = draft(&note(Output::Resolved(Box::new(one.clone()))), "node").unwrap();
        assert!(opened.warning && !resolved.warning);
        assert_ne!(opened.name, resolved.name);
        one.severity = Severity::Info;
        let info = draft(&note(Output::Opened(Box::new(one))), "node").unwrap();
        assert!(!info.warning);
        assert_eq!(info.name, opened.name, "told again it is the same Event");
    }

    #[test]
    fn a_pod_that_is_gone_gets_none() {
        let gone = Note {
            uid: None,
            ..note(Output::Resolved(Box::new(finding())))
        };
        assert_eq!(draft(&gone, "node"), None);
        let mut agents = finding();
        agents.pod = None;
        assert_eq!(draft(&note(Output::Opened(Box::new(agents))), "node"), None);
    }

    #[test]
    fn names_are_names() {
        let long = format!("{}.-{}", "a".repeat(226), "b".repeat(20));
        let name = name(&long, "u", "R", "n");
        assert!(name.len() <= MAX_NAME && !name.contains("-."), "{name}");
    }
}
