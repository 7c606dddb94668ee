//! The kernels of the matrix: Debian's own cloud images, because those are what people run.
//!
//! Each is the newest of its series in the suite that has it. Modules are unpacked and decompressed once, and their
//! dependency index made, so that the virtual machine's small tools can load them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::apt::{AptRoot, Suite};
use super::guest_tools;
use super::{Context, Kernel, Unavailable};
use crate::cache::Manifest;

/// A kernel in the cache.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The entry's folder.
    pub(crate) dir: PathBuf,
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// The folder that holds `kernel/` and `modules.dep`.
    pub(crate) modules: PathBuf,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// Changes when image or modules do.
    pub(crate) fingerprint: String,
}

/// Where a kernel comes from: packages `PREFIX…SUFFIX` of a suite; all of those names are needed, at one version.
#[derive(Debug)]
struct Origin {
    suite: Suite,
    series: &'static str,
    packages: &'static [&'static str],
}

const FLAVOUR: &str = "-cloud-amd64";

fn origin(kernel: Kernel) -> Origin {
    const WHOLE: &[&str] = &["linux-image-"];
    match kernel {
        Kernel::V5_10 => Origin {
            suite: Suite::BullseyeSecurity,
            series: "5.10.",
            packages: WHOLE,
        },
        Kernel::V6_1 => Origin {
            suite: Suite::Bookworm,
            series: "6.1.",
            packages: WHOLE,
        },
        Kernel::V6_12 => Origin {
            suite: Suite::Trixie,
            series: "6.12.",
            packages: WHOLE,
        },
        // From here on Debian has image and modules in packages of their own.
        Kernel::V7_2 => Origin {
            suite: Suite::TrixieBackports,
            series: "7.2.",
            packages: &["linux-binary-", "linux-modules-"],
        },
    }
}

/// Returns the kernel's files, downloading them if needed.
pub(crate) fn make(context: &Context, kernel: Kernel) -> Result<KernelFiles> {
    let dir = context.cache.join("kernels").join(kernel.to_string());
    if let Some(manifest) = Manifest::check(&dir, context.depth)? {
        return files(dir, &manifest);
    }
    let _lock = context.cache.lock(&format!("kernel-{kernel}"))?;
    if let Some(manifest) = Manifest::check(&dir, context.depth)? {
        return files(dir, &manifest);
    }
    let manifest = install(context, kernel).map_err(|error| Unavailable {
        what: format!("Linux {kernel}"),
        why: format!("{error:#}"),
        todo: "check that apt reaches a Debian mirror that has this suite, then run this again"
            .to_owned(),
    })?;
    files(dir, &manifest)
}

fn install(context: &Context, kernel: Kernel) -> Result<Manifest> {
    let origin = origin(kernel);
    let apt = AptRoot::open(context, origin.suite)?;
    let release = newest_release(&apt, &origin)?;
    let packages: Vec<String> = origin
        .packages
        .iter()
        .map(|prefix| format!("{prefix}{release}"))
        .collect();
    context.say(format!(
        "downloading {} of {}",
        packages.join(" and "),
        origin.suite
    ));
    let dir = context
        .cache
        .fresh(PathBuf::from("kernels").join(kernel.to_string()))?;
    let debs = apt.download(&packages, &dir)?;
    apt.unpack(&debs, &dir)?;
    flatten(&dir, &release)?;
    context.say("preparing its modules");
    prepare_modules(context, &dir, &release)?;
    let index = PathBuf::from("lib/modules")
        .join(&release)
        .join("modules.dep");
    Manifest::write(
        &dir,
        format!("{release} of {}", origin.suite),
        &[PathBuf::from("vmlinuz"), index],
    )
}

/// The newest release of which every package exists.
fn newest_release(apt: &AptRoot, origin: &Origin) -> Result<String> {
    let mut releases: Option<Vec<String>> = None;
    for prefix in origin.packages {
        let names = apt.names(&format!("{prefix}{}", origin.series))?;
        let these: Vec<String> = names
            .iter()
            .filter_map(|name| release_of(name, prefix))
            .collect();
        releases = Some(match releases {
            None => these,
            Some(before) => before
                .into_iter()
                .filter(|release| these.contains(release))
                .collect(),
        });
    }
    releases
        .unwrap_or_default()
        .into_iter()
        .max_by_key(|release| version_key(release))
        .with_context(|| format!("{} has no kernel {}*{FLAVOUR}", origin.suite, origin.series))
}

fn release_of(package: &str, prefix: &str) -> Option<String> {
    let release = package.strip_prefix(prefix)?;
    release.ends_with(FLAVOUR).then(|| release.to_owned())
}

/// The numbers in a version, which order it.
fn version_key(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Brings the layouts of all packages to one: `vmlinuz` and `lib/modules/RELEASE`.
fn flatten(dir: &Path, release: &str) -> Result<()> {
    let modules = dir.join("lib/modules").join(release);
    let merged = dir.join("usr/lib/modules").join(release);
    if merged.is_dir() {
        fs::create_dir_all(dir.join("lib/modules"))?;
        fs::rename(&merged, &modules)?;
    }
    let images = [
        modules.join("vmlinuz"),
        dir.join(format!("boot/vmlinuz-{release}")),
    ];
    let Some(image) = images.iter().find(|path| path.is_file()) else {
        bail!("the package has no kernel image where it is expected");
    };
    fs::rename(image, dir.join("vmlinuz"))?;
    for rest in ["usr", "boot"] {
        crate::cache::remove(&dir.join(rest))?;
    }
    Ok(())
}

/// Decompresses all modules and indexes them.
fn prepare_modules(context: &Context, dir: &Path, release: &str) -> Result<()> {
    let tools = guest_tools::make(context)?;
    let mut compressed = Vec::new();
    compressed_in(&dir.join("lib/modules").join(release), &mut compressed)?;
    if !compressed.is_empty() {
        tools.run(
            "usr/bin/xz",
            "xz",
            [OsString::from("--decompress")]
                .into_iter()
                .chain(compressed),
        )?;
    }
    let depmod = ["-b".into(), dir.as_os_str().to_owned(), release.into()];
    tools.run("bin/kmod", "depmod", depmod)?;
    Ok(())
}

fn compressed_in(dir: &Path, found: &mut Vec<OsString>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            compressed_in(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "xz") {
            found.push(path.into());
        }
    }
    Ok(())
}

fn files(dir: PathBuf, manifest: &Manifest) -> Result<KernelFiles> {
    let release = fs::read_dir(dir.join("lib/modules"))?
        .flatten()
        .next()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .context("the kernel has no modules")?;
    Ok(KernelFiles {
        image: dir.join("vmlinuz"),
        modules: dir.join("lib/modules").join(&release),
        release,
        fingerprint: manifest.fingerprint(),
        dir,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_highest_number_not_the_last_letter() {
        let newest = ["6.12.9+deb13", "6.12.107+deb13", "6.12.94+deb13"]
            .into_iter()
            .max_by_key(|version| version_key(version));
        assert_eq!(newest, Some("6.12.107+deb13"));
    }

    #[test]
    fn only_the_cloud_flavour_counts() {
        let release = |package| release_of(package, "linux-image-");
        assert_eq!(
            release("linux-image-6.1.0-40-cloud-amd64").as_deref(),
            Some("6.1.0-40-cloud-amd64")
        );
        assert_eq!(release("linux-image-6.1.0-40-cloud-amd64-unsigned"), None);
        assert_eq!(release("linux-image-6.1.0-40-amd64"), None);
    }
}
