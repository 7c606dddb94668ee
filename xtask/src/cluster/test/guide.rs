//! docs/install.md followed: each command of its console blocks is run as it is written, in its order, on the real cluster.
//!
//! Only placeholders are filled in. A command that nobody knows fails the check, so that the page cannot say what was never
//! tried; what a command must print or do stands here.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::super::certificates;
use super::super::place::REGISTRY;
use super::{Scene, Test, kinds, world};
use crate::setup::{self, CLUSTER_LIBRARIES, Component};
use crate::{image, paths, process};

/// What becomes of a command.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It prints this, at once or soon.
    Prints(&'static str),
    /// It ends with an error, because one of the mesh's pods is broken.
    Fails,
    /// It stays, and the others talk to it.
    Stays,
    /// It makes the image, which a caller with programs of its own has made.
    Image,
    /// It is what runs this test, or what it does all the time.
    Known,
}

/// How long a command may take.
const AT_MOST: Duration = Duration::from_secs(60);
/// The same where it builds the agent as it is shipped, on a machine that never did.
const BUILDS_AT_MOST: Duration = Duration::from_mins(15);
/// Beginnings of all commands of the page.
const COMMANDS: [(&str, Then); 26] = [
    ("cargo xtask image --release &&", Then::Known),
    ("cargo xtask image", Then::Image),
    ("skopeo copy ", Then::Prints("")),
    (
        "ctr --namespace k8s.io images import ",
        Then::Prints("sidestep.local/sidestep:"),
    ),
    ("helm install ", Then::Prints("STATUS: deployed")),
    (
        "kubectl --namespace sidestep rollout status ",
        Then::Prints("successfully rolled out"),
    ),
    (
        "kubectl sidestep findings -A",
        Then::Prints("bypass-no-rules"),
    ),
    (
        "kubectl --namespace sidestep exec ",
        Then::Prints("bypass-no-rules"),
    ),
    ("kubectl describe pod ", Then::Prints("BypassNoRules")),
    (
        "kubectl --namespace sidestep create secret tls ",
        Then::Prints("secret/sidestep-tls created"),
    ),
    ("helm upgrade ", Then::Prints("STATUS: deployed")),
    (
        "kubectl create clusterrolebinding ",
        Then::Prints("created"),
    ),
    ("helm uninstall ", Then::Prints("uninstalled")),
    (
        "sed 's|image: ",
        Then::Prints("daemonset.apps/sidestep created"),
    ),
    ("kubectl delete -f ", Then::Prints("\"sidestep\" deleted")),
    ("cargo xtask cluster up", Then::Known),
    ("cargo xtask cluster status", Then::Prints("broken")),
    ("cargo xtask cluster stop ", Then::Known),
    ("cargo xtask cluster down", Then::Known),
    ("cargo xtask cluster test", Then::Known),
    ("cargo xtask build ", Then::Known),
    ("sidestep agent ", Then::Stays),
    ("sidestep findings --brief --fail-on critical", Then::Fails),
    ("sidestep findings", Then::Prints("bypass-no-rules")),
    ("sidestep ", Then::Prints("broken")),
    ("curl -s ", Then::Prints("sidestep_interception_total")),
];

/// Where commands run, and what is filled in.
#[derive(Debug)]
struct Reader {
    /// A home with the programs of the page.
    home: PathBuf,
    path: std::ffi::OsString,
    libraries: PathBuf,
    kubeconfig: PathBuf,
    containerd: PathBuf,
    /// Certificates.
    pki: PathBuf,
    /// Manifests of the mesh's pods.
    pods: PathBuf,
    /// The agent that stays, in a network of its own.
    agent: Option<Ended>,
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes what is installed, follows the page, and installs it again.
pub(super) fn guide(test: &mut Test, scene: &mut Scene<'_>, build: bool) -> Result<()> {
    let mut reader = Reader::new(test, scene)?;
    let _registry = registry(test)?;
    reader.run("helm uninstall sidestep --namespace sidestep")?;
    no_agent(test)?;
    let text = fs::read_to_string(paths::workspace().join("docs/install.md"))?;
    let stale = COMMANDS
        .iter()
        .map(|(start, _)| *start)
        .filter(|start| !commands(&text).any(|command| command.starts_with(start)))
        .collect::<Vec<_>>();
    test.check("install.md has all commands that are tried", || {
        ensure!(stale.is_empty(), "it has none like {stale:?}");
        Ok(String::new())
    });
    for command in commands(&text) {
        let known = COMMANDS
            .iter()
            .find(|(start, _)| command.starts_with(start));
        let what = format!("install.md: {command}");
        let Some((_, then)) = known else {
            test.check(&what, || bail!("nobody has tried this"));
            continue;
        };
        match then {
            Then::Known => (),
            Then::Image if !build => {
                let name = format!("{}:{}", image::NAME, env!("CARGO_PKG_VERSION"));
                let to = paths::target().join("sidestep-image.tar");
                image::write(&to, &name, &scene.images.program)?;
            }
            Then::Image => test.check(&what, || {
                let mut shell = reader.shell(command);
                process::output_within(&mut shell, BUILDS_AT_MOST).map(|_| String::new())
            }),
            Then::Stays => reader.stays(command)?,
            Then::Fails => test.check(&what, || {
                let answer = reader.run(command);
                ensure!(answer.is_err(), "it ends well: {answer:?}");
                Ok(String::new())
            }),
            // What installs or removes is done once, what looks may have to look again.
            Then::Prints(text) => test.until(&what, |_| {
                let said = reader.run(command)?;
                ensure!(said.contains(text), "it says {said}");
                Ok(())
            })?,
        }
        if command.starts_with("helm uninstall") || command.starts_with("kubectl delete") {
            no_agent(test)?;
        }
    }
    drop(reader);
    world::install_chart(&test.running)?;
    test.until("the agent is ready", |test| {
        world::agent_address(&test.kubectl).map(drop)
    })?;
    scene.moved(test)
}

/// Commands of console blocks, without prompt and comment.
fn commands(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with("```") {
            inside = line == "```console";
            return None;
        }
        let command = line
            .strip_prefix("$ ")
            .or_else(|| line.strip_prefix("# "))?;
        let end = command.find("  #").unwrap_or(command.len());
        inside.then(|| command.get(..end).unwrap_or(command).trim())
    })
}

