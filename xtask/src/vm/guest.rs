//! One run of one command in one kernel: what goes in, what came out.
//!
//! The command's output arrives line by line while it runs. The machine is ended when the command has reported its
//! exit code, when the time is over, and when this process dies, whatever kills it. A kernel that stops without reporting
//! is an error that shows the kernel's last words.

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::host_files::{HostFiles, Server};
use super::image;
use super::qemu::{self, Accel};
use crate::setup::{self, Kernel};

/// How `init.sh` begins the lines that are for us.
const MARK: &str = "sidestep-vm: ";
/// Lines of the kernel's log that are kept.
const LOG_LINES: usize = 400;

/// Modules of netfilter's two backends, both families, and veth: what a mesh's rules need; and what the agent asks for
/// accept queues, which a real node loads by itself. A module that a kernel has
/// built in is skipped by modprobe.
pub(crate) const NETFILTER_MODULES: [&str; 40] = [
    "x_tables",
    "ip_tables",
    "ip6_tables",
    "xt_tcpudp",
    "xt_owner",
    "xt_REDIRECT",
    "xt_nat",
    "xt_conntrack",
    "xt_mark",
    "xt_connmark",
    "xt_multiport",
    "xt_TPROXY",
    "xt_socket",
    "xt_comment",
    "xt_addrtype",
    "xt_set",
    "ip_set_bitmap_ip",
    "ip_set_bitmap_port",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_net",
    "ip_set_hash_netport",
    "iptable_nat",
    "iptable_filter",
    "iptable_mangle",
    "iptable_raw",
    "ip6table_nat",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_raw",
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "nft_redir",
    "nft_nat",
    "nft_tproxy",
    "nft_ct",
    "veth",
    // Accept queues (sock_diag).
    "tcp_diag",
];

/// How control groups are mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cgroup {
    /// The unified hierarchy alone
    #[default]
    V2,
    /// Controllers of version 1 alone
    V1,
    /// Version 1, and the unified hierarchy beside it
    Hybrid,
}

/// What to run, and in what.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The kernel to boot.
    pub(crate) kernel: Kernel,
    /// Files or folders of this machine and where they are in the guest.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Modules loaded before the command.
    pub(crate) modules: Vec<String>,
    /// How control groups are mounted.
    pub(crate) cgroup: Cgroup,
    /// One nanosecond of guest time per instruction, on one CPU: measurements repeat exactly.
    pub(crate) icount: bool,
    /// The processor says that it copies strings fast, as real ones do. Translated it does not, but figures of the
    /// benchmarks are counted so.
    pub(crate) fast_strings: bool,
    /// Number of CPUs.
    pub(crate) smp: u32,
    /// Memory in MiB; the files given are in it twice while the machine boots.
    pub(crate) mem_mib: u32,
    /// The command runs among this machine's files, not among those of the image.
    pub(crate) host_files: Option<HostFiles>,
    /// When to give up, counted from the start of the machine.
    pub(crate) timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Outcome {
    /// The command's exit code.
    pub(crate) code: i32,
    /// What it printed, without line ends.
    pub(crate) lines: Vec<String>,
    /// From the start of the machine to the start of the command.
    pub(crate) boot: Duration,
    /// From the start of the machine to the end of the command.
    pub(crate) total: Duration,
    /// The kernel's messages, the oldest forgotten beyond a few hundred.
    pub(crate) kernel_log: Vec<String>,
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
        })
    }
}

impl Guest {
    /// A machine with two CPUs, 1 GiB, the unified hierarchy, netfilter's modules loaded, and five minutes.
    pub(crate) fn new(kernel: Kernel, command: Vec<String>) -> Self {
        Self {
            kernel,
            files: Vec::new(),
            command,
            modules: NETFILTER_MODULES.map(str::to_owned).into(),
            cgroup: Cgroup::default(),
            icount: false,
            fast_strings: false,
            smp: 2,
            mem_mib: 1024,
            host_files: None,
            timeout: Duration::from_mins(5),
        }
    }

