//! The laws that hold for any input.
//!
//! Never a panic; every connection counted exactly once; memory bounded; the order of
//! unrelated connections irrelevant; a recording replays to the same board and outputs,
//! in one piece or in two.

use proptest::prelude::*;
use sidestep::{
    engine::{Board, Change, Config, Engine, Input, Output, record},
    model::{
        Arrival, CgroupId, Counts, Direction, EdgeDelta, EdgeKey, Histogram, Listener,
        ListenerQueue, NetnsId, Outcome, Owner, PodKey, Signal, Time,
    },
};

use crate::kit::*;

fn any_ip() -> impl Strategy<Value = std::net::IpAddr> {
    prop::sample::select(vec![
        "10.0.0.5",
        "10.0.0.6",
        "10.9.0.1",
        "127.0.0.1",
        "127.0.0.6",
        "fd00::5",
        "fd00::9",
        "::1",
        "0.0.0.0",
    ])
    .prop_map(ip)
}

fn any_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0, 80, 8080, 15001, 15006, 15020, 15021, 9000, 65535])
}

fn any_netns() -> impl Strategy<Value = NetnsId> {
    prop::sample::select(vec![NetnsId(1), MESHED, PLAIN, NetnsId(300)])
}

fn any_cgroup() -> impl Strategy<Value = CgroupId> {
    prop::sample::select(vec![CgroupId(0), APP, PROXY, INIT, CgroupId(99)])
}

fn any_id() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1000, 1337, 2102, u32::MAX])
}

fn any_arrival() -> impl Strategy<Value = Arrival> {
    prop_oneof![
        Just(Arrival::Nowhere),
        any_port().prop_map(Arrival::Port),
        any_port().prop_map(Arrival::Decided),
        Just(Arrival::Loopback),
        Just(Arrival::Unknown),
    ]
}

prop_compose! {
    fn any_key()(
        netns in any_netns(), cgroup in any_cgroup(), uid in any_id(), gid in any_id(),
        outbound in any::<bool>(), local in any_ip(), local_port in any_port(),
        remote in any_ip(), port in any_port(), arrival in any_arrival(),
    ) -> EdgeKey {
        EdgeKey {
            owner: Owner { netns, cgroup, uid, gid },
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            local,
            local_port: if outbound { 0 } else { local_port },
            remote: std::net::SocketAddr::new(remote, if outbound { port } else { 0 }),
            arrival: if outbound { arrival } else { Arrival::Nowhere },
        }
    }
}

fn any_counts() -> impl Strategy<Value = Counts> {
    let n = || prop_oneof![4 => Just(0u64), 4 => 1u64..5, 1 => Just(u64::from(u32::MAX))];
    [n(), n(), n(), n(), n(), n(), n(), n()].prop_map(|n| Counts {
        established: n[0],
        refused: n[1],
        timed_out: n[2],
        unreachable: n[3],
        failed: n[4],
        aborted: n[5],
        no_address: n[6],
        denied: n[7],
    })
}

