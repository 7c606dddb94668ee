//! Tokens and TLS on the agents' port, with the chart's values and nothing else: who gets in, and who does not.
//!
//! Asked with curl and the real Prometheus, which check the certificate. Each that is let in has a twin that is not.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::agent::Agent;
use super::prometheus::Prometheus;
use super::{Scene, Test, world};
use crate::cluster::certificates;
use crate::process;

/// The name in the certificate: that of the chart's service.
pub(super) const NAME: &str = "sidestep.sidestep.svc";
/// Where the Prometheus of this chapter listens.
const ADDRESS: &str = "127.0.0.1:19091";

/// Turns both on, asks, and turns them off again.
pub(super) fn secured(test: &mut Test, scene: &mut Scene<'_>) -> Result<()> {
    let (reader, stranger) = prepare(test)?;
    world::upgrade(
        &test.running,
        &["auth.enabled=true", "auth.tlsSecret=sidestep-tls"],
    )?;
    rolled_out(test)?;
    let agent = Agent::find(&test.kubectl)?;
    answers(test, &agent, &reader, &stranger);
    scraped(test, &agent)?;
    test.until("`kubectl sidestep` gets in with a token", |test| {
        let ask = |token: &str| {
            let mut question = vec!["findings", "--namespace=mesh", "--output=wide"];
            question.extend(["--agents-token", token]);
            world::plugin(&test.running, scene.images, &question)
        };
        let (text, refused) = (ask(&reader)?, ask(&stranger));
        ensure!(
            text.contains("bypass-no-rules") && refused.is_err(),
            "{text}, and a stranger gets {refused:?}"
        );
        Ok(())
    })?;
    world::upgrade(&test.running, &[])?;
    rolled_out(test)?;
    test.kubectl
        .run(&["delete", "secret", "--namespace=sidestep", "sidestep-tls"])?;
    scene.moved(test)
}

/// Waits until there is no other agent than one of the last upgrade.
fn rolled_out(test: &mut Test) -> Result<()> {
    test.kubectl.run(&[
        "--request-timeout=0",
        "--namespace=sidestep",
        "rollout",
        "status",
        "daemonset/sidestep",
        "--timeout=90s",
    ])?;
    test.until("the upgraded agent is ready", |test| {
        Agent::find(&test.kubectl).map(drop)
    })
}

/// The certificate, and the tokens of one that may read the agents and of one that may not.
fn prepare(test: &Test) -> Result<(String, String)> {
    let pki = test.running.place.join("pki");
    certificates::serving(&pki, "agent", NAME)?;
    let file = |end: &str| pki.join(format!("agent.{end}")).display().to_string();
    test.kubectl.run(&[
        "create",
        "secret",
        "tls",
        "sidestep-tls",
        "--namespace=sidestep",
        &format!("--cert={}", file("crt")),
        &format!("--key={}", file("key")),
    ])?;
    test.kubectl.run(&["create", "namespace", "monitoring"])?;
    for name in ["reader", "stranger"] {
        test.kubectl
            .run(&["create", "serviceaccount", "--namespace=monitoring", name])?;
    }
    // The role comes with the chart; binding it is the administrator's part.
    test.kubectl.run(&[
        "create",
        "clusterrolebinding",
        "sidestep-reader",
        "--clusterrole=sidestep-reader",
        "--serviceaccount=monitoring:reader",
    ])?;
    Ok((token(test, "reader")?, token(test, "stranger")?))
}

/// The token of a service account, also as a file for Prometheus.
fn token(test: &Test, account: &str) -> Result<String> {
    let secrets = test.kubectl.run(&[
        "get",
        "secrets",
        "--namespace=monitoring",
        "--output=custom-columns=N:.metadata.name",
        "--no-headers",
    ])?;
    let secret = secrets
        .lines()
        .find(|name| name.starts_with(&format!("{account}-token-")))
        .with_context(|| format!("{account} has no token yet"))?;
    let token = test.kubectl.run(&[
        "get",
        "secret",
        "--namespace=monitoring",
        secret,
        "--template={{.data.token | base64decode}}",
    ])?;
    let path = test.running.place.join(format!("{account}.token"));
    fs::write(path, &token)?;
    Ok(token)
}

/// What each gets for each path.
fn answers(test: &mut Test, agent: &Agent, reader: &str, stranger: &str) {
    let cases = [
        ("nobody gets /healthz", "/healthz", None, "200"),
        ("nobody is refused /metrics", "/metrics", None, "401"),
        (
            "nobody is refused /v1/findings",
            "/v1/findings",
            None,
            "401",
        ),
        (
            "a made-up token is refused",
            "/metrics",
            Some("none"),
            "401",
        ),
        (
            "a stranger is refused /metrics",
            "/metrics",
            Some(stranger),
            "403",
        ),
        ("a reader gets /metrics", "/metrics", Some(reader), "200"),
        (
            "a reader gets /v1/findings",
            "/v1/findings",
            Some(reader),
            "200",
        ),
    ];
    for (what, path, token, wanted) in cases {
        let answer = status(test, agent, "https", path, token);
        test.check(&format!("over TLS {what}"), || {
            let status = answer?;
            ensure!(status == wanted, "{status}");
            Ok(status)
        });
    }
    let answer = status(test, agent, "http", "/healthz", None);
    test.check("without TLS nobody gets anything", || {
        ensure!(answer.is_err(), "{answer:?}");
        Ok(String::new())
    });
}

fn status(
    test: &Test,
    agent: &Agent,
    scheme: &str,
    path: &str,
    token: Option<&str>,
) -> Result<String> {
    let (address, port) = agent.address.split_once(':').context("no port")?;
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "5"])
        .args(["--output", "/dev/null", "--write-out", "%{http_code}"])
        .arg("--cacert")
        .arg(test.running.place.join("pki/ca.crt"))
        .args(["--resolve", &format!("{NAME}:{port}:{address}")])
        .arg(format!("{scheme}://{NAME}:{port}{path}"));
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    process::output(&mut command)
}

/// The real Prometheus with a service account's token, beside one with a stranger's and one without.
fn scraped(test: &mut Test, agent: &Agent) -> Result<()> {
    let running = &test.running;
    let config = fs::read_to_string(world::file("prometheus-secured.yaml"))?
        .replace("ADDRESS", &agent.address)
        .replace("DIR", &running.place.dir.display().to_string());
    let prometheus = Prometheus::start(
        &running.place,
        &running.programs,
        "prometheus-secured",
        ADDRESS,
        &config,
    )?;
    for (job, up) in [("reader", 1.0), ("stranger", 0.0), ("nobody", 0.0)] {
        test.check(&format!("over TLS Prometheus as {job} is up: {up}"), || {
            prometheus.wait(&format!("up{{job=\"{job}\"}}"), |value| {
                (value - up).abs() < 0.5
            })
        });
    }
    test.check("over TLS Prometheus has the finding", || {
        prometheus.wait(
            r#"sidestep_findings{namespace="mesh",pod="broken",code="bypass-no-rules"}"#,
            |value| value >= 1.0,
        )
    });
    Ok(())
}
