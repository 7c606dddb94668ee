//! A Service without endpoints: the rule is kube-proxy's own, and so are its words.

use anyhow::{Result, ensure};

use super::{Scene, Test, world};

/// Who keeps asking such a Service is told what is missing, and nothing more once it is there.
pub(super) fn without_endpoints(test: &mut Test, scene: &Scene<'_>) -> Result<()> {
    test.kubectl
        .run(&["apply", "--filename", &world::file("empty-service.yaml")])?;
    test.until(
        "a Service without endpoints is named, and nothing else",
        |_| {
            let found = scene.agent.findings("empty")?;
            ensure!(
                found == [("client".to_owned(), "fail-netfilter-drop".to_owned())],
                "there is {found:?}"
            );
            let text = scene.agent.text("/v1/findings")?;
            let words = "Service empty/nobody:http has no endpoints";
            ensure!(text.contains(words), "nobody says {words}: {text}");
            Ok(())
        },
    )?;
    test.kubectl
        .run(&["label", "pod", "server", "--namespace=empty", "app=nobody"])?;
    test.until("it is over when there is one", |_| {
        let found = scene.agent.findings("empty")?;
        ensure!(found.is_empty(), "there is {found:?}");
        Ok(())
    })?;
    test.kubectl
        .run(&["delete", "namespace", "empty", "--wait=false"])
        .map(drop)
}
