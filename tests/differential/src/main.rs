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
mod sets;
mod world;

use std::{
    cell::{Cell, RefCell},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};
use serde_json::json;

use compare::Count;
use grammar::Dialect;
use world::World;

/// Most answers, in percent, that may be *unknown*.
const UNKNOWN_PCT: f64 = 2.0;
/// Most connections, in percent, that may come out as evaluated only the second time.
const UNSTEADY_PCT: f64 = 1.0;
/// Connections after which the world is made anew, with all that the kernel remembers of it.
const WORLD_FOR: u64 = 1_000;

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
    let world = RefCell::new(Some(fresh()?));
    let since = Cell::new(0);
    let count = Count::default();
    let enough = Cell::new(false);
    let mut runner = TestRunner::new(config(seed));
    let result = runner.run(&grammar::case(dialects(options)), |case| {
        if count.all() >= options.cases && !count.failed() {
            enough.set(true);
            return Err(TestCaseError::fail("enough"));
        }
        let mut world = world.borrow_mut();
        if count.all() >= since.get() + WORLD_FOR {
            // The old one first: its memory of connections is what the new one needs.
            *world = None;
            since.set(count.all());
        }
        let compared = match &*world {
            Some(there) => compare::case(there, &case, &count),
            None => fresh().and_then(|new| compare::case(world.insert(new), &case, &count)),
        };
        compared.map_err(|error| {
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
            eprintln!("smallest case: {case:#?}\n{why}");
            // Last, because whoever runs many shows the last line of each.
            let last = why.message().lines().rev().take(2).collect::<Vec<_>>();
            bail!(
                "they disagree (--seed {seed} repeats it): {}",
                last.join("; ")
            )
        }
        Err(error) => bail!("{error}"),
    }
    told(options, seed, &count)
}

fn config(seed: u64) -> Config {
    Config {
        // Ended by the number of connections; a rule set has several.
        cases: u32::MAX,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 150,
        // The way back to the smallest case so far makes new ones; a million of them take an hour.
        max_flat_map_regens: 100,
        ..Config::default()
    }
}

fn fresh() -> Result<World> {
    let world = World::new()?;
    compare::warm_up(&world)?;
    Ok(world)
}

fn told(options: &Options, seed: u64, count: &Count) -> Result<()> {
    let pct = 100.0 * count.unknown() as f64 / count.all().max(1) as f64;
    println!(
        "{}",
        json!({
            "connections": count.all(), "unknown": count.unknown(), "unknown_pct": pct,
            "not_installed": count.refused(), "mute": count.muted(), "unsteady": count.unsteady(), "seed": seed,
            "by_outcome": count.outcomes(),
        })
    );
    if count.all() < options.cases {
        bail!(
            "only {} of {} connections were compared",
            count.all(),
            options.cases
        );
    }
    if 100.0 * count.unsteady() as f64 > UNSTEADY_PCT * count.all() as f64 {
        bail!(
            "{} of {} connections came out as evaluated only the second time",
            count.unsteady(),
            count.all()
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
