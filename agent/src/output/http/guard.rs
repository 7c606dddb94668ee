//! Who may read: asked of a [`Gate`] for every request that carries a token.
//!
//! `/healthz` is open, because a kubelet has no token to show. `/readyz` answers its status to everybody and its details only
//! to those who may read them. Everything else needs a token. What the gate cannot decide is refused: an API server that is
//! away must not open the port.

use std::{fmt, pin::Pin, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::refuse;

/// Where a token arrives that came through an API server, which keeps `Authorization` for itself.
const FORWARDED: &str = "x-sidestep-authorization";

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Come in.
    Granted,
    /// The token is nobody's.
    Unknown,
    /// Its owner may not read this.
    Denied(String),
    /// It could not be found out, and why.
    Undecided(String),
}

/// An answer that may take a while.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Access> + Send + 'a>>;

/// Decides who may read.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Whether the owner of `token` may read `path`.
    fn may_read(&self, token: String, path: String) -> Answer<'_>;
}

/// Asks the gate, and answers in its stead if it says no.
pub(super) async fn guard(
    State(gate): State<Arc<dyn Gate>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return next.run(request).await;
    }
    let refusal = match token(request.headers()) {
        Some(token) => match gate.may_read(token, path.clone()).await {
            Access::Granted => return next.run(request).await,
            Access::Unknown => unauthorised(&path, "the token is not accepted"),
            Access::Denied(who) => refuse(
                StatusCode::FORBIDDEN,
                &format!("{who} may not get this path"),
                &path,
                "give the user a ClusterRole with this path in nonResourceURLs and the verb get",
            ),
            Access::Undecided(why) => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("whether you may read this cannot be found out: {why}"),
                &path,
                "try again when the API server answers; the agent must be allowed to create tokenreviews and subjectaccessreviews",
            ),
        },
        None => unauthorised(&path, "this needs a token"),
    };
    if path == "/readyz" {
        let code = next.run(request).await.status();
        let ready = code.is_success();
        return (code, Json(Bare { ready })).into_response();
    }
    refusal
}

#[derive(Serialize)]
struct Bare {
    ready: bool,
}

fn unauthorised(path: &str, what: &str) -> Response {
    let mut response = refuse(
        StatusCode::UNAUTHORIZED,
        what,
        path,
        "send `Authorization: Bearer TOKEN` with the token of a ServiceAccount (`kubectl create token`)",
    );
    let scheme = header::HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers
        .get(FORWARDED)
        .or_else(|| headers.get(header::AUTHORIZATION))?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}
