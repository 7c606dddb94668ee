//! Options of `sidestep agent` about who may read its port, and how.

use std::path::PathBuf;

use clap::{Args, builder::BoolishValueParser};
use serde::Serialize;

/// Options about the port.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct PortOptions {
    /// Serve TLS with this certificate (PEM, with its chain); read again when it changes.
    #[arg(
        long,
        env = "SIDESTEP_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Key of that certificate (PEM).
    #[arg(
        long,
        env = "SIDESTEP_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// Ask for a token, and the API server whether its owner may get the path (TokenReview and SubjectAccessReview).
    ///
    /// /healthz stays open, and /readyz without its details.
    #[arg(long, env = "SIDESTEP_AUTHENTICATE", value_parser = BoolishValueParser::new())]
    pub authenticate: bool,
}
