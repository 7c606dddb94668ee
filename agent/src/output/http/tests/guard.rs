//! The guarded port on a real socket, with a gate that knows its tokens by heart.

use super::*;

/// Grants, denies and fails by the token's name.
#[derive(Debug)]
struct Porter;

impl Gate for Porter {
    fn may_read(&self, token: String, path: String) -> super::super::Answer<'_> {
        Box::pin(async move {
            match token.as_str() {
                "good" => Access::Granted,
                "metrics" if path == "/metrics" => Access::Granted,
                "metrics" => Access::Denied("ann".to_owned()),
                "away" => Access::Undecided("no answer".to_owned()),
                _ => Access::Unknown,
            }
        })
    }
}

async fn guarded() -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let protection = Protection {
        identity: None,
        gate: Some(Arc::new(Porter)),
    };
    let view = fixture::view(fixture::board());
    tokio::spawn(serve(listener, view, protection, std::future::pending()));
    addr
}

fn asked(addr: SocketAddr, path: &str, header: Option<(&str, &str)>) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let mut request = agent.get(format!("http://{addr}{path}"));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let mut answer = request.call().unwrap();
    let body = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), body)
}

#[tokio::test]
async fn only_health_is_for_everybody() {
    let addr = guarded().await;
    spawn_blocking(move || {
        let bearer = |token| Some(("authorization", token));
        for (path, header, status) in [
            ("/healthz", None, 200),
            ("/metrics", None, 401),
            ("/v1/pods", None, 401),
            ("/nowhere", None, 401),
            ("/metrics", bearer("Bearer bad"), 401),
            ("/metrics", bearer("Basic good"), 401),
            ("/metrics", bearer("Bearer good"), 200),
            ("/metrics", bearer("bearer  metrics"), 200),
            ("/v1/pods", bearer("Bearer metrics"), 403),
            ("/v1/pods", bearer("Bearer away"), 503),
            (
                "/v1/pods",
                Some(("x-sidestep-authorization", "Bearer good")),
                200,
            ),
        ] {
            let (got, body) = asked(addr, path, header);
            assert_eq!(got, status, "{path} {header:?}: {body}");
            let leaks = body.contains("cart") || body.contains("sidestep_pods");
            assert_eq!(
                leaks,
                status == 200 && path != "/healthz",
                "{path} {header:?}"
            );
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn readiness_is_told_to_everybody_and_its_details_are_not() {
    let addr = guarded().await;
    spawn_blocking(move || {
        let (status, bare) = asked(addr, "/readyz", None);
        let granted = Some(("authorization", "Bearer good"));
        let (same, whole) = asked(addr, "/readyz", granted);
        assert_eq!(status, same);
        assert!(bare.len() < 20 && bare.contains("ready"), "{bare}");
        assert!(whole.contains("sources"), "{whole}");
    })
    .await
    .unwrap();
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_with_its_file() {
    let temp = tempfile::tempdir().unwrap();
    let (cert, key) = (temp.path().join("tls.crt"), temp.path().join("tls.key"));
    let told = |expected: &str| {
        let error = Identity::load(&cert, &key).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    told("tls.crt");
    std::fs::write(&cert, "no certificate").unwrap();
    told("tls.crt: no certificate in it");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&cert, pem).unwrap();
    told("tls.key");
}
