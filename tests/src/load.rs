//! From files to scenarios: reads, expands the matrix, and checks what serde cannot.
//!
//! Every error names the file, the key and what to do, because the file may come from a user who never saw this code.
//! The matrix is expanded in the text before it is parsed, so that `{backend}` and `{family}` work in any value.
//!
//! This module must never let a scenario through whose names point nowhere: a typo would pass as silence.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;

use crate::spec::{self, Action, Backend, Connect, Family, Matrix, Pod, Requirement, Scenario};

const MORE: &str = "docs/scenarios.md lists every key";

/// A scenario with the name of its combination and the file it came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// `NAME` or `NAME/legacy/ipv6`.
    pub(crate) id: String,
    /// The file.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) scenario: Scenario,
    /// Its text, with the combination's values.
    text: String,
}

/// Stands for `10.x.y` of the run; runs share a machine, and two pods with one address would be mixed up.
const SUBNET: &str = "{subnet}";

impl Loaded {
    /// The scenario with the addresses of a run.
    pub(crate) fn in_subnet(&self, subnet: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(&self.text.replace(SUBNET, subnet))?;
        Ok(Scenario {
            backend: self.scenario.backend,
            family: self.scenario.family,
            ..scenario
        })
    }
}

#[derive(Deserialize)]
struct OnlyMatrix {
    #[serde(default)]
    matrix: Matrix,
}

/// Reads every `*.toml` of a folder, sorted by name.
pub(crate) fn folder(dir: &Path) -> Result<Vec<Loaded>> {
    let entries = fs::read_dir(dir)
        .with_context(|| format!("cannot read the folder of scenarios {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for path in &files {
        all.extend(file(path)?);
    }
    ensure!(
        !all.is_empty(),
        "{} holds no scenario (*.toml)",
        dir.display()
    );
    Ok(all)
}

/// Reads one file; one element per combination of its matrix.
pub(crate) fn file(path: &Path) -> Result<Vec<Loaded>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    expand(&text)
        .and_then(|all| {
            all.into_iter()
                .map(|(id, scenario, text)| {
                    validate(&scenario)?;
                    Ok(Loaded {
                        id,
                        file: path.to_path_buf(),
                        scenario,
                        text,
                    })
                })
                .collect()
        })
        .with_context(|| format!("{}: not a usable scenario; {MORE}", path.display()))
}

fn expand(text: &str) -> Result<Vec<(String, Scenario, String)>> {
    let matrix = toml::from_str::<OnlyMatrix>(text)?.matrix;
    let mut all = Vec::new();
    for backend in or_none(&matrix.backend) {
        for family in or_none(&matrix.family) {
            all.push(one(text, backend, family)?);
        }
    }
    Ok(all)
}

fn or_none<T: Copy>(values: &[T]) -> Vec<Option<T>> {
    if values.is_empty() {
        vec![None]
    } else {
        values.iter().copied().map(Some).collect()
    }
}

fn one(
    text: &str,
    backend: Option<Backend>,
    family: Option<Family>,
) -> Result<(String, Scenario, String)> {
    let text = text
        .replace("{backend}", &backend.unwrap_or_default().to_string())
        .replace("{family}", &family.unwrap_or_default().to_string());
    let mut scenario: Scenario = toml::from_str(&text.replace(SUBNET, "10.90.0"))?;
    let mut id = scenario.name.clone();
    if let Some(backend) = backend {
        scenario.backend = backend;
        id = format!("{id}/{backend}");
    }
    if let Some(family) = family {
        scenario.family = family;
        id = format!("{id}/{family}");
    }
    Ok((id, scenario, text))
}

