//! Which variant delivers which signal: a pure decision over what was tried.
//!
//! No version numbers: distributions backport, hardened kernels refuse. A variant is
//! known to work, known not to, or untried; per signal the first that works is used, and
//! if none is known to, the first untried one is the next to try.

use std::collections::BTreeMap;

/// A thing the kernel can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SignalId {
    ConnectionState,
    Retransmit,
    SynAck,
    Reset,
    PeerReset,
    Decision,
    Accept,
    RulesLegacy,
    RulesNft,
    Rewrite,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mechanism {
    TpBtf,
    RawTracepoint,
    Fexit,
    Kprobe,
    Kretprobe,
}

impl Mechanism {
    /// Name in coverage.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTracepoint => "raw_tracepoint",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
        }
    }

    /// Whether it patches kernel functions, which `--no-kprobes` and hardened kernels refuse.
    pub(super) const fn patches_functions(self) -> bool {
        matches!(self, Self::Fexit | Self::Kprobe | Self::Kretprobe)
    }
}

/// One way to deliver a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    /// The signal.
    pub(super) signal: SignalId,
    /// How.
    pub(super) mechanism: Mechanism,
    /// Program in the object.
    pub(super) program: &'static str,
    /// Kernel functions or tracepoints; all of them.
    pub(super) targets: &'static [&'static str],
}

/// A signal's place in coverage.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalInfo {
    pub(super) id: SignalId,
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) without_it: &'static str,
    /// The module that makes what it tells of, where a kernel may have it as one. Before it
    /// is loaded there is nothing to tell.
    pub(super) module: Option<&'static str>,
}

/// All signals.
pub(super) const SIGNALS: &[SignalInfo] = &[
    SignalInfo {
        id: SignalId::ConnectionState,
        name: "connection_state",
        required: true,
        without_it: "nothing is seen at all",
        module: None,
    },
    SignalInfo {
        id: SignalId::Retransmit,
        name: "retransmit",
        required: false,
        without_it: "a hanging handshake is seen only when it times out",
        module: None,
    },
    SignalInfo {
        id: SignalId::SynAck,
        name: "syn_ack_retransmit",
        required: false,
        without_it: "a listener whose answers are lost on their way back is not told from one that is not asked",
        module: None,
    },
    SignalInfo {
        id: SignalId::Reset,
        name: "reset",
        required: false,
        without_it: "a refused connection does not tell which port nobody listened on",
        module: None,
    },
    SignalInfo {
        id: SignalId::PeerReset,
        name: "peer_reset",
        required: false,
        without_it: "a peer that resets connections without an answer is not seen",
        module: None,
    },
    SignalInfo {
        id: SignalId::Decision,
        name: "nat_decision",
        required: false,
        without_it: "a connection redirected to nobody cannot be told from one refused by its destination \
                     (unless the reset signal works); inbound redirects are learned from accepted connections only; nothing over UDP is seen",
        module: Some("nf_nat"),
    },
    SignalInfo {
        id: SignalId::Accept,
        name: "accept",
        required: false,
        without_it: "the time connections wait in accept queues is not measured",
        module: None,
    },
    SignalInfo {
        id: SignalId::RulesLegacy,
        name: "rules_change_legacy",
        required: false,
        without_it: "a change of iptables-legacy rules is found by the next look at them, \
                     and nobody knows who made it",
        module: Some("x_tables"),
    },
    SignalInfo {
        id: SignalId::RulesNft,
        name: "rules_change_nft",
        required: false,
        without_it: "a change of nftables or iptables-nft rules is found by the next look at them, \
                     and nobody knows who made it",
        module: Some("nf_tables"),
    },
    SignalInfo {
        id: SignalId::Rewrite,
        name: "destination_rewrite",
        required: false,
        without_it: "a destination that a BPF hook of a cgroup rewrites inside connect(2) is taken for the one asked for",
        module: None,
    },
];

/// All variants, best first within a signal.
pub(super) const CATALOGUE: &[Variant] = &[
    Variant {
        signal: SignalId::ConnectionState,
        mechanism: Mechanism::TpBtf,
        program: "state_tp_btf",
        targets: &["inet_sock_set_state"],
    },
    Variant {
        signal: SignalId::ConnectionState,
        mechanism: Mechanism::RawTracepoint,
        program: "state_raw_tp",
        targets: &["inet_sock_set_state"],
    },
    Variant {
        signal: SignalId::Retransmit,
        mechanism: Mechanism::TpBtf,
        program: "retransmit_tp_btf",
        targets: &["tcp_retransmit_skb"],
    },
    Variant {
        signal: SignalId::Retransmit,
        mechanism: Mechanism::RawTracepoint,
        program: "retransmit_raw_tp",
        targets: &["tcp_retransmit_skb"],
    },
    Variant {
        signal: SignalId::SynAck,
        mechanism: Mechanism::TpBtf,
        program: "syn_ack_tp_btf",
        targets: &["tcp_retransmit_synack"],
    },
    Variant {
        signal: SignalId::SynAck,
        mechanism: Mechanism::RawTracepoint,
        program: "syn_ack_raw_tp",
        targets: &["tcp_retransmit_synack"],
    },
    Variant {
        signal: SignalId::Reset,
        mechanism: Mechanism::TpBtf,
        program: "reset_tp_btf",
        targets: &["tcp_send_reset"],
    },
    Variant {
        signal: SignalId::Reset,
        mechanism: Mechanism::Kprobe,
        program: "reset_kprobe",
        targets: &["tcp_v4_send_reset", "tcp_v6_send_reset"],
    },
    Variant {
        signal: SignalId::PeerReset,
        mechanism: Mechanism::TpBtf,
        program: "peer_reset_tp_btf",
        targets: &["tcp_receive_reset"],
    },
    Variant {
        signal: SignalId::PeerReset,
        mechanism: Mechanism::RawTracepoint,
        program: "peer_reset_raw_tp",
        targets: &["tcp_receive_reset"],
    },
    Variant {
        signal: SignalId::Decision,
        mechanism: Mechanism::Kprobe,
        program: "decision_kprobe",
        targets: &["nf_nat_setup_info"],
    },
    Variant {
        signal: SignalId::Accept,
        mechanism: Mechanism::Fexit,
        program: "accept_fexit",
        targets: &["inet_csk_accept"],
    },
    Variant {
        signal: SignalId::Accept,
        mechanism: Mechanism::Fexit,
        program: "accept_fexit_old",
        targets: &["inet_csk_accept"],
    },
    Variant {
        signal: SignalId::Accept,
        mechanism: Mechanism::Kretprobe,
        program: "accept_kretprobe",
        targets: &["inet_csk_accept"],
    },
    Variant {
        signal: SignalId::RulesLegacy,
        mechanism: Mechanism::Kprobe,
        program: "rules_legacy_kprobe",
        targets: &["xt_replace_table"],
    },
    Variant {
        signal: SignalId::RulesNft,
        mechanism: Mechanism::Kprobe,
        program: "rules_nft_kprobe",
        targets: &["nf_tables_commit"],
    },
    Variant {
        signal: SignalId::Rewrite,
        mechanism: Mechanism::RawTracepoint,
        program: "rewrite_raw_tp",
        targets: &["inet_sock_set_state"],
    },
];

