//! The story in a virtual machine: a node with a kernel of the matrix, where kprobes are as on any node.
//!
//! The machine sees this one's files, so the same command runs there with the same paths; programs and images are made here,
//! where compiling takes no emulated processor. Without hardware virtualisation its clock counts instructions: it is a slow
//! machine for us, and an ordinary one for all that waits in it, so no limit has to know of it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{Chapter, Options, world};
use crate::cache::Cache;
use crate::setup::{Component, Kernel};
use crate::vm::{Accel, Guest, HostFiles};
use crate::{paths, setup};

/// A node's programs, images and logs are in it.
const MEM_MIB: u32 = 6144;
/// What a node loads at boot; the rest it loads when it needs it.
const MODULES: [&str; 2] = ["bridge", "br_netfilter"];
/// What is worth an emulated node's time if nothing else is asked for: what differs by kernel. The others need many
/// pods, a compiler, or just patience.
const CHAPTERS: [Chapter; 4] = [
    Chapter::Kernel,
    Chapter::HostNetwork,
    Chapter::NativeSidecar,
    Chapter::EmptyService,
];
/// For everything.
const LIMIT: Duration = Duration::from_hours(2);

/// Runs the story there.
pub(super) fn run(options: &Options, kernel: Kernel) -> Result<ExitCode> {
    let images = world::images(options.agent.as_deref().zip(options.tests.as_deref()))?;
    // One that was given may be where the machine does not look.
    let agent = images.agent.with_file_name("sidestep");
    fs::copy(&images.program, &agent).context("cannot copy the agent")?;
    super::super::lifecycle::programs()?;
    for component in [Component::Envoy, Component::Helm] {
        setup::need(component)?;
    }
    let mut guest = Guest::new(kernel, command(options, &agent)?);
    guest.modules.extend(MODULES.map(str::to_owned));
    guest.mem_mib = MEM_MIB;
    guest.timeout = LIMIT;
    guest.host_files = Some(HostFiles {
        // Overlays of containers are here.
        fresh: vec![Cache::open()?.join("cluster")],
    });
    guest.icount = Accel::best()? == Accel::Tcg;
    let outcome = guest.run(&mut |line| println!("{line}"))?;
    println!(
        "Linux {kernel}: the machine was up after {:.0} s, all took {:.0} s",
        outcome.boot.as_secs_f64(),
        outcome.total.as_secs_f64()
    );
    Ok(u8::try_from(outcome.code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// This command without its kernel, and with the environment that decides where things are.
fn command(options: &Options, agent: &Path) -> Result<Vec<String>> {
    let text = |path: &Path| {
        let path = path.canonicalize()?;
        let text = path
            .to_str()
            .with_context(|| format!("no text: {}", path.display()))?;
        anyhow::Ok(text.to_owned())
    };
    let mut command = vec!["env".to_owned(), "HOME=/root".to_owned()];
    for (name, value) in [
        ("PATH", std::env::var("PATH").unwrap_or_default()),
        ("SIDESTEP_CACHE", text(&Cache::open()?.join(""))?),
        (
            "CARGO_MANIFEST_DIR",
            text(&paths::workspace().join("xtask"))?,
        ),
        ("CARGO_TARGET_DIR", text(&paths::target())?),
    ] {
        command.push(format!("{name}={value}"));
    }
    command.push(text(&std::env::current_exe()?)?);
    command.extend(["cluster", "test"].map(str::to_owned));
    command.extend(["--made".to_owned(), text(agent)?]);
    let chapters = if options.only.is_empty() {
        CHAPTERS.as_slice()
    } else {
        &options.only
    };
    for chapter in chapters {
        let value = chapter
            .to_possible_value()
            .context("a chapter without a name")?;
        command.extend(["--only".to_owned(), value.get_name().to_owned()]);
    }
    for (flag, number) in [("--churn", options.churn), ("--crowd", options.crowd)] {
        command.extend([flag.to_owned(), number.to_string()]);
    }
    Ok(command)
}
