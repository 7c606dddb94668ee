//! The agent's port: plain or TLS, open or asked about at the API server.

use std::sync::Arc;

use crate::{
    cli::{
        exit::{Exit, Fault},
        port::PortOptions,
    },
    cluster::{Judgement, Reviewer},
    output::http::{Access, Answer, Gate, Identity, Protection},
};

/// What the options ask for.
pub(super) async fn protection(options: &PortOptions) -> anyhow::Result<Protection> {
    let identity = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => Some(Identity::load(cert, key).map_err(|error| {
            Fault::new(
                Exit::BadInput,
                "cannot serve TLS",
                error.to_string(),
                "give PEM files of a certificate (with its chain) and its key to --tls-cert and --tls-key",
            )
        })?),
        _ => None,
    };
    let gate = match options.authenticate {
        true => Some(Arc::new(ApiServer(reviewer().await?)) as Arc<dyn Gate>),
        false => None,
    };
    if gate.is_some() && identity.is_none() {
        tracing::warn!(
            "tokens are asked for on a port without TLS: whoever sees the traffic can take them. Give --tls-cert and --tls-key"
        );
    }
    Ok(Protection { identity, gate })
}

async fn reviewer() -> Result<Reviewer, Fault> {
    Reviewer::connect().await.map_err(|error| {
        Fault::new(
            Exit::BadInput,
            "cannot find the API server that judges tokens",
            error.to_string(),
            "in a pod, mount a ServiceAccount token; elsewhere set KUBECONFIG; or leave --authenticate out",
        )
    })
}

/// The API server as a gate.
#[derive(Debug)]
struct ApiServer(Reviewer);

impl Gate for ApiServer {
    fn may_read(&self, token: String, path: String) -> Answer<'_> {
        Box::pin(async move {
            match self.0.may_read(&token, &path).await {
                Judgement::Granted => Access::Granted,
                Judgement::Unknown => Access::Unknown,
                Judgement::Denied(who) => Access::Denied(who),
                Judgement::Undecided(why) => Access::Undecided(why),
            }
        })
    }
}