/// Nothing of an agent is left: no process, nothing in the API but its namespace.
fn no_agent(test: &mut Test) -> Result<()> {
    test.until("of the removed agent nothing is left", |test| {
        let left = test.kubectl.run(&[
            "get",
            "pods,daemonsets,services,serviceaccounts,clusterroles,clusterrolebindings,priorityclasses,networkpolicies",
            "--all-namespaces",
            "--selector=app.kubernetes.io/name=sidestep",
            "--output=name",
        ])?;
        ensure!(left.is_empty(), "there is {left}");
        let process = super::chaos::process_of("", "usr/bin/sidestep");
        ensure!(process.is_err(), "process {process:?} runs");
        Ok(())
    })
}

/// A real registry on this machine, for the node.
fn registry(test: &Test) -> Result<Ended> {
    let place = &test.running.place;
    let config = place.join("registry.yaml");
    let text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n",
        place.join("registry").display()
    );
    fs::write(&config, text)?;
    let log = File::create(place.log("registry"))?;
    let child = process::dies_with_us(&test.running.programs.tools.join("usr/bin/docker-registry"))
        .arg("serve")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the registry")?;
    Ok(Ended(child))
}

impl Reader {
    /// Makes a home where the page's programs are those of the test, and settings are what an administrator has set.
    fn new(test: &Test, scene: &Scene<'_>) -> Result<Self> {
        let (place, tools) = (&test.running.place, &test.running.programs.tools);
        let home = place.join("reader");
        let (bin, settings) = (home.join("bin"), home.join(".config/containers"));
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(&settings)?;
        certificates::serving(&place.join("pki"), "agent", super::secured::NAME)?;
        let agent = scene.images.program.canonicalize()?;
        let helm = setup::need(Component::Helm)?;
        for (name, program) in [
            ("sidestep", agent.clone()),
            ("kubectl-sidestep", agent),
            ("helm", helm),
            ("kubectl", tools.join("usr/bin/kubectl")),
            ("ctr", tools.join("usr/bin/ctr")),
            ("skopeo", tools.join("usr/bin/skopeo")),
        ] {
            symlink(program, bin.join(name))?;
        }
        fs::write(
            settings.join("policy.json"),
            r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
        )?;
        fs::write(
            settings.join("registries.conf"),
            format!("[[registry]]\nlocation = \"{REGISTRY}\"\ninsecure = true\n"),
        )?;
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(bin).chain(std::env::split_paths(&rest));
        Ok(Self {
            path: std::env::join_paths(dirs)?,
            libraries: tools.join(CLUSTER_LIBRARIES),
            kubeconfig: place.kubeconfig(),
            containerd: place.containerd(),
            pods: kinds::manifests(test)?,
            pki: place.join("pki"),
            home,
            agent: None,
        })
    }

    /// The command with its placeholders filled in.
    fn filled(&self, command: &str) -> String {
        let pod = match command.starts_with("kubectl ") {
            true => "--namespace mesh broken",
            false => "mesh/broken",
        };
        command
            .replace("REGISTRY", REGISTRY)
            .replace("POD", pod)
            .replace("ADDRESS:PORT", world::SERVICE)
            .replace("/etc/sidestep/pods", &self.pods.display().to_string())
            .replace("tls.", &format!("{}/agent.", self.pki.display()))
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = match &self.agent {
            None => process::dies_with_us(Path::new("sh")),
            Some(agent) => {
                let mut shell = process::dies_with_us(Path::new("nsenter"));
                shell.args(["--net", "--target", &agent.0.id().to_string(), "sh"]);
                shell
            }
        };
        shell
            .args(["-c", &self.filled(command)])
            .current_dir(paths::workspace())
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("CONTAINERD_ADDRESS", &self.containerd);
        if command.starts_with("skopeo ") {
            shell
                .env("LD_LIBRARY_PATH", &self.libraries)
                .env("HOME", &self.home);
        }
        shell
    }

    fn run(&self, command: &str) -> Result<String> {
        process::output_within(&mut self.shell(command), AT_MOST)
    }

    /// Starts a command that stays, in a network where its port is free.
    fn stays(&mut self, command: &str) -> Result<()> {
        let log = File::create(self.home.join("agent.log"))?;
        let alone = format!("unshare --net sh -c 'ip link set lo up && exec {command}'");
        let child = self
            .shell(&format!("exec {alone}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command}"))?;
        self.agent = Some(Ended(child));
        Ok(())
    }
}
