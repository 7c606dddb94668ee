//! A hand-made board with every kind of row, for the tests of everything that reads one.
//!
//! Made by hand and not by the engine, so that a change of a verdict does not rewrite the
//! goldens of tables and metrics. It must hold a row of every type: a test says so.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use super::{BoardReceiver, View};
use crate::{
    engine::{
        AcceptRow, Accepts, Board, Code, ConnectionRow, DropRow, EdgeRow, HandshakeRow,
        InterceptionRow, Leg, PodRow, QueueRow, Reason, Stage, StuckRow, SynAckRow, Verdict,
    },
    model::{
        AgentStats, Arrival, CgroupId, ClusterStats, Counts, Coverage, Direction, EdgeKey,
        Histogram, Loss, NetnsId, Outcome, Owner, PodKey, ProgramStats, RulesStats, SignalCoverage,
        Time, WatchStats, Workload,
    },
};

mod findings;
#[path = "fixture/rules_tests.rs"]
pub(crate) mod rules;

/// 2026-03-01 02:13:05 UTC: when the board was drawn.
pub(crate) const NOW: Time = Time(1_772_331_185_000_000);

/// `secs` seconds before [`NOW`].
pub(crate) fn ago(secs: u64) -> Time {
    Time(NOW.0 - secs * 1_000_000)
}

pub(crate) fn key(namespace: &str, name: &str) -> PodKey {
    PodKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn deployment(name: &str) -> Option<Workload> {
    Some(Workload {
        kind: "Deployment".into(),
        name: name.into(),
    })
}

/// A view of `board`, drawn just now, first drain done.
pub(crate) fn view(board: Board) -> View {
    view_at(board, NOW, true)
}

/// A view of `board` at `now`.
pub(crate) fn view_at(board: Board, now: Time, drained: bool) -> View {
    View::new(boards(board, drained), Arc::new(move || now))
}

/// The end of an event loop that showed `board` and is gone.
pub(crate) fn boards(board: Board, drained: bool) -> BoardReceiver {
    let (mut sender, boards) = super::boards();
    if drained {
        sender.drained(board.at);
    }
    sender.show(|| Arc::new(board));
    boards
}

/// The board.
// lint: long because it is one of everything.
pub(crate) fn board() -> Board {
    Board {
        node: "node-1".into(),
        at: NOW,
        started: ago(3_600),
        pods: pods(),
        connections: connections(),
        interception: interception(),
        handshakes: handshakes(),
        accepts: accepts(),
        drops: vec![DropRow {
            pod: cart(),
            workload: deployment("cart"),
            direction: Direction::Outbound,
            reason: "NETFILTER_DROP".into(),
            packets: 9,
        }],
        syn_acks: vec![SynAckRow {
            pod: cart(),
            workload: deployment("cart"),
            resent: 4,
        }],
        queues: queues(),
        stuck: vec![StuckRow {
            pod: cart(),
            workload: deployment("cart"),
            stage: Stage::UpstreamSilent,
            connections: 6,
        }],
        findings: findings::all(),
        edges: edges(),
        host_connections: 0,
        unattributed: vec![Loss {
            at: "no_pod".into(),
            count: 7,
        }],
        coverage: coverage(),
        rules: Vec::new(),
        kernel: AgentStats {
            events: 1_234,
            losses: vec![
                Loss {
                    at: "ring_buffer".into(),
                    count: 0,
                },
                Loss {
                    at: "edge_map".into(),
                    count: 3,
                },
            ],
            maps: vec![("EDGES".into(), 120, 16_384), ("PENDING".into(), 2, 8_192)],
            rules: RulesStats {
                reads: [("complete".to_owned(), 4), ("no_tool".to_owned(), 1)].into(),
                took_us: 17_000,
                refused: 0,
            },
            cluster: cluster(),
            programs: vec![ProgramStats {
                program: "inet_sock_set_state".into(),
                runs: 50,
                run_time_ns: 25_000,
            }],
        },
        losses: vec![Loss {
            at: "late_binding".into(),
            count: 1,
        }],
        sources: vec![(
            "pods-dir".into(),
            "cart.yaml line 3: not a Pod; correct the manifest".into(),
        )],
    }
}

fn cluster() -> ClusterStats {
    let watch = |synced, objects| WatchStats {
        synced,
        objects,
        changes: objects + 2,
        lists: 1,
    };
    ClusterStats {
        watches: [
            ("pods".to_owned(), watch(true, 4)),
            ("namespaces".to_owned(), watch(false, 9)),
        ]
        .into(),
        requests: [("200".to_owned(), 5), ("none".to_owned(), 1)].into(),
        events: [("sent".to_owned(), 3), ("dropped".to_owned(), 0)].into(),
        refused: 0,
    }
}

fn pods() -> Vec<PodRow> {
    let cart = PodRow {
        pod: key("shop", "cart-7d9f8c6b5-x2x4z"),
        workload: deployment("cart"),
        mesh: Some("mesh-a".into()),
        intent_source: Some("manifest".into()),
        intent: vec![
            "outbound all to 15001".into(),
            "inbound all to 15006 except 9090".into(),
        ],
        problems: vec![
            "annotation mesh/ports: \"80,http\": \"http\" is not a port; write numbers".into(),
        ],
        netns: Some(4_026_532_001),
        ips: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5))],
        intercepted: 1_200,
        bypassed: 42,
        excluded: 3,
        failed: 1,
        findings: vec![Code::BypassProxyUid],
        wants: None,
    };
    let plain = PodRow {
        pod: key("", "batch"),
        workload: None,
        mesh: None,
        intent_source: None,
        intent: vec![],
        problems: vec![],
        netns: None,
        ips: vec![],
        intercepted: 0,
        bypassed: 0,
        excluded: 0,
        failed: 0,
        findings: vec![],
        wants: None,
    };
    let mut second = cart.clone();
    second.pod.name = "cart-7d9f8c6b5-zzzzz".into();
    second.problems.clear();
    second.findings.clear();
    second.bypassed = 0;
    vec![plain, cart, second]
}