fn validate(scenario: &Scenario) -> Result<()> {
    ensure!(
        scenario.machine.sysctl.is_empty() || scenario.requires.contains(&Requirement::Vm),
        "`machine` changes the whole machine: write `requires = [\"vm\"]`"
    );
    ensure!(
        !scenario.name.is_empty(),
        "`name` is empty: use the file's name without .toml"
    );
    ensure!(
        !scenario.pod.is_empty(),
        "there is no [[pod]]: a scenario needs at least one"
    );
    for pod in &scenario.pod {
        validate_pod(pod).with_context(|| format!("pod `{}`", pod.name))?;
    }
    for (index, action) in scenario.action.iter().enumerate() {
        validate_action(scenario, action)
            .with_context(|| format!("[[action]] number {}", index + 1))?;
    }
    for expect in &scenario.expect {
        find_pod(scenario, &expect.pod).context("[[expect]]")?;
    }
    for allow in &scenario.allow {
        ensure!(
            !allow.reason.is_empty(),
            "[[allow]] of {} has no `reason`",
            allow.code
        );
        if let Some(pod) = &allow.pod {
            find_pod(scenario, pod).context("[[allow]]")?;
        }
    }
    for check in &scenario.check {
        find_process(scenario, &check.process).context("[[check]]")?;
    }
    Ok(())
}

fn validate_pod(pod: &Pod) -> Result<()> {
    ensure!(
        pod.mesh.is_some()
            || pod.rules.is_none()
            || pod
                .rules
                .iter()
                .flatten()
                .all(|rules| rules.set.is_some() || rules.text.is_some()),
        "`rules` without `mesh` must name a `set` or give a `text`"
    );
    for rules in pod.rules.iter().flatten() {
        ensure!(
            !(rules.set.is_some() && rules.text.is_some()),
            "`rules` gives both `set` and `text`: keep one"
        );
    }
    for process in &pod.process {
        ensure!(
            process.serve.is_some() != process.run.is_some(),
            "process `{}` needs exactly one of `serve` and `run`",
            process.name
        );
    }
    Ok(())
}

fn validate_action(scenario: &Scenario, action: &Action) -> Result<()> {
    match action {
        Action::Connect(connect) => validate_connect(scenario, connect),
        Action::Start(process) | Action::Stop(process) => find_process(scenario, process),
        Action::Signal(signal) => find_process(scenario, &signal.process),
        Action::Flush(pod) => find_pod(scenario, pod).map(drop),
        Action::Rules(late) if late.pod == spec::NODE => {
            ensure!(late.rules.text.is_some(), "rules of the node need a `text`");
            Ok(())
        }
        Action::Rules(late) => find_pod(scenario, &late.pod).map(drop),
        Action::Wait(seconds) => {
            ensure!(
                (0.0..=120.0).contains(seconds),
                "`wait` must be between 0 and 120 seconds"
            );
            Ok(())
        }
        Action::Affected(_) => Ok(()),
    }
}

fn validate_connect(scenario: &Scenario, connect: &Connect) -> Result<()> {
    let from = connect.from.split('/').next().unwrap_or_default();
    if from != spec::NODE {
        find_pod(scenario, from).context("`from`")?;
    }
    let (host, port) = connect
        .to
        .rsplit_once(':')
        .ok_or_else(|| anyhow!("`to = \"{}\"` has no port: write POD:PORT", connect.to))?;
    port.parse::<u16>()
        .map_err(|_| anyhow!("`to = \"{}\"`: `{port}` is not a port", connect.to))?;
    let literal = host
        .trim_matches(['[', ']'])
        .parse::<std::net::IpAddr>()
        .is_ok();
    if host != "localhost" && !literal {
        find_pod(scenario, host).context("`to`")?;
    }
    ensure!(connect.rate > 0.0, "`rate` must be above 0");
    ensure!(connect.threads > 0, "`threads` must be above 0");
    Ok(())
}

/// The pod of that name.
pub(crate) fn find_pod<'a>(scenario: &'a Scenario, name: &str) -> Result<&'a Pod> {
    scenario
        .pod
        .iter()
        .find(|pod| pod.name == name)
        .ok_or_else(|| anyhow!("there is no pod `{name}`: name one of the [[pod]] tables"))
}

