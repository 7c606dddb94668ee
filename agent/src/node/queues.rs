//! Accept queues of all listening sockets of a network namespace, and how often any of them
//! overflowed.

use std::{fs, io, net::IpAddr};

use super::{
    diag::{self, Record, state},
    netns,
};
use crate::model::{Listener, ListenerQueue};

/// Most listening sockets told of one namespace.
const MAX_LISTENERS: usize = 4_096;

/// Listening TCP sockets of the calling thread's network namespace, of both families. With
/// `SO_REUSEPORT`, several with one address: each has a queue of its own.
///
/// # Errors
/// The kernel cannot say (module `tcp_diag` missing), or netlink failed.
pub fn listening() -> io::Result<Vec<ListenerQueue>> {
    let mut found = Vec::new();
    diag::sockets(&[state::LISTEN], None, |one| {
        found.push(queue(one));
        found.len() < MAX_LISTENERS
    })?;
    Ok(found)
}

/// Accept queues; and, where somebody waits in one or did lately, what [`overflows`] says.
pub(super) fn sample(in_use: bool) -> io::Result<(Vec<ListenerQueue>, Option<u64>)> {
    let queues = listening()?;
    let waits = in_use || queues.iter().any(|queue| queue.length > 0);
    let overflows = waits.then(overflows).flatten();
    Ok((queues, overflows))
}

/// Why they cannot be read, for people.
pub(super) fn trouble(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => netns::not_entered(error),
        _ => format!(
            "accept queues cannot be read ({error}): a proxy that does not accept is not seen. Load the kernel modules inet_diag and tcp_diag"
        ),
    }
}

/// Connections that found an accept queue of the calling thread's network namespace full
/// (`TcpExt: ListenOverflows`), since the namespace was made; `None` if it cannot be read.
fn overflows() -> Option<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    overflows_in(&table)
}

fn overflows_in(table: &str) -> Option<u64> {
    let mut lines = table
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let names = lines.next()?;
    let values = lines.next()?;
    let (_, value) = names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == "ListenOverflows")?;
    value.parse().ok()
}

fn queue(record: Record<'_>) -> ListenerQueue {
    let end = record.local();
    let v6_only = record.attribute(diag::V6_ONLY);
    let any = matches!(end.ip(), IpAddr::V6(ip) if ip.is_unspecified());
    ListenerQueue {
        listener: Listener {
            addr: end.ip().to_canonical(),
            port: end.port(),
            dual_stack: any && v6_only.is_none_or(|only| only.first() == Some(&0)),
        },
        length: record.receive_queue(),
        max: record.send_queue(),
        uid: record.uid(),
    }
}

#[cfg(test)]
mod tests {
    use super::overflows_in;

    #[test]
    fn overflows_are_found_by_name() {
        let table = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 7 9\nIpExt: InNoRoutes\nIpExt: 3\n";
        assert_eq!(overflows_in(table), Some(7));
        assert_eq!(overflows_in("TcpExt: A B\nTcpExt: 1 2\n"), None);
        assert_eq!(overflows_in(""), None);
    }
}
