//! The agent's own process, under the names every client library uses.
//!
//! Read from `/proc/self` on each scrape. A file that cannot be read leaves its metric
//! out: a wrong number would be worse than none.

use std::{fmt, fs};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{catalog, page::Page};

/// Clock ticks per second in `/proc` (`USER_HZ`): 100 on every architecture Sidestep runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Encodes the `process_*` metrics.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(&mut encoder);
        let stat = read("/proc/self/stat").and_then(|text| Stat::parse(&text));
        if let Some(stat) = &stat {
            page.counter(&catalog::PROCESS_CPU, stat.cpu_ticks / TICKS_PER_SECOND)?;
        }
        let status = read("/proc/self/status").unwrap_or_default();
        if let Some(kib) = field::<u64>(&status, "VmRSS:") {
            page.gauge(&catalog::PROCESS_RSS, kib.saturating_mul(1_024))?;
        }
        if let Some(kib) = field::<u64>(&status, "VmSize:") {
            page.gauge(&catalog::PROCESS_VIRTUAL, kib.saturating_mul(1_024))?;
        }
        descriptors(&mut page)?;
        if let Some(threads) = field::<u64>(&status, "Threads:") {
            page.gauge(&catalog::PROCESS_THREADS, threads)?;
        }
        let boot = read("/proc/stat").and_then(|text| field::<f64>(&text, "btime"));
        if let (Some(stat), Some(boot)) = (stat, boot) {
            page.gauge(
                &catalog::PROCESS_START,
                boot + stat.start_ticks / TICKS_PER_SECOND,
            )?;
        }
        Ok(())
    }
}

fn descriptors(page: &mut Page<'_, '_>) -> fmt::Result {
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory being read is one of them.
        page.gauge(&catalog::PROCESS_FDS, open.count().saturating_sub(1) as u64)?;
    }
    match read("/proc/self/limits").and_then(|text| field::<u64>(&text, "Max open files")) {
        Some(limit) => page.gauge(&catalog::PROCESS_MAX_FDS, limit),
        None => Ok(()),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The first number after `name` at the start of a line.
fn field<N: std::str::FromStr>(text: &str, name: &str) -> Option<N> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The fields of `/proc/self/stat` needed here (proc(5): utime 14, stime 15, starttime 22).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name is in parentheses and may hold spaces and parentheses itself.
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // The first field after the name is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 700 300 0 0 20 0 3 0 12345 1 2";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu_ticks: 1000.0,
                start_ticks: 12345.0
            })
        );
        assert_eq!(Stat::parse("42 (x) S 1"), None);
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "Name:\tx\nVmRSS:\t  2048 kB\nMax open files            1024   4096 files\n";
        assert_eq!(field(text, "VmRSS:"), Some(2048));
        assert_eq!(field(text, "Max open files"), Some(1024));
        assert_eq!(field::<u64>(text, "Threads:"), None);
    }
}
