//! `cargo xtask setup`: finds or installs everything the other commands need, and says plainly what cannot be had.
//!
//! Each component is made by one function that returns where it is, and does nothing when it is there already. Other
//! commands call [`need`] for exactly what they use, so nobody has to run `setup` first; running it shows the whole
//! picture and reads every cached file again to verify it.
//!
//! It must never guess: what is cached is compared with its manifest, what is installed is asked for its version.

mod apt;
mod cargo_tools;
mod cluster_tools;
mod core_sources;
mod envoy;
mod guest_tools;
mod helm;
mod host;
mod kernels;
mod kubernetes;
mod monitor_types;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::cache::{Cache, Depth};

pub(crate) use cluster_tools::{LIBRARIES as CLUSTER_LIBRARIES, PLUGIN_DIR as CLUSTER_PLUGIN_DIR};
pub(crate) use guest_tools::GuestTools;
pub(crate) use kernels::KernelFiles;

/// `cargo xtask setup`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What to set up; everything if none is named
    #[arg(value_enum)]
    components: Vec<Component>,
    /// Only list the components and what each is for
    #[arg(long)]
    list: bool,
}

/// Something a command may need that is not in the checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Component {
    /// Rust's core library as source, to compile it for the bpf target
    CoreSources,
    /// Links eBPF objects with rustc's own LLVM
    BpfLinker,
    /// Boots the kernels of the matrix
    Qemu,
    /// Gives virtual machines this machine's files (virtiofs)
    FileServer,
    /// User space of the virtual machines: shell, iptables of both backends, nft, ip
    GuestTools,
    /// Linux 5.10 of Debian 11
    #[value(name = "kernel-5.10")]
    Kernel5_10,
    /// Linux 6.1 of Debian 12
    #[value(name = "kernel-6.1")]
    Kernel6_1,
    /// Linux 6.12 of Debian 13
    #[value(name = "kernel-6.12")]
    Kernel6_12,
    /// Linux 7.2 of Debian 13's backports
    #[value(name = "kernel-7.2")]
    Kernel7_2,
    /// ip, iptables and nft on this machine, for the demo and the host scenarios
    HostTools,
    /// The real Envoy, the sidecar of demo and scenarios
    Envoy,
    /// Checks licences, advisories and duplicate dependencies
    CargoDeny,
    /// API server, controllers, scheduler, kubelet and kube-proxy, compiled here
    Kubernetes,
    /// etcd, containerd, runc, network plugins, kubectl and Prometheus of the test cluster
    ClusterTools,
    /// Network tools of this machine that a node needs
    NodeTools,
    /// Installs the chart
    Helm,
    /// What the Prometheus operator takes, to compare the chart's monitors with
    MonitorTypes,
}

/// A kernel of the test matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11: no module BTF, no drop reasons
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13's backports
    #[value(name = "7.2")]
    V7_2,
}

/// A component that cannot be had on this machine: never a crash, always an explanation.
#[derive(Debug, Error)]
#[error("cannot get {what}: {why}\n  what to do: {todo}")]
pub(crate) struct Unavailable {
    /// The component, as a person would name it.
    pub(crate) what: String,
    /// What was tried and what came of it.
    pub(crate) why: String,
    /// The next step for the reader.
    pub(crate) todo: String,
}

/// What making a component needs to know.
#[derive(Debug)]
pub(crate) struct Context {
    cache: Cache,
    depth: Depth,
    name: String,
}

impl Kernel {
    /// The whole matrix, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7_2];

    /// The component that holds this kernel's image and modules.
    pub(crate) fn component(self) -> Component {
        match self {
            Self::V5_10 => Component::Kernel5_10,
            Self::V6_1 => Component::Kernel6_1,
            Self::V6_12 => Component::Kernel6_12,
            Self::V7_2 => Component::Kernel7_2,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(value_name(self).as_str())
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(value_name(self).as_str())
    }
}

impl Context {
    fn new(name: impl fmt::Display, depth: Depth) -> Result<Self> {
        Ok(Self {
            cache: Cache::open()?,
            depth,
            name: name.to_string(),
        })
    }

    /// Says what is being done, on stderr: stdout belongs to results.
    pub(crate) fn say(&self, text: impl fmt::Display) {
        eprintln!("setup: {}: {text}", self.name);
    }
}

/// Makes sure that a component is there and returns where: a program, a folder or a file.
pub(crate) fn need(component: Component) -> Result<PathBuf> {
    make(component, Depth::Quick)
}

/// The image and the modules of a kernel.
pub(crate) fn need_kernel(kernel: Kernel) -> Result<KernelFiles> {
    kernels::make(&Context::new(kernel.component(), Depth::Quick)?, kernel)
}

/// The user space of the virtual machines.
pub(crate) fn need_guest_tools() -> Result<GuestTools> {
    guest_tools::make(&Context::new(Component::GuestTools, Depth::Quick)?)
}

fn make(component: Component, depth: Depth) -> Result<PathBuf> {
    let context = Context::new(component, depth)?;
    let kernel = |kernel| kernels::make(&context, kernel).map(|files| files.dir);
    match component {
        Component::CoreSources => core_sources::make(&context),
        Component::BpfLinker => cargo_tools::make(&context, &cargo_tools::BPF_LINKER),
        Component::Qemu => host::qemu(&context),
        Component::FileServer => host::file_server(&context),
        Component::GuestTools => guest_tools::make(&context).map(|tools| tools.root),
        Component::Kernel5_10 => kernel(Kernel::V5_10),
        Component::Kernel6_1 => kernel(Kernel::V6_1),
        Component::Kernel6_12 => kernel(Kernel::V6_12),
        Component::Kernel7_2 => kernel(Kernel::V7_2),
        Component::HostTools => host::tools(&context),
        Component::Envoy => envoy::make(&context),
        Component::CargoDeny => cargo_tools::make(&context, &cargo_tools::CARGO_DENY),
        Component::Kubernetes => kubernetes::make(&context),
        Component::ClusterTools => cluster_tools::make(&context),
        Component::NodeTools => host::node_tools(&context),
        Component::Helm => helm::make(&context),
        Component::MonitorTypes => monitor_types::make(&context),
    }
}

/// Sets up what was asked for; one missing component does not keep the others from being set up.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let all = options.components.is_empty();
    let components = if all {
        Component::value_variants()
    } else {
        &options.components
    };
    let mut missing = 0_usize;
    for &component in components {
        let start = Instant::now();
        match make(component, Depth::Full) {
            Ok(path) => println!(
                "{component:<13} ok  {:>6.1} s  {}",
                start.elapsed().as_secs_f64(),
                path.display()
            ),
            Err(error) => {
                missing += 1;
                println!("{component:<13} MISSING\n  {error:#}");
            }
        }
    }
    if missing > 0 {
        println!(
            "{missing} of {} components are missing, see above",
            components.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn list() {
    for component in Component::value_variants() {
        let help = component
            .to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default();
        println!("{component:<13} {help}");
    }
}

fn value_name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
