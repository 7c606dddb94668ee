//! Why the probes cannot start, in words that say what to do.

use thiserror::Error;

/// The kernel side cannot work at all.
///
/// A signal that is merely missing is no error but degraded coverage.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The process may not load BPF programs.
    #[error(
        "no permission to load BPF programs ({call}: {source}): run as root or with CAP_BPF and \
         CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)"
    )]
    NoPrivileges {
        /// What was refused.
        call: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The kernel does not describe its types.
    #[error(
        "cannot read the kernel's types from {path} ({reason}): Sidestep needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y (the default of current distributions)"
    )]
    NoBtf {
        /// File that was tried.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field the probes cannot do without is missing or not unique.
    #[error(
        "this kernel's type information does not fit: {reason}; please report it with the output \
         of `uname -r`"
    )]
    Field {
        /// Which field, and what is wrong.
        reason: String,
    },
    /// The embedded object is not what this agent was built for.
    #[error(
        "the probes and the agent do not fit together ({reason}): build both with `cargo xtask build`"
    )]
    Abi {
        /// What is missing.
        reason: String,
    },
    /// The object cannot be loaded or a map cannot be made.
    #[error("the kernel refuses the probes' maps: {reason}")]
    Object {
        /// aya's or the kernel's words.
        reason: String,
    },
    /// Nothing delivers a signal that is required.
    #[error("no probe for `{signal}` works on this kernel:\n{reasons}")]
    Required {
        /// The signal.
        signal: String,
        /// Every variant with its reason.
        reasons: String,
    },
    /// A system call on something the agent owns failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}
