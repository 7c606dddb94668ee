//! Prints what the probes tell: for people who work on them.
//!
//! `probe [SECONDS] [--no-kprobes]`; needs root.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::time::{Duration, Instant};

use sidestep::probe::{ProbeOptions, Probes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut seconds = 5;
    let mut kprobes = true;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--no-kprobes" => kprobes = false,
            number => seconds = number.parse()?,
        }
    }
    let mut probes = Probes::start(&ProbeOptions { kprobes })?;
    for signal in probes.coverage().signals {
        println!(
            "{:16} {:14} {:42} {}",
            signal.signal,
            signal.variant.unwrap_or_else(|| "-".into()),
            signal.target,
            signal.reason
        );
    }
    probes.start_sample()?;
    println!("ready");
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(250));
        let mut deltas = probes.sweep();
        deltas.extend(probes.drain()?);
        probes.attach_late();
        probes.read_signals(|time, signal| println!("{} {signal:?}", time.0 % 100_000_000));
        for delta in deltas {
            println!(
                "{:?} {:?} sum {}",
                delta.key, delta.counts, delta.duration.sum_us
            );
        }
    }
    probes.end_sample();
    println!("{:#?}", probes.stats());
    Ok(())
}
