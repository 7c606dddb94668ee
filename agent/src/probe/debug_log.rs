//! What the probes say of themselves, line by line: in a build with the feature `debug-log` only.
//!
//! For whoever changes the probes, on a machine of their own: a line costs more than all else a
//! probe does. The lines come out as the agent's own, at level debug.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Reads the lines.
pub(super) struct ProbeLog(Option<EbpfLogger<ToTracing>>);

impl ProbeLog {
    /// Takes the lines' ring buffer; without one, the probes were built without the feature.
    pub(super) fn of(ebpf: &mut Ebpf) -> Self {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing);
        Self(logger.inspect_err(|error| tracing::warn!(%error, "the probes do not log: build them with `cargo xtask build --probe-log`")).ok())
    }

    /// Writes what was said since the last call.
    pub(super) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(probe = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
