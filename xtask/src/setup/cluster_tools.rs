//! The test cluster's programs that Debian has ready: etcd, containerd, runc, network plugins, kubectl, Prometheus, a registry.
//!
//! Go programs of Debian 12 and 13 need nothing but a C library of Debian 12's age or newer, so they run where they are
//! unpacked. runc and skopeo alone load more libraries, which lie beside them and are named to them, so that none is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::apt::{AptRoot, Suite};
use super::{Context, Unavailable};
use crate::cache::Manifest;
use crate::process;

/// Packages, each with the suite it is taken from. containerd and kubectl are of the age of the Kubernetes they serve.
const PACKAGES: [(Suite, &[&str]); 2] = [
    (
        Suite::Bookworm,
        &[
            "containerd",
            "containernetworking-plugins",
            "docker-registry",
            "kubernetes-client",
            "libassuan0",
            "libdevmapper1.02.1",
            "libgpgme11",
            "libseccomp2",
            "prometheus",
            "runc",
            "skopeo",
        ],
    ),
    // Debian 12 has none that the API server of this age is tested with.
    (Suite::Trixie, &["etcd-server"]),
];

/// What is used of them: the file, how its version is asked for, and what the answer must contain.
const PROGRAMS: [(&str, &[&str], &str); 10] = [
    ("usr/bin/containerd", &["--version"], "containerd"),
    ("usr/bin/containerd-shim-runc-v2", &["-v"], "Version"),
    ("usr/bin/ctr", &["--version"], "ctr"),
    ("usr/bin/docker-registry", &["--version"], "registry"),
    ("usr/bin/etcd", &["--version"], "etcd Version: 3."),
    ("usr/bin/kubectl", &["version", "--client"], "v1.20"),
    ("usr/bin/prometheus", &["--version"], "version 2."),
    ("usr/bin/promtool", &["--version"], "version 2."),
    ("usr/bin/skopeo", &["--version"], "skopeo version 1."),
    ("usr/sbin/runc", &["--version"], "runc version 1."),
];

/// Network plugins that the node's configuration names, with the ones that those call.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Where the plugins are.
pub(crate) const PLUGIN_DIR: &str = "usr/lib/cni";
/// Where the library of runc is.
pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Returns the folder with all of them, laid out as the packages do.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let dir = context.cache.join("cluster-tools");
    if is_there(context, &dir)? {
        return Ok(dir);
    }
    let _lock = context.cache.lock("cluster-tools")?;
    if is_there(context, &dir)? {
        return Ok(dir);
    }
    install(context).map_err(|error| Unavailable {
        what: "the programs of the test cluster".to_owned(),
        why: format!("{error:#}"),
        todo: "check that apt reaches a Debian mirror that has bookworm and trixie, then run this again".to_owned(),
    })?;
    Ok(dir)
}

fn is_there(context: &Context, dir: &Path) -> Result<bool> {
    let manifest = Manifest::check(dir, context.depth)?;
    Ok(manifest.is_some_and(|manifest| manifest.source == source()))
}

/// A change of the list is a change of the entry.
fn source() -> String {
    PACKAGES
        .iter()
        .map(|(suite, packages)| format!("packages of {suite}: {}", packages.join(" ")))
        .collect::<Vec<_>>()
        .join("; ")
}

fn install(context: &Context) -> Result<()> {
    let dir = context.cache.fresh("cluster-tools")?;
    context.say(
        "downloading etcd, containerd, runc, network plugins, kubectl, Prometheus and a registry (140 MB)",
    );
    for (suite, packages) in PACKAGES {
        let apt = AptRoot::open(context, suite)?;
        let packages: Vec<String> = packages.iter().map(|&package| package.to_owned()).collect();
        let debs = apt.download(&packages, &dir)?;
        apt.unpack(&debs, &dir)?;
    }
    let mut files: Vec<PathBuf> = PLUGINS
        .iter()
        .map(|plugin| Path::new(PLUGIN_DIR).join(plugin))
        .collect();
    for (program, question, answer) in PROGRAMS {
        let said = process::output(
            Command::new(dir.join(program))
                .args(question)
                .env("LD_LIBRARY_PATH", dir.join(LIBRARIES)),
        )?;
        ensure!(
            said.contains(answer),
            "{program} says it is {}",
            said.trim()
        );
        files.push(program.into());
    }
    let library = std::fs::read_dir(dir.join(LIBRARIES))?
        .flatten()
        .map(|entry| entry.file_name())
        .find(|name| name.to_string_lossy().starts_with("libseccomp.so.2"))
        .context("the package has no libseccomp.so.2")?;
    files.push(Path::new(LIBRARIES).join(library));
    Manifest::write(&dir, source(), &files)?;
    Ok(())
}
