//! Loads one program and attaches it, or says in plain words why not.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FExit, KProbe, Program, ProgramError, RawTracePoint},
};
use tracing::debug;

use super::{
    load::chain,
    plan::{Mechanism, Variant},
};

/// Lines of the verifier's log that are worth showing: the refusal is at its end.
const LOG_LINES: usize = 6;

/// Loads and attaches a variant. On failure nothing of it stays in the kernel.
///
/// # Errors
/// Why the kernel refuses it, for people.
pub(super) fn attach(ebpf: &mut Ebpf, types: &Btf, variant: &Variant) -> Result<(), String> {
    let program = ebpf
        .program_mut(variant.program)
        .ok_or_else(|| format!("the object has no program {}", variant.program))?;
    try_attach(program, types, variant).map_err(|error| {
        unload(program);
        explain(&error)
    })?;
    if let Ok(info) = program.info() {
        debug!(
            program = variant.program,
            verified = info.verified_instruction_count(),
            "attached"
        );
    }
    Ok(())
}

/// A program that never got loaded has nothing to unload, so the result says nothing.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::RawTracePoint(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        _ => Ok(()),
    };
}

fn try_attach(program: &mut Program, types: &Btf, variant: &Variant) -> Result<(), ProgramError> {
    let target = variant.targets.first().copied().unwrap_or_default();
    match variant.mechanism {
        Mechanism::TpBtf => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(target, types)?;
            program.attach()?;
        }
        Mechanism::RawTracepoint => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(target)?;
        }
        Mechanism::Fexit => {
            let program: &mut FExit = program.try_into()?;
            program.load(target, types)?;
            program.attach()?;
        }
        Mechanism::Kprobe | Mechanism::Kretprobe => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            for target in variant.targets {
                program.attach(target, 0)?;
            }
        }
    }
    Ok(())
}

fn explain(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() {
        return format!("the kernel refuses this kind of program ({io_error})");
    }
    let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
    format!("the verifier refuses it ({io_error}): {}", tail.join(" | "))
}
