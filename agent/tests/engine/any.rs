//! Anything the kernel and the node may tell, for the laws.
//!
//! Few addresses, ports, namespaces and sockets, so that what is made meets what was made before.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use sidestep::{
    engine::{Change, Input},
    model::{
        Arrival, CgroupId, Counts, Datagrams, Direction, EdgeDelta, EdgeKey, Histogram, Listener,
        ListenerQueue, NetnsId, Outcome, Owner, PodKey, Rewrite, Signal, Stream, StreamState, Time,
    },
};

use crate::{
    kit::*,
    live_rules::{WHOLE, legacy, whole, without},
};

fn any_ip() -> impl Strategy<Value = IpAddr> {
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
            remote: SocketAddr::new(remote, if outbound { port } else { 0 }),
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
    pub(crate) fn any_delta()(key in any_key(), counts in any_counts(), bucket in 0usize..26) -> EdgeDelta {
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
                interfaces: vec![],
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
        (any_key(), any_port()).prop_map(|(key, port)| Signal::Reset { key, port }),
        (any_key(), any_bytes()).prop_map(|(key, n)| Signal::Closed { key, n }),
        (any_netns(), any_port(), any_ip(), any_ip()).prop_map(|(netns, port, local, peer)| {
            Signal::NoListener {
                netns,
                port,
                local,
                peer: SocketAddr::new(peer, 4000),
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

fn any_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0u64), 3 => 1u64..5_000, 1 => Just(u64::MAX)]
}

/// Milliseconds: moments, and longer than any bound.
fn any_age() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0u32..2_000, 3 => 2_000u32..100_000, 1 => Just(u32::MAX)]
}

prop_compose! {
    fn any_stream()(
        cookie in 0u64..6, local in any_ip(), local_port in any_port(), remote in any_ip(), port in any_port(),
        state in prop::sample::select(vec![
            StreamState::Dialling, StreamState::Open, StreamState::PeerClosed, StreamState::OwnerClosed,
        ]),
        uid in any_id(), held in any::<bool>(), waiting in [any_age(), any_age()], bytes in [any_bytes(), any_bytes()],
        ages in [any_age(), any_age()], retransmits in 0u8..4,
    ) -> Stream {
        Stream {
            cookie,
            local: SocketAddr::new(local, local_port),
            remote: SocketAddr::new(remote, port),
            state,
            uid,
            held,
            unread: waiting[0],
            unsent: waiting[1],
            received: bytes[0],
            sent: bytes[1],
            sent_ms: ages[0],
            received_ms: ages[1],
            retransmits,
        }
    }
}

fn any_streams() -> impl Strategy<Value = Input> {
    let left = prop_oneof![4 => Just(0u64), 1 => 1u64..90];
    (
        any_netns(),
        prop::collection::vec(any_stream(), 0..12),
        left,
    )
        .prop_map(|(netns, streams, left)| Input::Streams {
            netns,
            streams,
            left,
        })
}

fn any_datagrams() -> impl Strategy<Value = Datagrams> {
    let port = prop::sample::select(vec![53, 443, 15053]);
    (any_key(), port, 1u64..9).prop_map(|(mut key, port, flows)| {
        key.direction = Direction::Outbound;
        key.remote.set_port(port);
        Datagrams {
            key,
            flows,
            process: process("u"),
        }
    })
}

fn any_rewrite() -> impl Strategy<Value = Rewrite> {
    (any_key(), any_ip(), any_port(), 1u64..9).prop_map(|(mut key, ip, port, connections)| {
        key.direction = Direction::Outbound;
        Rewrite {
            key,
            used: SocketAddr::new(ip, port),
            connections,
            process: process("r"),
        }
    })
}

fn any_rules() -> impl Strategy<Value = Input> {
    prop::sample::select(vec![
        whole(WHOLE),
        legacy(&without("-A OUTPUT -j ISTIO_OUTPUT")),
        legacy(""),
        whole("*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n"),
    ])
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => Just(Input::Tick),
        4 => prop::collection::vec(any_delta(), 0..8).prop_map(Input::Edges),
        3 => any_signal().prop_map(Input::Signal),
        4 => any_change().prop_map(Input::Change),
        2 => any_queues(),
        3 => any_streams(),
        1 => prop::collection::vec(any_datagrams(), 0..4).prop_map(Input::Datagrams),
        1 => prop::collection::vec(any_rewrite(), 0..4).prop_map(Input::Rewrites),
        1 => any_rules(),
        1 => prop::sample::select(vec![coverage(&[]), coverage(&["nat_decision", "reset"])]).prop_map(Input::Coverage),
    ]
}

/// Inputs with the microseconds that pass before each; sometimes much, sometimes backwards.
pub(crate) fn any_inputs() -> impl Strategy<Value = Vec<(Time, Input)>> {
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
