//! Queues that move and queues that stand; families of listeners.

use super::*;

const NS: NetnsId = NetnsId(7);

fn listener(port: u16) -> Listener {
    Listener {
        addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port,
        dual_stack: false,
    }
}

fn row(length: u32) -> ListenerQueue {
    ListenerQueue {
        listener: listener(15),
        length,
        max: 4,
        uid: 1,
    }
}

/// Feeds (established since the last sample, length) once a second.
fn run(steps: &[(u64, u32)]) -> Progress {
    let mut sockets = Sockets::default();
    for (second, (established, length)) in (1u64..).zip(steps) {
        // Drained just before the sample: what it tells may be older than the last sample.
        let at = Time(second * 1_000_000);
        sockets.established(Time(at.0 - 10), NS, 15, *established, 0);
        sockets.sampled(at, NS, &[row(*length)]);
    }
    sockets.progress(NS, 15).map_or(Progress::Moving, |p| p.0)
}

#[test]
fn a_queue_nobody_accepts_from_stands() {
    let since = Time(2_000_000);
    let standing = |established| Progress::Standing { since, established };
    assert_eq!(run(&[(0, 0), (1, 1), (0, 1), (0, 1)]), standing(0));
    assert_eq!(run(&[(0, 0), (1, 1), (2, 3), (1, 4)]), standing(3));
    // The drain after the first sample tells connections from before it.
    assert_eq!(run(&[(0, 0), (0, 2), (5, 3), (0, 3)]), standing(5));
    // The first drain is late and tells two seconds at once.
    assert_eq!(
        run(&[(0, 0), (0, 2), (0, 8), (16, 16), (0, 16)]),
        standing(16)
    );
}

#[test]
fn a_busy_queue_moves() {
    assert_eq!(run(&[(0, 0), (1, 1), (0, 0)]), Progress::Moving);
    assert_eq!(run(&[(9, 1), (9, 1), (9, 1), (9, 0)]), Progress::Moving);
    // Never empty when sampled, yet far more came than wait.
    let busy = run(&[(2000, 1), (2000, 2), (2000, 2), (2000, 3)]);
    assert!(matches!(
        busy,
        Progress::Moving
            | Progress::Standing {
                since: Time(3_000_000..),
                ..
            }
    ));
    assert_eq!(run(&[(1, 2), (1, 3), (1, 1)]), Progress::Moving);
}

#[test]
fn families_of_listeners() {
    let mut sockets = Sockets::default();
    let any = ListenerQueue {
        listener: Listener {
            dual_stack: true,
            addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port: 9,
        },
        ..row(0)
    };
    sockets.sampled(Time(1), NS, &[row(0), any]);
    let ns = sockets.of(NS).map(|ns| {
        (
            ns.listens(15, Family::Ipv4),
            ns.listens(15, Family::Ipv6),
            ns.listens(9, Family::Ipv4),
        )
    });
    assert_eq!(ns, Some((Listens::Yes, Listens::No, Listens::Yes)));
}