fn find_process(scenario: &Scenario, path: &str) -> Result<()> {
    let Some((pod, name)) = path.split_once('/') else {
        bail!("`{path}` names no process: write POD/PROCESS, or POD/proxy for the sidecar");
    };
    let pod = find_pod(scenario, pod)?;
    ensure!(
        name == "proxy" || pod.process.iter().any(|process| process.name == name),
        "pod `{}` has no process `{name}`",
        pod.name
    );
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    fn corpus() -> Vec<Loaded> {
        folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap()
    }

    const SMALL: &str =
        "name = \"x\"\ndescription = \"\"\n[[pod]]\nname = \"a\"\nmesh = \"istio\"\n";

    fn refused(text: &str) -> String {
        let checked = expand(text).and_then(|all| all.iter().try_for_each(|(_, s, _)| validate(s)));
        format!("{:#}", checked.unwrap_err())
    }

    #[test]
    fn the_corpus_is_well_formed() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings");
        let all = corpus();
        for loaded in &all {
            let scenario = &loaded.scenario;
            let id = &loaded.id;
            assert_eq!(
                loaded.file.file_stem().unwrap().to_str().unwrap(),
                scenario.name
            );
            let tagged = |tag: &str| scenario.tags.iter().any(|known| known == tag);
            assert!(
                tagged("healthy") != tagged("broken") || tagged("demo"),
                "{id}: one of the tags healthy, broken"
            );
            assert_eq!(
                tagged("healthy"),
                scenario.expect.is_empty(),
                "{id}: a healthy scenario expects nothing"
            );
            let twin = scenario.twin.as_ref();
            let healthy = |other: &&Loaded| {
                Some(&other.scenario.name) == twin && other.scenario.expect.is_empty()
            };
            assert!(
                tagged("demo") || scenario.expect.is_empty() || all.iter().any(|l| healthy(&l)),
                "{id}: `twin` must name a healthy scenario of the corpus"
            );
            for expect in &scenario.expect {
                assert!(
                    pages.join(format!("{}.md", expect.code)).is_file(),
                    "{id}: no page for {}",
                    expect.code
                );
            }
        }
    }

    /// What the agent says of itself, and what only a fault of its own would show.
    const WITHOUT_SCENARIO: &[&str] = &["agent-degraded", "agent-overload", "agent-unattributed"];

    #[test]
    fn every_finding_has_a_scenario() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings");
        let all = corpus();
        for page in fs::read_dir(pages).unwrap() {
            let path = page.unwrap().path();
            let code = path.file_stem().unwrap().to_str().unwrap();
            let expects = |l: &Loaded| l.scenario.expect.iter().any(|e| e.code == code);
            assert_ne!(
                WITHOUT_SCENARIO.contains(&code),
                all.iter().any(expects),
                "{code}: a scenario must expect it, unless it is listed here as having none"
            );
        }
    }

    #[test]
    fn the_matrix_expands() {
        let text = format!(
            "{SMALL}families = [\"{{family}}\"]\n[matrix]\nbackend = [\"legacy\", \"nft\"]\nfamily = [\"ipv6\"]\n"
        );
        let all = expand(&text).unwrap();
        assert_eq!(all[0].0, "x/legacy/ipv6");
        assert_eq!(all[1].1.pod[0].families, Some(vec![Family::Ipv6]));
        assert_eq!(all[1].1.backend, Backend::Nft);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(refused(&format!("{SMALL}colour = 1\n")).contains("colour"));
        assert!(
            refused(&format!("{SMALL}[[expect]]\npod = \"b\"\ncode = \"x\"\n"))
                .contains("no pod `b`")
        );
        let connect = format!("{SMALL}[[action]]\nconnect = {{ from = \"a\", to = \"b:80\" }}\n");
        assert!(refused(&connect).contains("no pod `b`"));
        let connect = format!("{SMALL}[[action]]\nconnect = {{ from = \"a\", to = \"a\" }}\n");
        assert!(refused(&connect).contains("no port"));
        let stop = format!("{SMALL}[[action]]\nstop = \"a/web\"\n");
        assert!(refused(&stop).contains("no process `web`"));
    }
}