fn cart() -> PodKey {
    key("shop", "cart-7d9f8c6b5-x2x4z")
}

fn connections() -> Vec<ConnectionRow> {
    let row = |leg, result, connections| ConnectionRow {
        pod: cart(),
        workload: deployment("cart"),
        leg,
        result,
        connections,
    };
    vec![
        row(Leg::AppToProxy, Outcome::Established, 1_200),
        row(Leg::DirectOut, Outcome::Established, 45),
        row(Leg::ProxyToUpstream, Outcome::Refused, 1),
    ]
}

fn interception() -> Vec<InterceptionRow> {
    let row = |direction, verdict, connections| InterceptionRow {
        pod: cart(),
        workload: deployment("cart"),
        direction,
        verdict,
        connections,
    };
    vec![
        row(Direction::Outbound, Verdict::Intercepted, 1_200),
        row(
            Direction::Outbound,
            Verdict::Bypassed {
                reason: Reason::ProxyUid,
            },
            42,
        ),
        row(
            Direction::Outbound,
            Verdict::Excluded {
                reason: Reason::Excluded,
            },
            3,
        ),
        row(Direction::Outbound, Verdict::Failed, 1),
        row(
            Direction::Inbound,
            Verdict::Stuck {
                stage: Stage::ProxyAcceptQueue,
            },
            2,
        ),
        row(Direction::Inbound, Verdict::Neutral, 9),
    ]
}

fn handshakes() -> Vec<HandshakeRow> {
    let mut histogram = Histogram::default();
    histogram.buckets[0] = 1;
    histogram.buckets[5] = 10;
    histogram.buckets[6] = 4;
    histogram.buckets[25] = 2;
    histogram.sum_us = 80_000_500;
    vec![HandshakeRow {
        pod: cart(),
        workload: deployment("cart"),
        leg: Leg::AppToProxy,
        histogram,
    }]
}

fn accepts() -> Vec<AcceptRow> {
    let mut histogram = Histogram::default();
    histogram.buckets[4] = 8;
    histogram.buckets[15] = 1;
    histogram.sum_us = 40_200;
    vec![AcceptRow {
        pod: cart(),
        workload: deployment("cart"),
        listener: Accepts::CaptureInbound,
        histogram,
    }]
}

/// Two sockets on one port fall on the same labels and must meet in one series.
fn queues() -> Vec<QueueRow> {
    let row = |addr, length| QueueRow {
        pod: cart(),
        workload: deployment("cart"),
        addr,
        port: 15_006,
        length,
        max: 128,
        overflows: 5,
    };
    vec![
        row(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3),
        row(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 1),
    ]
}

fn edges() -> Vec<EdgeRow> {
    let remote = (Ipv4Addr::new(10, 96, 0, 20), 8_080).into();
    let known = EdgeRow {
        pod: Some(cart()),
        container: Some("app".into()),
        key: EdgeKey {
            owner: Owner {
                netns: NetnsId(4_026_532_001),
                cgroup: CgroupId(77),
                uid: 1_337,
                gid: 1_337,
            },
            direction: Direction::Outbound,
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
            local_port: 0,
            remote,
            arrival: Arrival::Nowhere,
        },
        process: Some("curl".into()),
        leg: Leg::DirectOut,
        verdict: Verdict::Bypassed {
            reason: Reason::ProxyUid,
        },
        remote,
        counts: Counts {
            established: 42,
            ..Counts::default()
        },
        first_seen: ago(192),
        last_seen: ago(4),
    };
    let mut unknown = known.clone();
    unknown.pod = None;
    unknown.container = None;
    unknown.leg = Leg::Local;
    unknown.verdict = Verdict::Neutral;
    vec![known, unknown]
}

fn coverage() -> Coverage {
    let signal = |signal: &str, variant: Option<&str>, required, reason: &str| SignalCoverage {
        signal: signal.into(),
        variant: variant.map(Into::into),
        target: signal.into(),
        without_it: "something".into(),
        reason: reason.into(),
        required,
        idle: false,
    };
    Coverage {
        kernel: "6.12.1".into(),
        signals: vec![
            signal("connection_state", Some("tp_btf"), true, ""),
            signal(
                "nat_decision",
                None,
                false,
                "kprobes are refused here (EPERM)",
            ),
        ],
        limits: vec![],
    }
}

/// Compares with a golden file; `UPDATE_GOLDEN=1` writes it instead.
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
pub(crate) fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == wanted,
        "{file} differs; if the change is meant, run with UPDATE_GOLDEN=1\n--- golden\n{wanted}--- now\n{text}"
    );
}