/// What trying found: program → attached, or why not. Untried variants are absent.
pub(super) type Capabilities = BTreeMap<&'static str, Result<(), String>>;

/// What to do about one signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This variant works.
    Use(Variant),
    /// This one is the next to try.
    Try(Variant),
    /// None works; the reasons, one per variant.
    Missing(Vec<String>),
}

/// What to do about each signal.
pub(super) fn plan(capabilities: &Capabilities) -> BTreeMap<SignalId, Step> {
    SIGNALS
        .iter()
        .map(|signal| (signal.id, step(signal.id, capabilities)))
        .collect()
}

fn step(signal: SignalId, capabilities: &Capabilities) -> Step {
    let mut reasons = Vec::new();
    for variant in CATALOGUE.iter().filter(|v| v.signal == signal) {
        match capabilities.get(variant.program) {
            Some(Ok(())) => return Step::Use(*variant),
            None => return Step::Try(*variant),
            Some(Err(reason)) => {
                reasons.push(format!("{}: {reason}", variant.mechanism.as_str()));
            }
        }
    }
    Step::Missing(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(entries: &[(&'static str, bool)]) -> Capabilities {
        entries
            .iter()
            .map(|(program, works)| {
                let result = if *works {
                    Ok(())
                } else {
                    Err("refused".into())
                };
                (*program, result)
            })
            .collect()
    }

    #[test]
    fn the_first_that_works_is_used_and_the_first_untried_is_tried() {
        type Case = (&'static [(&'static str, bool)], SignalId, &'static str);
        let cases: &[Case] = &[
            (&[], SignalId::ConnectionState, "try state_tp_btf"),
            (
                &[("state_tp_btf", true)],
                SignalId::ConnectionState,
                "use state_tp_btf",
            ),
            (
                &[("state_tp_btf", false)],
                SignalId::ConnectionState,
                "try state_raw_tp",
            ),
            (
                &[("state_tp_btf", false), ("state_raw_tp", true)],
                SignalId::ConnectionState,
                "use state_raw_tp",
            ),
            (
                &[("state_tp_btf", false), ("state_raw_tp", false)],
                SignalId::ConnectionState,
                "missing 2",
            ),
            (
                &[("decision_kprobe", false)],
                SignalId::Decision,
                "missing 1",
            ),
            (
                &[("accept_fexit", false), ("accept_fexit_old", true)],
                SignalId::Accept,
                "use accept_fexit_old",
            ),
        ];
        for (entries, signal, expected) in cases {
            let found = match &plan(&tried(entries))[signal] {
                Step::Use(v) => format!("use {}", v.program),
                Step::Try(v) => format!("try {}", v.program),
                Step::Missing(reasons) => format!("missing {}", reasons.len()),
            };
            assert_eq!(&found, expected, "{entries:?}");
        }
    }

    #[test]
    fn trying_comes_to_an_end_whatever_fails() {
        for mask in 0..1_u32 << CATALOGUE.len() {
            let mut capabilities = Capabilities::new();
            for _ in 0..=CATALOGUE.len() {
                let next = plan(&capabilities)
                    .into_values()
                    .find_map(|step| match step {
                        Step::Try(variant) => Some(variant),
                        Step::Use(_) | Step::Missing(_) => None,
                    });
                let Some(variant) = next else { break };
                let bit = CATALOGUE.iter().position(|v| v.program == variant.program);
                let works = bit.is_some_and(|bit| mask >> bit & 1 == 1);
                let result = if works { Ok(()) } else { Err(String::new()) };
                capabilities.insert(variant.program, result);
            }
            let open = plan(&capabilities)
                .into_values()
                .any(|s| matches!(s, Step::Try(_)));
            assert!(!open, "{mask:b}");
        }
    }

    #[test]
    fn every_signal_has_a_variant_and_every_program_one_place() {
        for signal in SIGNALS {
            assert!(
                CATALOGUE.iter().any(|v| v.signal == signal.id),
                "{}",
                signal.name
            );
        }
        for (i, variant) in CATALOGUE.iter().enumerate() {
            assert!(CATALOGUE[..i].iter().all(|v| v.program != variant.program));
        }
    }
}
