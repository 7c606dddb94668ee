//! Images of the test cluster: made here, given to containerd, fetched from nowhere.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use flate2::Compression;

use super::config::PAUSE;
use super::daemons::Programs;
use super::place::Place;
use crate::image::archive::{self, About, Files};
use crate::{process, setup};

/// containerd's own command, in the namespace the kubelet uses.
fn ctr(place: &Place, programs: &Programs) -> Command {
    let mut command = Command::new(programs.tools.join("usr/bin/ctr"));
    command
        .arg("--address")
        .arg(place.containerd())
        .args(["--namespace", "k8s.io", "images"]);
    command
}

/// Names of the images there are.
pub(crate) fn list(place: &Place, programs: &Programs) -> Result<String> {
    process::output(ctr(place, programs).args(["list", "--quiet"]))
}

/// Gives containerd an image.
pub(crate) fn import(place: &Place, programs: &Programs, file: &Path) -> Result<()> {
    process::output(ctr(place, programs).arg("import").arg(file)).map(drop)
}

/// The image of the container that holds a pod's namespaces: a program that sleeps.
pub(crate) fn pause(to: &Path) -> Result<()> {
    let tools = setup::need_guest_tools()?;
    let mut files = Files::default();
    files.file("busybox", &tools.root.join("bin/busybox"))?;
    let about = About {
        name: PAUSE,
        entrypoint: &["/busybox", "sleep", "2147483647"],
        path: "/",
        labels: &[],
        user: "0:0",
        compression: Compression::fast(),
    };
    archive::write(to, &files, &about).map(drop)
}
