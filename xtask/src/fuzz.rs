//! `cargo xtask fuzz`: gives the parsers inputs that nobody would write, led by which code each of them reached.
//!
//! libFuzzer with the instrumentation of the pinned compiler; no sanitizer, because there is no unsafe code in what is
//! fuzzed. An input that panics, takes seconds or much memory is a failure and kept. What it learns stays in `target/`, so
//! that the next run goes on from there; `--keep` renews the small corpus in the checkout, which ordinary tests run through.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{build, paths, process};

/// Seconds that one input may take. The slowest known of this size takes one, instrumented; what is not linear takes hours.
const TIMEOUT_S: u32 = 5;
/// Bytes of the longest input.
const MAX_INPUT: u32 = 65_536;
/// Mebibytes that the whole may take, all that it learned included.
const MAX_MEMORY: u32 = 2048;
/// Learned inputs of one target in the checkout, of so many bytes each at most.
const MAX_KEPT: usize = 40;
const MAX_KEPT_BYTES: u64 = 1500;
/// What libFuzzer needs to see which code was reached, and what was compared with what.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Given explicitly, so that build scripts and macros are not instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask fuzz`
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What to fuzz; everything, one after the other, if none is named
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// Minutes for each
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Afterwards, renew the corpus in the checkout
    #[arg(long)]
    keep: bool,
}

/// A parser, and what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// What the save programs of iptables print
    Save,
    /// What nft prints
    Nft,
    /// Connections through rules of several sources
    Evaluate,
    /// Manifests of pods, and what must be captured in them
    Manifest,
    /// Profiles of meshes
    Profile,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Nft => "nft",
            Self::Evaluate => "evaluate",
            Self::Manifest => "manifest",
            Self::Profile => "profile",
        }
    }

    /// Words that mean something to it.
    const fn words(self) -> &'static str {
        match self {
            Self::Save | Self::Nft | Self::Evaluate => "rules.words",
            Self::Manifest | Self::Profile => "mesh.words",
        }
    }

    /// What the tests have for it, as inputs.
    fn seeds(self) -> Result<Vec<Vec<u8>>> {
        let agent = paths::workspace().join("agent");
        let seeds = match self {
            Self::Manifest => files(&agent.join("tests/golden_pods"), ".yaml")?,
            Self::Profile => files(&agent.join("src/mesh/profiles"), ".toml")?,
            Self::Save | Self::Nft | Self::Evaluate => {
                let mut seeds = Vec::new();
                for folder in folders(&agent.join("tests/rules"))? {
                    self.seeds_of(&folder, &mut seeds);
                }
                seeds
            }
        };
        ensure!(
            !seeds.is_empty(),
            "nothing to begin with for {}",
            self.name()
        );
        Ok(seeds)
    }

    /// What a folder of golden rules has for it.
    fn seeds_of(self, folder: &Path, seeds: &mut Vec<Vec<u8>>) {
        let read = |name: &str| fs::read(folder.join(name)).ok();
        let sources = ["legacy4", "legacy6", "nft4", "nft6"];
        let saved = |name: &&str| read(&format!("{name}.save"));
        match self {
            Self::Save => {
                // The first byte says which.
                let each = (b'0'..).zip(&sources);
                seeds.extend(
                    each.filter_map(|(which, name)| Some([&[which][..], &saved(name)?].concat())),
                );
            }
            Self::Nft => seeds.extend(read("nft.json")),
            _ => {
                let part = |name: &str, text: Option<Vec<u8>>| {
                    Some([b"%", name.as_bytes(), b"\n", &text?[..], b"\n"].concat())
                };
                for pair in sources.chunks(2) {
                    let parts = pair.iter().filter_map(|name| part(name, saved(name)));
                    let parts = parts.chain(part("ipset", read("ipset.save")));
                    seeds.push(parts.collect::<Vec<_>>().concat());
                }
                seeds.extend(part("json", read("nft.json")));
            }
        }
    }
}

/// Fuzzes; success only if nothing was found.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let targets = match &options.targets[..] {
        [] => Target::value_variants(),
        named => named,
    };
    build(targets)?;
    let mut good = true;
    for &target in targets {
        good &= fuzz(target, options.minutes)?;
        if options.keep {
            keep(target)?;
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn build(targets: &[Target]) -> Result<()> {
    let probes = build::ebpf()?;
    let mut command = Command::new("cargo");
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TRIPLE,
            "--target-dir",
        ])
        .arg(place())
        .current_dir(paths::workspace().join("fuzz"))
        .env("SIDESTEP_EBPF_OBJECT", probes)
        .env("RUSTFLAGS", FLAGS);
    for target in targets {
        command.args(["--bin", target.name()]);
    }
    process::run(&mut command)
}

