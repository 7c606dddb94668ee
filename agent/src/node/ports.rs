//! Source ports before they run out: how many are in use to one destination from one address.
//!
//! A pod that has fewer sockets altogether than would be told of one destination costs nothing. Of one with more, the
//! sockets are counted by destination, those in TIME_WAIT included, which is dear: the kernel shows each of them.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    diag::{self, state},
    enter,
};
use crate::{
    engine::Input,
    model::{NetnsId, PortUse},
};

/// Between two counts of one namespace.
const EVERY: Duration = Duration::from_secs(2);
/// Most sockets counted of one namespace: more than there are ports.
const MAX_READ: u64 = 131_072;
/// Told from this share on, and once more when it is less again.
const TOLD_PERCENT: u64 = 70;
/// Source ports the kernel gives to those who name none, of the namespace of whoever reads.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Most destinations told of one namespace.
const MAX_TOLD: usize = 4;

/// What is remembered of the counts.
#[derive(Debug, Default)]
pub(super) struct Ports {
    last: BTreeMap<NetnsId, (Instant, bool)>,
}

/// Whether the sockets of the calling thread's namespace could make a destination worth telling if all
/// were to the same. The kernel counts them itself.
pub(super) fn could_be_scarce() -> bool {
    let four = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap_or_default();
    let six = fs::read_to_string("/proc/thread-self/net/sockstat6").unwrap_or_default();
    let Ok((low, high)) = range(RANGE) else {
        return false;
    };
    let ports = u64::from(high - low) + 1;
    sockets_in(&four, &six).saturating_mul(100) >= ports * TOLD_PERCENT
}

/// TCP sockets, those in TIME_WAIT included, of both families.
fn sockets_in(four: &str, six: &str) -> u64 {
    let number = |text: &str, line: &str, name: &str| {
        let line = text.lines().find_map(|text| text.strip_prefix(line))?;
        let mut words = line.split(' ').skip_while(|word| *word != name);
        words.nth(1)?.parse::<u64>().ok()
    };
    let counts = [
        number(four, "TCP: ", "inuse"),
        number(four, "TCP: ", "tw"),
        number(six, "TCP6: ", "inuse"),
    ];
    counts.into_iter().flatten().sum()
}

impl Ports {
    /// Counts where there are many sockets, if it was not done just now.
    pub(super) fn look(&mut self, now: Instant, mut many: Vec<(NetnsId, PathBuf)>) -> Vec<Input> {
        self.last
            .retain(|_, (at, told)| *told || now.duration_since(*at) < EVERY);
        many.retain(|(netns, _)| {
            let last = self.last.get(netns);
            last.is_none_or(|(at, _)| now.duration_since(*at) >= EVERY)
        });
        let mut news = Vec::new();
        for (netns, found) in enter::visit(&many, |_| scarce()) {
            let Ok(uses) = found else { continue };
            let told = !uses.is_empty();
            let before = self.last.insert(netns, (now, told));
            if told || before.is_some_and(|(_, told)| told) {
                news.push(Input::Ports { netns, uses });
            }
        }
        news
    }
}

/// Destinations that most ports of the calling thread's namespace are used up for.
fn scarce() -> io::Result<Vec<PortUse>> {
    let (low, high) = range(RANGE)?;
    let reuse = fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap_or_default();
    let states = [
        state::ESTABLISHED,
        state::SYN_SENT,
        state::FIN_WAIT1,
        state::FIN_WAIT2,
        state::TIME_WAIT,
        state::CLOSE_WAIT,
        state::LAST_ACK,
        state::CLOSING,
    ];
    let mut by: HashMap<(IpAddr, SocketAddr), (u64, u64)> = HashMap::new();
    let mut read = 0_u64;
    diag::sockets(&states, None, |one| {
        read += 1;
        let (local, to) = (one.local(), one.remote());
        if (low..=high).contains(&local.port()) {
            let to = SocketAddr::new(to.ip().to_canonical(), to.port());
            let uses = by.entry((local.ip().to_canonical(), to)).or_default();
            let waits = one.state() == state::TIME_WAIT;
            *(if waits { &mut uses.1 } else { &mut uses.0 }) += 1;
        }
        read < MAX_READ
    })?;
    let usable = |to: SocketAddr| match reuse.trim() {
        "1" => true,
        "2" => to.ip().is_loopback(),
        _ => false,
    };
    let uses = by.into_iter().map(|((from, to), (open, waiting))| PortUse {
        from,
        to,
        open,
        waiting: if usable(to) { 0 } else { waiting },
        range: u64::from(high - low) + 1,
    });
    let mut told: Vec<PortUse> = uses.filter(|u| u.percent() >= TOLD_PERCENT).collect();
    told.sort_by_key(|u| (std::cmp::Reverse(u.percent()), u.to, u.from));
    told.truncate(MAX_TOLD);
    Ok(told)
}

fn range(file: &str) -> io::Result<(u16, u16)> {
    let text = fs::read_to_string(file)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Ok((low, high)),
        _ => Err(io::Error::other(format!("{file} says {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::sockets_in;

    #[test]
    fn sockets_of_both_families_and_those_that_wait_are_counted() {
        let four =
            "sockets: used 9\nTCP: inuse 7 orphan 0 tw 40 alloc 9 mem 1\nUDP: inuse 3 mem 0\n";
        let six = "TCP6: inuse 500\nUDP6: inuse 1\n";
        assert_eq!(sockets_in(four, six), 547);
        assert_eq!(sockets_in(four, ""), 47);
        assert_eq!(sockets_in("", ""), 0);
    }
}
