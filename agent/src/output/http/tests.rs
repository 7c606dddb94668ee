//! The server on a real socket, asked by a real client.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::*;
use crate::{engine::Board, model::Time, output::fixture};

mod guard;
mod pod;

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn start(view: View) -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        view,
        Protection::default(),
        std::future::pending(),
    ));
    addr
}

async fn ask(view: View, method: &'static str, path: &'static str) -> Answer {
    let addr = start(view).await;
    spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{addr}{path}"));
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        let content_type = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        Answer {
            status: answer.status().as_u16(),
            content_type,
            body: answer.body_mut().read_to_string().unwrap(),
        }
    })
    .await
    .unwrap()
}

async fn get(path: &'static str) -> Answer {
    ask(fixture::view(fixture::board()), "GET", path).await
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let answer = get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, CONTENT_TYPE);
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn findings_carry_what_was_watched() {
    let page = get("/v1/findings").await.json();
    assert_eq!(page["node"], "node-1");
    assert_eq!(page["total"], 4);
    assert_eq!(page["watched"]["connections"], 1248);
    assert_eq!(page["watched"]["meshes"]["mesh-a"], 2);
    let first = &page["findings"][0];
    assert_eq!(first["code"], "bypass-proxy-uid");
    assert_eq!(first["severity"], "critical");
    assert_eq!(first["state"], "open");
    assert_eq!(first["pod"]["namespace"], "shop");
    assert_eq!(first["evidence"][0]["what"], "process");
}

#[tokio::test]
async fn filters_select_rows() {
    let cases = [
        ("/v1/findings?code=bypass-excluded", 1),
        ("/v1/findings?namespace=shop", 3),
        ("/v1/findings?state=resolved", 1),
        ("/v1/findings?namespace=shop&pod=other", 0),
        ("/v1/pods?namespace=shop", 2),
        ("/v1/pods?code=bypass-proxy-uid", 1),
        ("/v1/pods?code=bypass-no-rules", 0),
        ("/v1/edges", 2),
        ("/v1/edges?verdict=bypassed", 1),
        ("/v1/edges?leg=local", 1),
        ("/v1/edges?namespace=shop", 1),
    ];
    for (path, total) in cases {
        let answer = get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.json()["total"], total, "{path}");
    }
}

#[tokio::test]
async fn a_limit_cuts_rows_and_says_how_many_there_are() {
    let page = get("/v1/findings?limit=1").await.json();
    assert_eq!(page["findings"].as_array().unwrap().len(), 1);
    assert_eq!(page["total"], 4);
}

#[tokio::test]
async fn edges_carry_their_verdict() {
    let page = get("/v1/edges").await.json();
    assert_eq!(page["edges"][0]["verdict"], "bypassed");
    assert_eq!(page["edges"][0]["reason"], "proxy_uid");
    assert_eq!(page["edges"][0]["remote"], "10.96.0.20:8080");
    assert_eq!(page["edges"][1]["pod"], Value::Null);
}

#[tokio::test]
async fn coverage_and_config_are_shown() {
    let page = get("/v1/coverage").await.json();
    assert_eq!(page["coverage"]["signals"][1]["variant"], Value::Null);
    assert_eq!(
        page["sources"]["pods-dir"],
        "cart.yaml line 3: not a Pod; correct the manifest"
    );
    assert_eq!(page["losses"].as_array().unwrap().len(), 3);
    let config = crate::engine::Config::default();
    let view = fixture::view(fixture::board())
        .with_config(&config)
        .unwrap();
    assert_eq!(
        ask(view, "GET", "/v1/config").await.json()["max_edges"],
        16_384
    );
}

#[tokio::test]
async fn mistakes_are_answered_with_what_to_do() {
    let cases = [
        ("GET", "/v1/finding", 404),
        ("POST", "/v1/findings", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/v1/findings?code=nonsense", 400),
        ("GET", "/v1/findings?colour=red", 400),
        ("GET", "/v1/pods?limit=-1", 400),
        ("GET", "/v1/edges?code=bypass-ipv6", 400),
    ];
    for (method, path, status) in cases {
        let answer = ask(fixture::view(fixture::board()), method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.content_type, "application/json", "{method} {path}");
        let error: ApiError = serde_json::from_str(&answer.body).unwrap();
        assert!(
            !error.error.is_empty() && !error.to_do.is_empty(),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn health_follows_the_boards_age() {
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(ask(stale(), "GET", "/healthz").await.status, 503);
}

/// A view whose clock moved on without another drain.
fn stale() -> View {
    use std::sync::atomic::{AtomicU64, Ordering};
    let boards = fixture::boards(fixture::board(), true);
    let now = AtomicU64::new(fixture::NOW.0);
    let clock = Arc::new(move || Time(now.fetch_add(60_000_000, Ordering::Relaxed)));
    View::new(boards, clock)
}

#[tokio::test]
async fn readiness_waits_for_probes_and_the_first_drain() {
    let ready = get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["degraded"], true);
    assert_eq!(
        ready.json()["missing_signals"]["nat_decision"],
        "kprobes are refused here (EPERM)"
    );

    let undrained = fixture::view_at(fixture::board(), fixture::NOW, false);
    assert_eq!(ask(undrained, "GET", "/readyz").await.status, 503);

    let unattached = fixture::view(Board::default());
    assert_eq!(ask(unattached, "GET", "/readyz").await.status, 503);

    let mut board = fixture::board();
    board.coverage.signals[0].variant = None;
    let missing = ask(fixture::view(board), "GET", "/readyz").await;
    assert_eq!(missing.status, 503);
    assert_eq!(missing.json()["probes_attached"], false);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = taken.local_addr().unwrap();
    let error = bind(addr).await.unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&addr.to_string()));
    assert!(error.to_do().contains("--listen"));
}

#[tokio::test]
async fn a_foreign_address_is_named() {
    let error = bind(([192, 0, 2, 1], 9).into()).await.unwrap_err();
    assert!(
        error.to_do().contains("not one of this host's"),
        "{error:?}"
    );
}

/// Serves with these bounds and says where.
async fn start_bounded(connections: usize, silence: Duration) -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bounded = Bounded::new(listener, None, connections, silence);
    tokio::spawn(
        async move { axum::serve(bounded, router(fixture::view(fixture::board()))).await },
    );
    addr
}

#[tokio::test]
async fn silent_clients_are_closed_and_make_room() {
    let addr = start_bounded(1, Duration::from_millis(20)).await;
    let silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    // The only place is taken: this answer comes once the silent client has lost it.
    let status = spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        agent
            .get(format!("http://{addr}/healthz"))
            .call()
            .unwrap()
            .status()
            .as_u16()
    });
    assert_eq!(status.await.unwrap(), 200);
    silent.readable().await.unwrap();
    assert_eq!(
        silent.try_read(&mut [0; 1]).unwrap(),
        0,
        "closed by the server"
    );
}

#[tokio::test]
async fn a_silent_client_does_not_keep_the_agent_from_stopping() {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let view = fixture::view(fixture::board());
    let server = serve(listener, view, Protection::default(), async {
        drop(stopped.await)
    });
    let server = tokio::spawn(server);
    let _silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    let answered =
        spawn_blocking(move || ureq::get(format!("http://{addr}/healthz")).call().is_ok());
    assert!(answered.await.unwrap());
    stop.send(()).unwrap();
    // Far less than the time a silent client may stay.
    let end = tokio::time::timeout(LONGEST_SILENCE / 4, server).await;
    end.unwrap().unwrap().unwrap();
}
