//! The HTTP server: metrics, health and JSON, read-only.
//!
//! It listens on loopback unless told otherwise, has no endpoint that changes anything, and
//! answers every mistake with JSON that says what to do. Handlers only read a [`View`], for which
//! a board is drawn before; none waits long for the event loop, and `/healthz` not at all, so that a
//! stuck loop is seen there, not as a timeout.

mod bounded;
mod guard;
mod pod;
mod tls;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, Query, Request, State, rejection::QueryRejection},
    http::{Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;

use self::bounded::Bounded;
pub use self::{
    guard::{Access, Answer, Gate},
    tls::{Identity, TlsError},
};
use super::{
    View,
    api::{self, ApiError, EdgeFilter, FindingFilter, PodFilter, Readiness},
    metrics::{CONTENT_TYPE, Metrics},
};

/// Counters older than this mean that the event loop hangs: they are read every second, and
/// loading the probes at start takes a few seconds on a slow machine.
const STALE: Duration = Duration::from_secs(15);

/// Scrapers, probes and a few people; far below the usual limit of 1024 file descriptors.
const MOST_CONNECTIONS: usize = 64;

/// Longer than between two scrapes on one connection, usually 15 or 30 s.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Everything served.
const PATHS: &str = "/metrics, /healthz, /readyz, /v1/pods, /v1/pods/NAMESPACE/NAME, its /rules and /why, /v1/findings, /v1/edges, /v1/coverage, /v1/config";

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}")]
pub struct ListenError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn to_do(&self) -> String {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process (maybe another sidestep agent) listens there; find it with `ss -ltnp 'sport = :{}'` and stop it, or choose another address with --listen",
                self.addr.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                "the address is not one of this host's; choose one that is (`ip addr`), or 0.0.0.0 for all, with --listen".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; choose another port with --listen".to_owned()
            }
            _ => "choose another address with --listen".to_owned(),
        }
    }
}

/// Opens the server's socket.
///
/// # Errors
/// The address is taken, not this host's, or not allowed.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| ListenError { addr, source })
}

/// How the port is protected; the default is not at all.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// TLS with this certificate.
    pub identity: Option<Arc<Identity>>,
    /// Who decides who may read.
    pub gate: Option<Arc<dyn Gate>>,
}

/// Serves `view` on `listener` until `stop` is done; requests under way are finished.
///
/// # Errors
/// The listening socket fails.
pub async fn serve(
    listener: TcpListener,
    view: View,
    protection: Protection,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let identity = protection.identity;
    let acceptor = identity.as_ref().map(Identity::acceptor).transpose();
    let acceptor = acceptor.map_err(io::Error::other)?;
    let listener = Bounded::new(listener, acceptor, MOST_CONNECTIONS, LONGEST_SILENCE);
    let mut router = router(view);
    if let Some(gate) = protection.gate {
        router = router.layer(axum::middleware::from_fn_with_state(gate, guard::guard));
    }
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
    tokio::select! {
        served = serving.into_future() => served,
        () = follow(identity) => Ok(()),
    }
}

async fn follow(identity: Option<Arc<Identity>>) {
    match identity {
        Some(identity) => identity.follow().await,
        None => std::future::pending().await,
    }
}

#[derive(Clone)]
struct Shared {
    view: View,
    metrics: Arc<Metrics>,
}

fn router(view: View) -> Router {
    let metrics = Arc::new(Metrics::new(view.clone()));
    let drawn = axum::middleware::from_fn_with_state(view.clone(), draw);
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/readyz", get(readyz))
        .route("/v1/pods", get(pods))
        .route("/v1/pods/{namespace}/{name}", get(pod::pod))
        .route("/v1/pods/{namespace}/{name}/rules", get(pod::rules))
        .route("/v1/pods/{namespace}/{name}/why", get(pod::why))
        .route("/v1/findings", get(findings))
        .route("/v1/edges", get(edges))
        .route("/v1/coverage", get(coverage))
        .route_layer(drawn)
        .route("/healthz", get(healthz))
        .route("/v1/config", get(config))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(Shared { view, metrics })
}

/// Has the board drawn that the answer is a view of.
async fn draw(State(view): State<View>, request: Request, next: Next) -> Response {
    view.refresh().await;
    next.run(request).await
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    match shared.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written",
            "/metrics",
            "please report this",
        ),
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    board_age_seconds: f64,
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let age = shared.view.age();
    let (code, status) = if age <= STALE {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the event loop hangs")
    };
    let health = Health {
        status,
        board_age_seconds: age.as_secs_f64(),
    };
    (code, Json(health)).into_response()
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = Readiness::of(&shared.view);
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

async fn pods(State(shared): State<Shared>, Asked(filter): Asked<PodFilter>) -> Response {
    Json(api::pods(&shared.view.board(), &filter)).into_response()
}

async fn findings(State(shared): State<Shared>, Asked(filter): Asked<FindingFilter>) -> Response {
    Json(api::findings(&shared.view.board(), &filter)).into_response()
}

async fn edges(State(shared): State<Shared>, Asked(filter): Asked<EdgeFilter>) -> Response {
    Json(api::edges(&shared.view.board(), &filter)).into_response()
}

async fn coverage(State(shared): State<Shared>) -> Response {
    Json(api::coverage(&shared.view)).into_response()
}

async fn config(State(shared): State<Shared>) -> Response {
    Json(shared.view.config()).into_response()
}

async fn unknown_path(uri: Uri) -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "there is nothing here",
        uri.path(),
        &format!("ask for one of {PATHS}"),
    )
}

async fn unknown_method(method: Method, uri: Uri) -> Response {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{method} is not possible: Sidestep only reports and changes nothing"),
        uri.path(),
        "use GET",
    )
}

/// A query string as `T`, or a refusal in JSON.
struct Asked<T>(T);

impl<S, T> FromRequestParts<S> for Asked<T>
where
    S: Send + Sync,
    T: serde::de::DeserializeOwned + Send,
{
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let asked: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        asked
            .map(|Query(filter)| Self(filter))
            .map_err(|rejection| {
                refuse(
                    StatusCode::BAD_REQUEST,
                    &rejection.body_text(),
                    &parts.uri.to_string(),
                    "correct the parameter or leave it out",
                )
            })
    }
}

fn refuse(code: StatusCode, error: &str, place: &str, to_do: &str) -> Response {
    let body = ApiError {
        error: error.to_owned(),
        place: place.to_owned(),
        to_do: to_do.to_owned(),
    };
    (code, Json(body)).into_response()
}

#[cfg(test)]
mod tests;
