//! What is wrong with reading rules, in plain words: what, where, and what to do.
//!
//! Collected over all namespaces and told as one, when it changes: a hundred pods without a
//! program to read them are one thing to mend.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::child::Limits;
use crate::{
    engine::{RulesRead, RulesSource},
    model::NetnsId,
};

/// Different troubles named at once.
const MAX_TROUBLES: usize = 3;

/// What is wrong in which namespace, and what of it was told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_netns: BTreeMap<NetnsId, BTreeSet<String>>,
    told: Option<String>,
}

impl Troubles {
    /// What is wrong in a namespace now, possibly nothing.
    pub(super) fn note(&mut self, netns: NetnsId, wrong: BTreeSet<String>) {
        if wrong.is_empty() {
            self.by_netns.remove(&netns);
        } else {
            self.by_netns.insert(netns, wrong);
        }
    }

    /// Keeps only these namespaces.
    pub(super) fn retain(&mut self, keep: impl Fn(NetnsId) -> bool) {
        self.by_netns.retain(|netns, _| keep(*netns));
    }

    /// Everything that is wrong, if it is not what was said last.
    pub(super) fn news(&mut self) -> Option<Option<String>> {
        let all: BTreeSet<&String> = self.by_netns.values().flatten().collect();
        let some: Vec<&str> = all.iter().take(MAX_TROUBLES).map(|s| s.as_str()).collect();
        let now = (!some.is_empty()).then(|| some.join("; "));
        if now == self.told {
            return None;
        }
        self.told.clone_from(&now);
        Some(now)
    }
}

/// Why a namespace cannot be entered.
pub(super) fn not_entered(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "network namespaces cannot be entered ({error}): the rules of pods are not seen. Give the agent CAP_SYS_ADMIN"
        ),
        _ => format!("a network namespace cannot be entered ({error}): its rules are not seen"),
    }
}

/// What is wrong with the reading of one kind of rules.
pub(super) fn of(source: RulesSource, read: &RulesRead, limits: Limits) -> Option<String> {
    let program = source.program();
    Some(match read {
        RulesRead::Empty | RulesRead::Complete => return None,
        RulesRead::NoTool if !source.has_rules() => format!(
            "a pod or the node has rules that ask about sets, and the agent has no {program}: what those rules do is not known. \
             Install the package ipset where the agent runs, or name the program with --{program}"
        ),
        RulesRead::NoTool => {
            let package = if source == RulesSource::Nft {
                "nftables"
            } else {
                "iptables"
            };
            format!(
                "a pod or the node has rules that only {program} can read, and the agent has no {program}: they are not seen. \
                 Install the package {package} where the agent runs, or name the program with --{program}"
            )
        }
        RulesRead::Denied => {
            "the kernel does not let the agent read the rules of a pod: they are not seen. \
             Run it as root with the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN"
                .to_owned()
        }
        RulesRead::TimedOut => format!(
            "{program} did not end within {} s in a network namespace: its rules are not seen",
            limits.time.as_secs_f32()
        ),
        RulesRead::TooBig => format!(
            "{program} printed more than {} MiB of rules in a network namespace: none of them are used",
            limits.bytes >> 20
        ),
        RulesRead::Failed(why) => {
            format!("rules of a namespace cannot be read: {why}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_trouble_of_many_is_told_once_and_its_end_too() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.news(), None);
        for id in 0..100 {
            troubles.note(NetnsId(id), wrong(&["a"]));
        }
        assert_eq!(troubles.news(), Some(Some("a".to_owned())));
        troubles.note(NetnsId(1), wrong(&[]));
        assert_eq!(troubles.news(), None);
        troubles.note(NetnsId(2), wrong(&["b", "c", "d"]));
        assert_eq!(troubles.news(), Some(Some("a; b; c".to_owned())));
        troubles.retain(|netns| netns == NetnsId(1));
        assert_eq!(troubles.news(), Some(None));
    }

    #[test]
    fn only_what_is_not_known_is_trouble() {
        let limits = Limits {
            time: std::time::Duration::from_secs(2),
            bytes: 4 << 20,
        };
        let of = |read: &RulesRead| of(RulesSource::Nft, read, limits);
        assert_eq!(of(&RulesRead::Empty).or(of(&RulesRead::Complete)), None);
        for (read, says) in [
            (RulesRead::NoTool, "--nft"),
            (RulesRead::Denied, "CAP_NET_ADMIN"),
            (RulesRead::TimedOut, "2 s"),
            (RulesRead::TooBig, "4 MiB"),
            (RulesRead::Failed("why".to_owned()), "why"),
        ] {
            assert!(
                of(&read).is_some_and(|text| text.contains(says)),
                "{read:?}"
            );
        }
    }
}
