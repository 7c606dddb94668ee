//! Random rules, random connections, and one question: does the evaluation say what the kernel does?
//!
//! `cargo xtask differential` runs it on a kernel of the matrix. A case is a rule set in one dialect and some connections;
//! it is installed, read back by the very tools the agent reads with, parsed and evaluated, and every connection is made.
//! A disagreement is shrunk to the smallest case that still disagrees, and the seed repeats it. *Unknown* is never wrong,
//! but how often it is said is measured, and is an error where it is more than a few in a hundred.

mod compare;
mod dial;
mod grammar;
mod native;
mod save;
mod world;

use std::{cell::Cell, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};
use serde_json::json;

use compare::Count;
use grammar::Dialect;
use world::World;

/// Most answers, in percent, that may be *unknown*.
const UNKNOWN_PCT: f64 = 2.0;

#[derive(Debug, Parser)]
#[command(
    name = "sidestep-differential",
    about = "Compares the evaluation of rules with the kernel"
)]
struct Options {
    /// Connections to compare
    #[arg(long, default_value_t = 2000)]
    cases: u64,
    /// Repeats a run; chosen by the clock if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these dialects
    #[arg(value_enum)]
    dialects: Vec<Backend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// iptables-legacy
    Legacy,
    /// iptables-nft
    Nft,
    /// nftables
    Native,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(clock);
    println!("seed {seed}");
    let world = World::new()?;
    compare::warm_up(&world)?;
    let count = Count::default();
    let enough = Cell::new(false);
    let config = Config {
        // Ended by the number of connections; a rule set has several.
        cases: u32::MAX,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 150,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&grammar::case(dialects(options)), |case| {
        if count.all() >= options.cases && !count.failed() {
            enough.set(true);
            return Err(TestCaseError::fail("enough"));
        }
        compare::case(&world, &case, &count).map_err(|error| {
            if !count.failed() {
                eprintln!(
                    "a disagreement after {} connections, shrinking: {error:#}",
                    count.all()
                );
            }
            count.fail();
            TestCaseError::fail(format!("{error:#}"))
        })
    });
    match result {
        Err(TestError::Fail(..)) if enough.get() => {}
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => {
            bail!("they disagree (--seed {seed} repeats it): {why}\nsmallest case: {case:#?}")
        }
        Err(error) => bail!("{error}"),
    }
    told(options, seed, &count)
}

fn told(options: &Options, seed: u64, count: &Count) -> Result<()> {
    let pct = 100.0 * count.unknown() as f64 / count.all().max(1) as f64;
    println!(
        "{}",
        json!({
            "connections": count.all(), "unknown": count.unknown(), "unknown_pct": pct,
            "not_installed": count.refused(), "mute": count.muted(), "seed": seed, "by_outcome": count.outcomes(),
        })
    );
    if count.all() < options.cases {
        bail!(
            "only {} of {} connections were compared",
            count.all(),
            options.cases
        );
    }
    if pct > UNKNOWN_PCT {
        bail!("{pct:.1} % of the answers were unknown, more than {UNKNOWN_PCT} %");
    }
    Ok(())
}

fn dialects(options: &Options) -> Vec<Dialect> {
    let wanted =
        |backend: Backend| options.dialects.is_empty() || options.dialects.contains(&backend);
    [
        (Backend::Legacy, Dialect::Legacy),
        (Backend::Nft, Dialect::Nft),
        (Backend::Native, Dialect::Native),
    ]
    .into_iter()
    .filter(|(backend, _)| wanted(*backend))
    .map(|(_, dialect)| dialect)
    .collect()
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
}
