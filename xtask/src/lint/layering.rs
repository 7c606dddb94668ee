//! Who may name what: the layering of ARCHITECTURE.md as a table.
//!
//! A rule names the files it is about, the words they must not contain, and why. Words in comments never count, and what is
//! under `#[cfg(test)]` counts only where a rule says so. A new rule is a new row, and needs a test that it can fail.

use super::Violation;
use super::source::{Source, words};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Paths that begin so are meant.
    within: &'static [&'static str],
    /// … but not those that begin so.
    except: &'static [&'static str],
    /// Words, or paths of words joined by `::`.
    forbidden: &'static [&'static str],
    /// Whether words in quotes count too, and upper case as lower case.
    quoted: bool,
    why: &'static str,
}

const CORE: &[&str] = &[
    "agent/src/engine/",
    "agent/src/mesh/",
    "agent/src/model/",
    "agent/src/rules/",
];
const BY_LETTER: Rule = Rule {
    within: &[],
    except: &[],
    forbidden: &[],
    quoted: false,
    why: "",
};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        within: &["agent/"],
        except: &["agent/src/probe/"],
        forbidden: &["aya", "aya_log", "aya_obj"],
        why: "eBPF is named only in agent/src/probe/: everything else must work without a kernel",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/", "tests/"],
        except: &["agent/src/cluster/"],
        forbidden: &["kube", "k8s_openapi"],
        why: "Kubernetes types are named only in agent/src/cluster/: the core works without a cluster",
        ..BY_LETTER
    },
    Rule {
        within: CORE,
        forbidden: &[
            "tokio",
            "async",
            "await",
            "std::fs",
            "std::process",
            "std::thread",
            "std::env",
            "std::io::stdin",
        ],
        why: "the core neither waits nor does I/O: the same inputs give the same outputs",
        ..BY_LETTER
    },
    Rule {
        within: CORE,
        forbidden: &["Instant", "SystemTime", "Timestamp::now", "Zoned::now"],
        why: "the core has no clock of its own: time arrives with each input",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/", "agent-abi/", "agent-ebpf/"],
        except: &["agent/src/output/fixture.rs"],
        forbidden: &["istio", "linkerd", "envoy", "consul", "kuma"],
        quoted: true,
        why: "a mesh is a TOML file in agent/src/mesh/profiles/, never a word in the code",
    },
    Rule {
        within: &["agent-ebpf/"],
        except: &["agent-ebpf/src/kernel.rs"],
        forbidden: &[
            "bpf_probe_read",
            "bpf_probe_read_kernel",
            "bpf_probe_read_kernel_buf",
            "bpf_probe_read_kernel_str_bytes",
            "bpf_probe_read_user",
            "bpf_probe_read_buf",
        ],
        why: "kernel memory is read in one file, agent-ebpf/src/kernel.rs",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/", "tests/", "xtask/"],
        // Sockets of the kinds real programs use cannot be made by what is safe.
        except: &["agent/src/probe/", "tests/tests/kernel_"],
        forbidden: &["unsafe"],
        why: "unsafe code is for agent-abi, agent-ebpf, agent/src/probe and the tests of the kernel side",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/engine/"],
        forbidden: &[
            "crate::app",
            "crate::cli",
            "crate::output",
            "crate::probe",
            "crate::node",
            "crate::cluster",
        ],
        why: "arrows never point back: the engine knows mesh, rules and model, nobody else",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/mesh/", "agent/src/rules/", "agent/src/model/"],
        forbidden: &[
            "crate::app",
            "crate::cli",
            "crate::engine",
            "crate::output",
            "crate::probe",
            "crate::node",
            "crate::cluster",
        ],
        why: "arrows never point back: this is below the engine",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/probe/", "agent/src/node/", "agent/src/cluster/"],
        forbidden: &["crate::app", "crate::cli", "crate::output"],
        why: "arrows never point back: an input does not know the outputs",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/output/"],
        forbidden: &[
            "crate::app",
            "crate::cli",
            "crate::probe",
            "crate::node",
            "crate::cluster",
        ],
        why: "outputs read the board, nothing else",
        ..BY_LETTER
    },
    Rule {
        within: &["agent/src/"],
        except: &[
            "agent/src/app",
            "agent/src/cli",
            "agent/src/main.rs",
            "agent/src/lib.rs",
        ],
        forbidden: &["crate::app", "crate::cli"],
        why: "app.rs knows everybody and is known by nobody but the command line",
        ..BY_LETTER
    },
];

impl Rule {
    fn is_about(&self, path: &str) -> bool {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        begins(self.within) && !begins(self.except)
    }
}

/// What a file breaks.
pub(crate) fn check(path: &str, source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| rule.is_about(path)) {
        let text = if rule.quoted {
            source.text.to_lowercase()
        } else {
            source.code.clone()
        };
        for word in rule.forbidden {
            for index in words(&text, word) {
                found.push(Violation {
                    path: path.to_owned(),
                    line: 1 + text[..index].matches('\n').count(),
                    what: format!("`{word}` is not for this place: {}", rule.why),
                });
            }
        }
    }
    found
}

/// Whether a file is a test as a whole, so that the rules are not about it.
pub(crate) fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.starts_with("agent/tests/")
        || path.contains("/tests/") && path.starts_with("agent/src/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, raw: &str) -> usize {
        check(path, &Source::new(raw.to_owned(), true)).len()
    }

    #[test]
    fn every_rule_can_fail_and_stays_in_its_place() {
        for rule in RULES {
            for within in rule.within {
                for word in rule.forbidden {
                    let path = format!("{within}some.rs");
                    let code = if rule.quoted {
                        format!("let x = \"{word}\";")
                    } else {
                        format!("use {word}::x;")
                    };
                    assert!(broken(&path, &code) > 0, "{path}: {code}");
                    assert_eq!(broken("deploy/some.rs", &code), 0, "{code}");
                }
            }
            for except in rule.except {
                assert!(!rule.is_about(&format!("{except}/some.rs")), "{except}");
            }
        }
    }

    #[test]
    fn words_in_comments_and_tests_are_free() {
        assert_eq!(
            broken("agent/src/engine/x.rs", "// tokio\n/// istio\nfn f() {}"),
            0
        );
        assert_eq!(
            broken(
                "agent/src/engine/x.rs",
                "#[cfg(test)]\nmod tests { use std::fs; }"
            ),
            0
        );
        assert_eq!(broken("agent/src/engine/x.rs", "use std::fs;"), 1);
    }

    #[test]
    fn a_longer_name_is_another_word() {
        assert_eq!(broken("agent/src/node/x.rs", "let ayahuasca = kubelet;"), 0);
    }
}
