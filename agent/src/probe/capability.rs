//! Finds out by trying what this kernel allows.
//!
//! Trying is attaching for good: what works stays attached, what fails is remembered with
//! its reason. Only what cannot be tried without harm is ruled out beforehand: a program
//! written for another signature of the same function would load and read nonsense.

use aya::{Btf, Ebpf};
use tracing::debug;

use super::{
    attach,
    btf::{KIND_FUNC, KIND_TYPEDEF, Types},
    late,
    plan::{CATALOGUE, Capabilities, Mechanism, SignalId, Step, Variant, plan},
    skeleton::Anchor,
};

/// Parameters of `inet_csk_accept` that `accept_fexit` is written for.
const ACCEPT_PARAMETERS: usize = 2;

/// Facts about this kernel's types that attaching needs.
pub(super) struct Facts {
    /// Types aya must know.
    pub(super) anchors: Vec<(u32, u32, String)>,
    /// Parameters of `inet_csk_accept`.
    accept_parameters: Option<usize>,
}

impl Facts {
    /// Reads them in one pass.
    pub(super) fn read(types: &Types<'_>) -> Self {
        let names: Vec<String> = CATALOGUE.iter().filter_map(type_name).collect();
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut anchors = Vec::new();
        let mut accept_parameters = None;
        for (name, found) in types.find(&wanted) {
            for (id, kind) in found {
                if kind == KIND_FUNC {
                    accept_parameters = types.parameters(id);
                }
                if kind == KIND_FUNC || kind == KIND_TYPEDEF {
                    anchors.push((id, kind, name.to_owned()));
                }
            }
        }
        Self {
            anchors,
            accept_parameters,
        }
    }

    /// The types for aya.
    pub(super) fn anchors(&self) -> Vec<Anchor<'_>> {
        self.anchors
            .iter()
            .map(|(id, kind, name)| Anchor {
                id: *id,
                kind: *kind,
                name,
            })
            .collect()
    }
}

/// The kernel type a variant attaches by.
fn type_name(variant: &Variant) -> Option<String> {
    let target = variant.targets.first()?;
    match variant.mechanism {
        Mechanism::TpBtf => Some(format!("btf_trace_{target}")),
        Mechanism::Fexit => Some((*target).to_owned()),
        Mechanism::RawTracepoint | Mechanism::Kprobe | Mechanism::Kretprobe => None,
    }
}

/// What is ruled out before anything is tried.
pub(super) fn ruled_out(
    facts: &Facts,
    kprobes: bool,
    decision: Result<(), String>,
) -> Capabilities {
    let mut known = Capabilities::new();
    if let Some(parameters) = facts.accept_parameters {
        let (wrong, right) = if parameters == ACCEPT_PARAMETERS {
            ("accept_fexit_old", "accept_fexit")
        } else {
            ("accept_fexit", "accept_fexit_old")
        };
        let reason = format!("the function has {parameters} parameters: {right} is for it");
        known.insert(wrong, Err(reason));
    }
    if let Err(reason) = decision {
        rule_out_signal(&mut known, SignalId::Decision, &reason);
    }
    // Not before there is something to compare: see `late`.
    rule_out_signal(&mut known, SignalId::Rewrite, late::NO_HOOK);
    if !kprobes {
        for variant in CATALOGUE.iter().filter(|v| v.mechanism.patches_functions()) {
            known.insert(variant.program, Err("switched off by --no-kprobes".into()));
        }
    }
    known
}

/// Marks every variant of a signal as not working.
pub(super) fn rule_out_signal(known: &mut Capabilities, signal: SignalId, reason: &str) {
    for variant in CATALOGUE.iter().filter(|v| v.signal == signal) {
        known.insert(variant.program, Err(reason.to_owned()));
    }
}

/// Tries variants until every signal works or is known not to.
pub(super) fn try_all(ebpf: &mut Ebpf, types: &Btf, known: &mut Capabilities) {
    loop {
        let next = plan(known).into_values().find_map(|step| match step {
            Step::Try(variant) => Some(variant),
            Step::Use(_) | Step::Missing(_) => None,
        });
        let Some(variant) = next else {
            return;
        };
        let result = attach::attach(ebpf, types, &variant);
        if let Err(reason) = &result {
            debug!(
                program = variant.program,
                reason, "a probe variant does not work here"
            );
        }
        known.insert(variant.program, result);
    }
}
