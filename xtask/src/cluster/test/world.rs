//! What is installed on the cluster: the agent by its chart, and an image that pods of the mesh are made of.
//!
//! The chart is installed by the real helm with nothing set but the image, and what an old kernel wants. The pods' image has the
//! real Envoy and the real iptables in it; it must never have anything that makes a pod easier to understand than one of a
//! real mesh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;

use super::super::images;
use super::super::kubectl::Kubectl;
use super::super::lifecycle::Running;
use super::agent::Agent;
use crate::build::{self, Linkage, Profile, Program};
use crate::image::archive::{self, About, Files};
use crate::setup::{self, Component};
use crate::{image, manifests, paths, process};

/// The image files.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) agent: PathBuf,
    mesh: PathBuf,
    /// The agent itself, which is the plugin of kubectl, too.
    pub(super) program: PathBuf,
}

impl Images {
    /// Those of an agent, once they are made.
    pub(super) fn made_of(program: &Path) -> Self {
        let dir = paths::target().join("cluster-images");
        Self {
            agent: dir.join("sidestep.tar"),
            mesh: dir.join("mesh.tar"),
            program: program.to_path_buf(),
        }
    }
}

/// The mesh's server, by its service.
pub(super) const SERVICE: &str = "10.96.0.80:8080";
/// Tag of the agent's image: never one that a registry has.
const TAG: &str = "test";

/// What containers run, as files: words on a command line would be read as the mesh's own flags.
const SCRIPTS: [(&str, &str); 3] = [
    (
        "etc/install-rules",
        "exec iptables-legacy-restore --noflush /etc/istio.rules\n",
    ),
    ("etc/install-nothing", "true\n"),
    (
        "etc/run-envoy",
        "exec envoy -c /etc/envoy.json --concurrency 1 --log-level warn --disable-hot-restart\n",
    ),
];

/// Puts the programs into images: those given, else such as are built now.
pub(super) fn images(programs: Option<(&Path, &Path)>) -> Result<Images> {
    let name = format!("{}:{TAG}", image::NAME);
    if let Some((agent, tests)) = programs {
        let images = Images::made_of(agent);
        image::write(&images.agent, &name, agent)?;
        mesh(&images.mesh, tests)?;
        return Ok(images);
    }
    build::ebpf()?;
    // Together, because cargo builds what both need once.
    let wanted = [Program::Agent, Program::Tests];
    let built = build::programs(&wanted, Profile::Release, Linkage::Static)?;
    let [agent, tests] = built.as_slice() else {
        bail!("cargo built {built:?}");
    };
    let images = Images::made_of(agent);
    image::write(&images.agent, &name, agent)?;
    mesh(&images.mesh, tests)?;
    Ok(images)
}

/// The real Envoy, the real iptables, and the programs that scenarios use as client and server.
fn mesh(to: &Path, tests: &Path) -> Result<()> {
    let tools = setup::need_guest_tools()?;
    let mut files = Files::default();
    for path in tools.closure()? {
        files.file(&path, &tools.root.join(&path))?;
    }
    // iptables is one program with many names.
    files.file(
        "usr/sbin/xtables-legacy-multi",
        &tools.root.join("usr/sbin/xtables-legacy-multi"),
    )?;
    files.link("usr/sbin/iptables-legacy-restore", "xtables-legacy-multi");
    files.link("bin/sh", "dash");
    for applet in ["grep", "sleep", "true"] {
        files.link(Path::new("bin").join(applet), "busybox");
    }
    files.file("usr/bin/envoy", &setup::need(Component::Envoy)?)?;
    image::program(&mut files, "usr/bin/sidestep-tests", tests)?;
    for (name, line) in SCRIPTS {
        files.text(name, line);
    }
    let checkout = paths::workspace();
    files.file("etc/envoy.json", &checkout.join("tests/cluster/envoy.json"))?;
    files.file(
        "etc/istio.rules",
        &checkout.join("tests/rules/istio-ipv4.rules"),
    )?;
    files.dir("run");
    files.dir("tmp");
    let about = About {
        name: "sidestep.local/mesh:1",
        entrypoint: &[],
        path: "/usr/sbin:/usr/bin:/sbin:/bin",
        labels: &[],
        user: "0:0",
        compression: Compression::fast(),
    };
    archive::write(to, &files, &about).map(drop)
}

