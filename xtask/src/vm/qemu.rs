//! QEMU's command line, and whether this machine may use hardware virtualisation.
//!
//! `/dev/kvm` being there says little: in containers and nested machines QEMU may abort with it. So it is tried once, by
//! booting the smallest thing we have, and the answer is kept until this machine is rebooted.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::guest::Guest;
use crate::cache::Cache;
use crate::process;
use crate::setup::{self, Component, Kernel, KernelFiles};

/// A machine with hardware virtualisation boots in two seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Before this version the translator, with a thread per guest CPU, races with a kernel that patches its own code (static
/// keys, ftrace, BPF trampolines).
const THREADS_SAFE_SINCE: (u32, u32) = (8, 1);

/// The translated processor. QEMU 7.2 leaves rubbish in the flags after `cmpxchg16b`; an interrupt right there makes it
/// permanent (single step, direction), and one boot of 6.12 in eight ended in a nonsense fault. The kernel does without.
const TRANSLATED_CPU: &str = "max,-cx16";

/// Fast strings are none when translated: each byte that `rep movsb` copies is an instruction of its own. Without them the
/// kernel copies and clears in words, and 75 scenarios take 4 minutes in place of 7.
const WORDS: &str = ",-erms";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// The processor
    Kvm,
    /// QEMU's translator: everywhere, and some ten times slower
    Tcg,
}

impl Accel {
    /// The fastest that works on this machine.
    pub(crate) fn best() -> Result<Self> {
        if File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Self::Tcg);
        }
        let cache = Cache::open()?;
        let path = cache.join("accelerator");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = |accel: &str| {
            fs::read_to_string(&path).is_ok_and(|text| text == format!("{boot_id}{accel}"))
        };
        let _lock = cache.lock("accelerator")?;
        if known("kvm") {
            return Ok(Self::Kvm);
        }
        if known("tcg") {
            return Ok(Self::Tcg);
        }
        let works = works()?;
        eprintln!(
            "vm: hardware virtualisation {}",
            if works {
                "works"
            } else {
                "does not work here: translating, which is slower"
            }
        );
        fs::write(
            &path,
            format!("{boot_id}{}", if works { "kvm" } else { "tcg" }),
        )?;
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }
}

fn works() -> Result<bool> {
    // What is missing for any machine is no answer to this question.
    setup::need(Component::Qemu)?;
    setup::need_kernel(Kernel::V6_12)?;
    let mut guest = Guest::new(Kernel::V6_12, vec!["true".to_owned()]);
    guest.modules.clear();
    guest.timeout = PROBE_LIMIT;
    Ok(guest
        .run_on(Accel::Kvm, &mut |_| ())
        .is_ok_and(|outcome| outcome.code == 0))
}

/// QEMU for one guest: the second serial line is its output, the first (the kernel's messages) its error output.
pub(crate) fn command(
    guest: &Guest,
    accel: Accel,
    kernel: &KernelFiles,
    image: &File,
) -> Result<Command> {
    let qemu = setup::need(Component::Qemu)?;
    let mut command = process::dies_with_us(&qemu);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none"])
        .args([
            "-chardev",
            "file,id=kernel,path=/dev/stderr",
            "-serial",
            "chardev:kernel",
        ])
        .args([
            "-chardev",
            "stdio,id=output,signal=off",
            "-serial",
            "chardev:output",
        ])
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .args(["-m", &guest.mem_mib.to_string()])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        // The image has no name; QEMU opens it through this process.
        .arg(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            image.as_raw_fd()
        ));
    processors(&mut command, guest, accel, version(&qemu)?);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// What runs the guest's instructions, and its clock.
fn processors(command: &mut Command, guest: &Guest, accel: Accel, version: (u32, u32)) {
    match accel {
        Accel::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
        Accel::Tcg => {
            let threads = if version < THREADS_SAFE_SINCE {
                "tcg,thread=single"
            } else {
                "tcg"
            };
            let strings = if guest.fast_strings { "" } else { WORDS };
            command
                .args(["-accel", threads, "-cpu"])
                .arg(format!("{TRANSLATED_CPU}{strings}"))
        }
    };
    if guest.icount {
        // Without sleep the clock jumps to the next timer whenever nothing runs, so also while files are on their way.
        let sleep = if guest.host_files.is_some() {
            "on"
        } else {
            "off"
        };
        command.args(["-icount", &format!("shift=0,sleep={sleep}"), "-smp", "1"]);
    } else {
        command.args(["-smp", &guest.smp.to_string()]);
    }
}

/// QEMU's version, major and minor.
fn version(qemu: &Path) -> Result<(u32, u32)> {
    let text = process::output(Command::new(qemu).arg("--version"))?;
    parse_version(&text).with_context(|| format!("QEMU does not say its version: {}", text.trim()))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn the_version_is_read_and_ordered() {
        let old = parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)");
        assert_eq!(old, Some((7, 2)));
        assert!(old < Some(super::THREADS_SAFE_SINCE));
        assert!(parse_version("QEMU emulator version 10.0.2") > Some(super::THREADS_SAFE_SINCE));
        assert_eq!(parse_version("something else"), None);
    }
}
