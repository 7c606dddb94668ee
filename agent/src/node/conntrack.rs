//! The connection tracking tables of the calling thread's network namespace, by procfs.
//!
//! Every namespace has a table and counters of its own; how much a table may hold is one number for the
//! whole machine, which each namespace shows.

use std::fs;

use crate::model::Conntrack;

/// The table of the calling thread's namespace; `None` if nothing is tracked there.
pub(super) fn table() -> Option<Conntrack> {
    let number = |name: &str| -> Option<u64> {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    // Kernels built without it count all the same and do not show it: the table's size remains.
    let stats = fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack");
    Some(Conntrack {
        count: number("count")?,
        max: number("max")?,
        ..sums(&stats.unwrap_or_default())
    })
}

/// The counters of all CPUs together: a line of names, then one of hexadecimal numbers for each CPU.
fn sums(table: &str) -> Conntrack {
    let mut lines = table.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let rows: Vec<Vec<u64>> = lines
        .map(|line| {
            let numbers = line.split_whitespace();
            let hex = |text| u64::from_str_radix(text, 16).unwrap_or_default();
            numbers.map(hex).collect()
        })
        .collect();
    let sum = |name: &str| {
        let at = names.iter().position(|known| *known == name);
        let column = rows.iter().filter_map(|row| row.get(at?));
        column.fold(0, |sum: u64, number| sum.saturating_add(*number))
    };
    Conntrack {
        drop: sum("drop"),
        early_drop: sum("early_drop"),
        invalid: sum("invalid"),
        ..Conntrack::default()
    }
}

#[cfg(test)]
mod tests {
    use super::sums;

    #[test]
    fn counters_of_all_cpus_are_summed_by_name() {
        let table = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error\n\
            00000007  00000000 00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000001 0000000a 00000001 00000000\n\
            00000007  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000006 00000000 00000000\n";
        let sums = sums(table);
        assert_eq!((sums.invalid, sums.drop, sums.early_drop), (3, 16, 1));
        assert_eq!(super::sums(""), super::Conntrack::default());
    }
}
