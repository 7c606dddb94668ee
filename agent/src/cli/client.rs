//! Asks a running agent over its JSON API.
//!
//! Every failure says which agent was asked, what it answered, and what to try.

use std::{io, time::Duration};

use clap::Args;
use serde::de::DeserializeOwned;
use ureq::http::Uri;

use super::{Exit, Fault};
use crate::output::api::ApiError;

/// An agent on the same host answers in milliseconds; one over a tunnel within seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer read. A page of 16 384 edges is about 10 MiB.
const MAX_ANSWER: u64 = 64 << 20;

/// Which agent to ask.
#[derive(Clone, Debug, Args)]
pub(super) struct AgentUrl {
    /// Base URL of the agent.
    #[arg(
        long = "agent", env = "SIDESTEP_AGENT", value_name = "URL",
        default_value = "http://127.0.0.1:9964", value_parser = parse_url
    )]
    url: Uri,
}

fn parse_url(text: &str) -> Result<Uri, String> {
    let hint = "write it like http://127.0.0.1:9964";
    let url: Uri = text.parse().map_err(|error| format!("{error}; {hint}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http"), Some(_)) => Ok(url),
        (Some("https"), _) => Err(format!("the agent speaks plain http; {hint}")),
        _ => Err(format!("not a URL; {hint}")),
    }
}

impl AgentUrl {
    /// The page at `path` with these query parameters.
    ///
    /// # Errors
    /// No agent answers there, or it answers something else.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Fault> {
        let url = format!("{}{path}", self.url.to_string().trim_end_matches('/'));
        let request = agent()
            .get(&url)
            .query_pairs(query.iter().map(|(k, v)| (*k, v.as_str())));
        let mut answer = request.call().map_err(|error| unreachable(&url, &error))?;
        let body = answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec();
        let body = body.map_err(|error| unreachable(&url, &error))?;
        if !answer.status().is_success() {
            return Err(refused(&url, answer.status().as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|error| foreign(&url, &error.to_string()))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // The agent is on this host or behind a tunnel, never behind the user's web proxy.
        .proxy(None)
        .user_agent(concat!("sidestep/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn unreachable(url: &str, error: &ureq::Error) -> Fault {
    let refused =
        matches!(error, ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused);
    let what = if refused {
        "no agent is running there"
    } else {
        "the agent cannot be reached"
    };
    Fault::new(
        Exit::Unreachable,
        what,
        format!("{url}: {error}"),
        "start one with `sidestep agent`, or name the right one with --agent URL\n(in a cluster: kubectl port-forward to the agent's pod of that node)",
    )
}

fn refused(url: &str, status: u16, body: &[u8]) -> Fault {
    match serde_json::from_slice::<ApiError>(body) {
        Ok(answer) => Fault::new(
            Exit::Usage,
            format!("the agent refuses the request: {}", answer.error),
            url,
            answer.to_do,
        ),
        Err(_) => foreign(url, &format!("HTTP status {status}")),
    }
}

fn foreign(url: &str, detail: &str) -> Fault {
    Fault::new(
        Exit::Unreachable,
        "something answers there, but not like an agent of this version",
        format!("{url}: {detail}"),
        "check the URL, and compare `sidestep --version` with sidestep_build_info in the agent's /metrics",
    )
}