/// Runs one target and says what came of it; whether nothing was found.
fn fuzz(target: Target, minutes: u32) -> Result<bool> {
    let learned = place().join("learned").join(target.name());
    fs::create_dir_all(&learned)?;
    let begin = begin(target)?;
    let kept = kept(target);
    fs::create_dir_all(&kept)?;
    let found = place().join("found");
    fs::create_dir_all(&found)?;
    let log = place().join(format!("{}.log", target.name()));
    println!(
        "fuzz: {}: {minutes} minutes, log in {}",
        target.name(),
        log.display()
    );
    let status = program(target)
        .arg(format!("-max_total_time={}", u64::from(minutes) * 60))
        .arg(format!(
            "-artifact_prefix={}/{}-",
            found.display(),
            target.name()
        ))
        .arg("-print_final_stats=1")
        .args([&learned, begin.path(), &kept])
        .stderr(File::create(&log)?)
        .status()
        .with_context(|| format!("cannot start the fuzzer of {}", target.name()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    println!("fuzz: {}: {}", target.name(), summary(&text));
    if !status.success() {
        println!(
            "fuzz: {}: FOUND something:\n{}",
            target.name(),
            process::tail(&text)
        );
        println!(
            "fuzz: what to do: mend it, and copy the input to {}, where every test run sees it",
            kept.display()
        );
    }
    Ok(status.success())
}

/// The fuzzer with what is common to all that it does.
fn program(target: Target) -> Command {
    let program = place().join(TRIPLE).join("release").join(target.name());
    let mut command = process::dies_with_us(&program);
    command
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
        .arg(format!(
            "-dict={}",
            paths::workspace()
                .join("fuzz")
                .join(target.words())
                .display()
        ));
    command
}

/// Renews the corpus in the checkout: small inputs that reach what the tests' own do not. Those that broke something
/// once are named by people and stay.
fn keep(target: Target) -> Result<()> {
    let all = begin(target)?;
    let kept = kept(target);
    let old = entries(&kept)?;
    for named in old.iter().filter(|path| !is_learned(path)) {
        copy(named, all.path())?;
    }
    let before = entries(all.path())?;
    let log = place().join(format!("{}-keep.log", target.name()));
    let status = program(target)
        .arg("-set_cover_merge=1")
        .args([
            all.path(),
            &kept,
            &place().join("learned").join(target.name()),
        ])
        .stderr(File::create(&log)?)
        .status()?;
    ensure!(
        status.success(),
        "what {} learned cannot be merged, see {}",
        target.name(),
        log.display()
    );
    for path in old.iter().filter(|path| is_learned(path)) {
        fs::remove_file(path)?;
    }
    // In the order of their digests: some of every kind.
    let small = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_KEPT_BYTES);
    let new = entries(all.path())?.into_iter();
    let new = new.filter(|path| !before.contains(path) && small(path));
    for path in new.take(MAX_KEPT) {
        copy(&path, &kept)?;
    }
    println!(
        "fuzz: {}: {} inputs kept",
        target.name(),
        entries(&kept)?.len()
    );
    Ok(())
}

fn copy(file: &Path, to: &Path) -> Result<()> {
    let name = file.file_name().context("a file without a name")?;
    fs::copy(file, to.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// libFuzzer names an input by its digest.
fn is_learned(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A folder with the tests' own inputs.
fn begin(target: Target) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir_in(place())?;
    for (index, seed) in target.seeds()?.iter().enumerate() {
        fs::write(dir.path().join(format!("{index:03}")), seed)?;
    }
    Ok(dir)
}

/// How many inputs were tried, and what they reached.
fn summary(log: &str) -> String {
    let stat = |name: &str| {
        let line = log
            .lines()
            .find(|line| line.starts_with(&format!("stat::{name}:")));
        line.and_then(|line| line.split_whitespace().last())
            .unwrap_or("?")
    };
    let reached = log.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        let (edges, rest) = rest.split_once(" ft: ")?;
        Some(format!(
            "{edges} edges, {} features",
            rest.split_whitespace().next()?
        ))
    });
    format!(
        "{} executions, {} a second, {}, slowest {} s, peak {} MiB",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        reached.unwrap_or_else(|| "coverage not told".to_owned()),
        stat("slowest_unit_time_sec"),
        stat("peak_rss_mb"),
    )
}

fn place() -> PathBuf {
    paths::target().join("fuzz")
}

fn kept(target: Target) -> PathBuf {
    paths::workspace().join("fuzz/corpus").join(target.name())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        all.push(entry?.path());
    }
    all.sort();
    Ok(all)
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(root)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect())
}

fn files(folder: &Path, end: &str) -> Result<Vec<Vec<u8>>> {
    let meant = |path: &PathBuf| path.to_string_lossy().ends_with(end);
    let read =
        |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    entries(folder)?
        .into_iter()
        .filter(meant)
        .map(read)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_told_in_one_line() {
        let log = "#1\tINITED cov: 3 ft: 4 corp: 1/1b\n#9\tDONE   cov: 1200 ft: 5000 corp: 9/1b lim: 4 exec/s: 2\n\
                   stat::number_of_executed_units: 99\nstat::average_exec_per_sec:     7\n\
                   stat::slowest_unit_time_sec:    0\nstat::peak_rss_mb:              55\n";
        assert_eq!(
            summary(log),
            "99 executions, 7 a second, 1200 edges, 5000 features, slowest 0 s, peak 55 MiB"
        );
        assert!(summary("").contains("not told"));
    }

    #[test]
    fn inputs_that_people_named_are_not_learned() {
        assert!(is_learned(Path::new(
            "corpus/save/da39a3ee5e6b4b0d3255bfef95601890afd80709"
        )));
        assert!(!is_learned(Path::new("corpus/save/deep-brackets")));
    }
}