/// A file of this test's own.
pub(super) fn file(name: &str) -> String {
    paths::workspace()
        .join("tests/cluster")
        .join(name)
        .display()
        .to_string()
}

/// The configuration of a Prometheus that scrapes an agent.
pub(super) fn prometheus(agent: &Agent) -> Result<String> {
    Ok(fs::read_to_string(file("prometheus.yaml"))?.replace("ADDRESS", &agent.address))
}

/// Gives the cluster its images and installs the chart.
pub(super) fn install(running: &Running, images: &Images) -> Result<()> {
    for image in [&images.agent, &images.mesh] {
        images::import(&running.place, &running.programs, image)?;
    }
    install_chart(running)
}

/// Installs the chart, its image being there.
pub(super) fn install_chart(running: &Running) -> Result<()> {
    chart(running, &["install", "--create-namespace"], &[]).context("the chart does not install")
}

/// Changes the chart's values, all others being as at the installation.
pub(super) fn upgrade(running: &Running, values: &[&str]) -> Result<()> {
    chart(running, &["upgrade"], values).context("the chart does not upgrade")
}

fn chart(running: &Running, verb: &[&str], values: &[&str]) -> Result<()> {
    let mut command = Command::new(setup::need(Component::Helm)?);
    command
        .args(verb)
        .arg("sidestep")
        .arg(paths::workspace().join(manifests::CHART))
        .args(["--namespace", "sidestep"])
        .args(["--set", &format!("image.tag={TAG}")])
        .args(["--set", "image.pullPolicy=Never"])
        .env("KUBECONFIG", running.place.kubeconfig());
    // What docs/install.md asks for there.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    if is_old(&release) {
        command.args(["--set", "capabilities.addForOldKernels=true"]);
    }
    for value in values {
        command.args(["--set", value]);
    }
    process::output(&mut command).map(drop)
}

/// Whether a kernel wants the chart's capabilities for old ones: all before 5.17.
fn is_old(release: &str) -> bool {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    version < (Some(5), Some(17))
}

/// What `kubectl sidestep` answers, as its administrator's kubeconfig lets it ask.
pub(super) fn plugin(running: &Running, images: &Images, arguments: &[&str]) -> Result<String> {
    let plugin = running.place.join("kubectl-sidestep");
    if !plugin.exists() {
        std::os::unix::fs::symlink(images.program.canonicalize()?, &plugin)?;
    }
    process::output(
        Command::new(plugin)
            .args(arguments)
            .env("KUBECONFIG", running.place.kubeconfig()),
    )
}

/// Address of the agent's pod, once it is ready.
pub(super) fn agent_address(kubectl: &Kubectl) -> Result<String> {
    let line = kubectl.run(&[
        "get",
        "pods",
        "--namespace=sidestep",
        "--selector=app.kubernetes.io/name=sidestep",
        "--no-headers",
        "--output=custom-columns=I:.status.podIP,R:.status.containerStatuses[0].ready",
    ])?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, "true"] = words.as_slice() else {
        bail!("there is {}", line.trim());
    };
    Ok((*address).to_owned())
}

/// Whether so many pods of a namespace are ready, all containers of them.
pub(super) fn ready(kubectl: &Kubectl, namespace: &str, wanted: usize) -> Result<()> {
    let text = kubectl.run(&["get", "pods", "--namespace", namespace, "--no-headers"])?;
    let ready = text
        .lines()
        .filter(|line| {
            line.split_whitespace()
                .nth(1)
                .and_then(|ready| ready.split_once('/'))
                .is_some_and(|(there, all)| there == all)
        })
        .count();
    ensure!(ready == wanted, "of {wanted} are ready {ready}:\n{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_old;

    #[test]
    fn capabilities_for_old_kernels_follow_the_version() {
        assert!(is_old("5.10.0-46-cloud-amd64\n"));
        assert!(is_old("5.16.20"));
        assert!(!is_old("5.17.0"));
        assert!(!is_old("6.1.0-56-cloud-amd64"));
        assert!(!is_old("6.12.107+deb13-cloud-amd64"));
    }
}
