//! Handlers of the pages about one pod.
//!
//! The pod in the path must be known (404), and the question in the query must name one connection (400). A large set of
//! rules takes milliseconds to walk and to write; few people ask, so this is done where the request is handled.

use axum::{
    Json,
    extract::{FromRequestParts, Path, State, rejection::PathRejection},
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};

use super::{Asked, Shared, refuse};
use crate::{
    engine::{Board, PodRow},
    output::api::pod::{self, WhyQuery},
};

/// Namespace and name in the path, or a refusal in JSON.
pub(super) struct Named(String, String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<(String, String)>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        path.map(|Path((namespace, name))| Self(namespace, name))
            .map_err(|rejection| {
                refuse(
                    StatusCode::BAD_REQUEST,
                    &rejection.body_text(),
                    parts.uri.path(),
                    "write /v1/pods/NAMESPACE/NAME as /v1/pods shows them",
                )
            })
    }
}

/// Takes no parameters: one that is given is a misunderstanding.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn pod(
    State(shared): State<Shared>,
    Named(namespace, name): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Response {
    page(&shared, &namespace, &name, |board, row| {
        Json(pod::pod(board, row)).into_response()
    })
}

pub(super) async fn rules(
    State(shared): State<Shared>,
    Named(namespace, name): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Response {
    page(&shared, &namespace, &name, |board, row| {
        Json(pod::rules(board, row)).into_response()
    })
}

pub(super) async fn why(
    State(shared): State<Shared>,
    Named(namespace, name): Named,
    uri: Uri,
    Asked(query): Asked<WhyQuery>,
) -> Response {
    page(&shared, &namespace, &name, |board, row| match query.ask() {
        Ok(ask) => Json(pod::why(board, row, &ask)).into_response(),
        Err((error, to_do)) => refuse(StatusCode::BAD_REQUEST, &error, &uri.to_string(), to_do),
    })
}

/// A page about a pod of the latest board, or the one that says that there is no such pod.
fn page(
    shared: &Shared,
    namespace: &str,
    name: &str,
    draw: impl FnOnce(&Board, &PodRow) -> Response,
) -> Response {
    let board = shared.view.board();
    match pod::find(&board, namespace, name) {
        Ok(row) => draw(&board, row),
        Err(error) => (StatusCode::NOT_FOUND, Json(error)).into_response(),
    }
}