prop_compose! {
    fn any_delta()(key in any_key(), counts in any_counts(), bucket in 0usize..26) -> EdgeDelta {
        let mut duration = Histogram::default();
        duration.buckets[bucket] = counts.established;
        EdgeDelta { key, counts, duration }
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let a_pod = |uid: &str, name: &str| {
        let mut pod = meshed();
        pod.uid = uid.into();
        pod.key.name = name.into();
        Change::Pod(Box::new(pod))
    };
    let plain = pod("plain", "uid-2", &["10.0.0.6"], vec![]);
    let gone = |name: &str| {
        Change::PodGone(PodKey {
            namespace: "shop".into(),
            name: name.into(),
        })
    };
    prop_oneof![
        prop::sample::select(vec![
            a_pod("uid-1", "web-1"),
            a_pod("uid-1b", "web-1"),
            a_pod("", "web-1"),
            Change::Pod(Box::new(plain)),
            gone("web-1"),
            gone("plain"),
            netns(MESHED, &["10.0.0.5", "fd00::5"]),
            netns(PLAIN, &["10.0.0.6"]),
            netns(PLAIN, &[]),
            Change::Netns {
                netns: NetnsId(1),
                paths: vec![],
                addresses: vec![],
                host: true
            },
            Change::NetnsGone(MESHED),
            Change::NetnsGone(PLAIN),
            Change::CgroupGone(APP),
            Change::CgroupGone(PROXY),
            Change::Source {
                source: "proc".into(),
                trouble: Some("gone".into())
            },
        ]),
        (
            any_cgroup(),
            prop::sample::select(vec!["c-app", "c-proxy", "c-init", "c-none"]),
            any_netns()
        )
            .prop_map(|(id, container, ns)| cgroup(id, "uid-1", container, ns)),
    ]
}

fn any_signal() -> impl Strategy<Value = Signal> {
    prop_oneof![
        any_key().prop_map(|key| Signal::FirstSeen {
            key,
            process: process("x")
        }),
        (any_key(), prop::option::of(any_port())).prop_map(|(key, refused_at)| Signal::Failed {
            key,
            outcome: Outcome::Refused,
            errno: 111,
            refused_at,
            process: process("y"),
            after_us: 1,
            retransmits: 0,
        }),
        any_key().prop_map(|key| Signal::Stalled {
            key,
            retransmits: 1,
            process: process("z")
        }),
        (any_netns(), any_port(), any_ip(), any_ip()).prop_map(|(netns, port, local, peer)| {
            Signal::NoListener {
                netns,
                port,
                local,
                peer: std::net::SocketAddr::new(peer, 4000),
            }
        }),
        (any_key(), any_ip(), any_port()).prop_map(|(key, addr, port)| Signal::Listening {
            owner: key.owner,
            listener: Listener {
                addr,
                port,
                dual_stack: false
            },
            process: process("l"),
        }),
        (any_netns(), any_ip(), any_port()).prop_map(|(netns, addr, port)| {
            Signal::ListeningEnded {
                netns,
                listener: Listener {
                    addr,
                    port,
                    dual_stack: false,
                },
            }
        }),
        (any_netns(), any_port()).prop_map(|(netns, to)| Signal::InboundRedirect {
            netns,
            from: 80,
            to
        }),
    ]
}

fn any_queues() -> impl Strategy<Value = Input> {
    let row = (any_ip(), any_port(), 0u32..200, any_id()).prop_map(|(addr, port, length, uid)| {
        ListenerQueue {
            listener: Listener {
                addr,
                port,
                dual_stack: false,
            },
            length,
            max: 128,
            uid,
        }
    });
    (any_netns(), prop::collection::vec(row, 0..6)).prop_map(|(ns, rows)| queues_in(ns, rows))
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => Just(Input::Tick),
        4 => prop::collection::vec(any_delta(), 0..8).prop_map(Input::Edges),
        3 => any_signal().prop_map(Input::Signal),
        4 => any_change().prop_map(Input::Change),
        2 => any_queues(),
        1 => prop::sample::select(vec![coverage(&[]), coverage(&["nat_decision", "reset"])]).prop_map(Input::Coverage),
    ]
}

/// Inputs with the microseconds that pass before each; sometimes much, sometimes backwards.
fn any_inputs() -> impl Strategy<Value = Vec<(Time, Input)>> {
    let gap =
        prop_oneof![6 => 0i64..1_500_000, 1 => 1_500_000i64..900_000_000, 1 => -5_000_000i64..0];
    prop::collection::vec((gap, any_input()), 1..40).prop_map(|steps| {
        let mut at = i64::try_from(START.0).unwrap();
        let mut timed = Vec::new();
        for (gap, input) in steps {
            at += gap;
            timed.push((Time(u64::try_from(at).unwrap()), input));
        }
        timed
    })
}

fn small() -> Config {
    Config {
        max_edges: 8,
        max_unbound: 4,
        ..Config::default()
    }
}

fn run(engine: &mut Engine, inputs: &[(Time, Input)]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (at, input) in inputs {
        engine.input(*at, input.clone());
        outputs.extend(std::iter::from_fn(|| engine.next_output()));
    }
    outputs
}

fn replayed(inputs: &[(Time, Input)]) -> (Board, Vec<Output>) {
    let mut engine = Engine::new(small(), profiles(), START);
    let outputs = run(&mut engine, inputs);
    ((*engine.board()).clone(), outputs)
}

fn sum(counts: &Counts) -> u128 {
    let c = counts;
    [
        c.established,
        c.refused,
        c.timed_out,
        c.unreachable,
        c.failed,
        c.aborted,
        c.no_address,
        c.denied,
    ]
    .iter()
    .map(|n| u128::from(*n))
    .sum()
}