    /// Boots the kernel, runs the command, hands each line it prints to `on_line` at once.
    pub(crate) fn run(&self, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let accel = if self.icount {
            Accel::Tcg
        } else {
            Accel::best()?
        };
        self.run_on(accel, on_line)
    }

    /// The same, on a given accelerator.
    pub(crate) fn run_on(&self, accel: Accel, on_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        let kernel = setup::need_kernel(self.kernel)?;
        let image = image::make(self, &kernel)?;
        let start = Instant::now();
        let mut command = qemu::command(self, accel, &kernel, &image)?;
        let mut server = None;
        if self.host_files.is_some() {
            server
                .insert(Server::start()?)
                .attach(&mut command, self.mem_mib)?;
        }
        let mut machine = Machine::start(command)?;
        let ended = machine.follow(start, self.timeout, on_line);
        let mut kernel_log = machine.stop();
        if let Some(server) = &mut server {
            kernel_log.extend(server.stop());
        }
        match ended? {
            End::Exit { code, lines, boot } => Ok(Outcome {
                code,
                lines,
                boot,
                total: start.elapsed(),
                kernel_log,
            }),
            End::Timeout => bail!(
                "Linux {}: the command did not end within {} s; the kernel's last messages:\n{}",
                self.kernel,
                self.timeout.as_secs(),
                last(&kernel_log)
            ),
            End::Silence => bail!(
                "Linux {}: the machine stopped before the command ended; its last messages:\n{}",
                self.kernel,
                last(&kernel_log)
            ),
        }
    }
}

/// How following a machine ended.
enum End {
    Exit {
        code: i32,
        lines: Vec<String>,
        boot: Duration,
    },
    Timeout,
    Silence,
}

/// A running QEMU; ended when dropped.
struct Machine {
    child: Child,
    output: Receiver<String>,
    log: Option<JoinHandle<Vec<String>>>,
}

impl Machine {
    fn start(mut command: std::process::Command) -> Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", crate::process::line(&command)))?;
        let stdout = child.stdout.take().context("QEMU has no output")?;
        let stderr = child.stderr.take().context("QEMU has no error output")?;
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            each_line(stdout, |line| sender.send(line).is_ok());
        });
        let log = std::thread::spawn(move || {
            let mut log = VecDeque::new();
            each_line(stderr, |line| {
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line);
                true
            });
            log.into()
        });
        Ok(Self {
            child,
            output,
            log: Some(log),
        })
    }

    /// Passes lines on until the exit code, the end of the machine or of the time.
    fn follow(
        &mut self,
        start: Instant,
        limit: Duration,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<End> {
        let mut lines = Vec::new();
        let mut boot = Duration::ZERO;
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let line = match self.output.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Ok(End::Timeout),
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Silence),
            };
            match line
                .strip_prefix(MARK)
                .and_then(|rest| rest.split_once(' '))
            {
                Some(("up", _)) => boot = start.elapsed(),
                Some(("exit", code)) => {
                    let code = code
                        .trim()
                        .parse()
                        .map_err(|error| anyhow!("exit code {code:?}: {error}"))?;
                    return Ok(End::Exit { code, lines, boot });
                }
                _ => {
                    on_line(&line);
                    lines.push(line);
                }
            }
        }
    }

    /// Ends the machine and returns the kernel's log.
    fn stop(&mut self) -> Vec<String> {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log
            .take()
            .and_then(|log| log.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Calls `take` for each line until it returns false; bytes that are not text are shown as such.
fn each_line(source: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(source);
    let mut bytes = Vec::new();
    while reader
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|count| count > 0)
    {
        let line = String::from_utf8_lossy(&bytes)
            .trim_end_matches(['\r', '\n'])
            .to_owned();
        bytes.clear();
        if !take(line) {
            return;
        }
    }
}

fn last(log: &[String]) -> String {
    log[log.len().saturating_sub(30)..].join("\n")
}
