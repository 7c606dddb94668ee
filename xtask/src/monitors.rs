//! The chart's PodMonitor and ServiceMonitor, compared with what the Prometheus operator takes.
//!
//! helm renders them with everything a user may set; the compiler of TypeScript compares them with types made from the
//! operator's own, where a field that does not exist is a mistake. A wrong one beside them must be refused each time.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::manifests::{self, CHART};
use crate::process;
use crate::setup::{self, Component};

/// Reads manifests and prints them as objects that have a type.
const TYPED: &str = r#"
import { parseAllDocuments } from "yaml";
import { readFileSync } from "node:fs";
const kinds = ["PodMonitor", "ServiceMonitor"];
const wanted = process.argv.slice(2).map((path) => parseAllDocuments(readFileSync(path, "utf8"))).flat()
  .map((document) => document.toJS()).filter((object) => kinds.includes(object?.kind));
for (const kind of kinds)
  console.log(`import type { I${kind} } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/${kind}";`);
wanted.forEach((object, index) => console.log(`export const o${index}: I${object.kind} = ${JSON.stringify(object)};`));
"#;
/// Values that put both objects into the chart.
const BOTH: [&str; 2] = ["podMonitor.create=true", "serviceMonitor.create=true"];
/// All that changes how they look.
const SECURED: [&str; 8] = [
    "auth.enabled=true",
    "auth.tlsSecret=sidestep-tls",
    "podMonitor.labels.release=prometheus",
    "serviceMonitor.labels.release=prometheus",
    "serviceMonitor.endpoint.tlsConfig.insecureSkipVerify=true",
    "serviceMonitor.endpoint.authorization.credentials.name=prometheus-token",
    "serviceMonitor.endpoint.authorization.credentials.key=token",
    "podMonitor.endpoint.tlsConfig.serverName=sidestep.sidestep.svc",
];
/// A field that the operator does not know, by the chart's own way of adding one.
const WRONG: &str = "podMonitor.endpoint.honourLabels=true";

/// Fails if the operator would not take what the chart renders.
pub(crate) fn check() -> Result<()> {
    let types = setup::need(Component::MonitorTypes)?;
    let dir = tempfile::tempdir_in(&types)?;
    let secured: Vec<&str> = BOTH.into_iter().chain(SECURED).collect();
    let wrong: Vec<&str> = secured.iter().copied().chain([WRONG]).collect();
    compare(dir.path(), &[&BOTH, &secured])?;
    let refused = compare(dir.path(), &[&wrong]);
    ensure!(
        refused.is_err_and(|error| format!("{error:#}").contains("honourLabels")),
        "a field that the operator does not know is not noticed"
    );
    Ok(())
}

/// Compares what the chart renders with each of these values.
fn compare(dir: &Path, all: &[&[&str]]) -> Result<()> {
    fs::write(dir.join("typed.mjs"), TYPED)?;
    let mut typed = Command::new("node");
    typed.arg("typed.mjs").current_dir(dir);
    for (index, values) in all.iter().enumerate() {
        let mut helm = manifests::helm()?;
        helm.args(["template", "sidestep", CHART, "--namespace", "sidestep"]);
        for value in *values {
            helm.args(["--set", value]);
        }
        let file = format!("{index}.yaml");
        fs::write(dir.join(&file), process::output(&mut helm)?)?;
        typed.arg(file);
    }
    let text = process::output(&mut typed)?;
    let objects = text.matches("export const").count();
    ensure!(objects == 2 * all.len(), "there are {objects} objects");
    fs::write(dir.join("check.ts"), text)?;
    process::output(
        Command::new("node")
            .arg("../node_modules/typescript/lib/tsc.js")
            .args([
                "--noEmit",
                "--strict",
                "--skipLibCheck",
                "--pretty",
                "false",
            ])
            .args(["--module", "esnext", "--moduleResolution", "bundler"])
            .arg("check.ts")
            .current_dir(dir),
    )
    .map(drop)
}