fn fed(inputs: &[(Time, Input)]) -> u128 {
    let of = |(_, input): &(Time, Input)| match input {
        Input::Edges(deltas) => deltas.iter().map(|d| sum(&d.counts)).sum(),
        _ => 0,
    };
    inputs.iter().map(of).sum()
}

fn replaces_a_pod((_, input): &(Time, Input)) -> bool {
    match input {
        Input::Change(Change::PodGone(_)) => true,
        Input::Change(Change::Pod(pod)) => pod.uid == "uid-1b",
        _ => false,
    }
}

/// Everything that is counted, once as legs, once as verdicts.
fn counted(board: &Board) -> (u128, u128) {
    let legs = board
        .connections
        .iter()
        .map(|r| u128::from(r.connections))
        .sum();
    let verdicts = board
        .interception
        .iter()
        .map(|r| u128::from(r.connections))
        .sum();
    (legs, verdicts)
}

proptest! {
    #[test]
    fn every_connection_is_counted_once(inputs in any_inputs()) {
        // Pods that are gone take their rows with them: keep all of them.
        let config = Config { keep_resolved_s: u32::MAX, ..small() };
        let mut engine = Engine::new(config, profiles(), START);
        run(&mut engine, &inputs);
        let last = inputs.iter().map(|(at, _)| *at).max().unwrap();
        engine.input(last.plus_secs(10), Input::Tick);
        prop_assert_eq!(engine.waiting(), 0);
        let board = engine.board();
        let (legs, verdicts) = counted(&board);
        let unattributed: u128 = board.unattributed.iter().map(|l| u128::from(l.count)).sum();
        prop_assert_eq!(legs, verdicts);
        prop_assert_eq!(u128::from(engine.accounted()), fed(&inputs));
        let shown = legs + unattributed + u128::from(board.host_connections);
        // A pod made again under its name hides the rows of the one before.
        if inputs.iter().any(replaces_a_pod) {
            prop_assert!(shown <= fed(&inputs));
        } else {
            prop_assert_eq!(shown, fed(&inputs));
        }
    }

    #[test]
    fn memory_is_bounded(inputs in any_inputs()) {
        let (board, outputs) = replayed(&inputs);
        prop_assert!(board.edges.len() <= 8);
        prop_assert!(board.findings.len() <= 13 * board.pods.len().max(3) + 13);
        prop_assert!(outputs.len() <= 40 * 40);
        for finding in &board.findings {
            prop_assert!(finding.evidence.len() <= 64);
        }
    }

    #[test]
    fn replay_in_pieces_is_replay(inputs in any_inputs(), cut in any::<prop::sample::Index>()) {
        let whole = replayed(&inputs);
        let (a, b) = inputs.split_at(cut.index(inputs.len()));
        let mut engine = Engine::new(small(), profiles(), START);
        let mut outputs = run(&mut engine, a);
        // Looking must not change anything.
        let _ = engine.board();
        let _ = engine.next_deadline();
        outputs.extend(run(&mut engine, b));
        let pieces = ((*engine.board()).clone(), outputs);
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn recordings_round_trip(inputs in any_inputs()) {
        let header = record::Header::new(small(), START);
        let mut text = record::write_header(&header).unwrap();
        for (at, input) in &inputs {
            text += &record::write_input(*at, input).unwrap();
        }
        let (read, entries) = record::read(&text).unwrap();
        prop_assert_eq!(read, header);
        let back: Vec<_> = entries.into_iter().map(|e| (e.at, e.input)).collect();
        prop_assert_eq!(back, inputs);
    }

    #[test]
    fn order_inside_a_drain_does_not_matter(deltas in prop::collection::vec(any_delta(), 0..8), seed in any::<u64>()) {
        // Unrelated connections: every edge once, and room for all of them.
        let mut seen = std::collections::BTreeSet::new();
        let deltas: Vec<_> = deltas.into_iter().filter(|d| seen.insert(d.key)).collect();
        let mut shuffled = deltas.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let boards = [deltas, shuffled].map(|deltas| {
            let mut node = Node::running();
            node.edges(deltas);
            node.pass(4.0);
            let mut board = (*node.engine.board()).clone();
            // Most recent first: the one order that is the drain's own.
            board.edges.sort_by_key(|e| e.key);
            (board, node.open())
        });
        prop_assert_eq!(&boards[0], &boards[1]);
    }
}
