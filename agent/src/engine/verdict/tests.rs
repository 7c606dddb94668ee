//! The whole table of verdicts.
//!
//! Laws over every combination of facts first, then the cases of the design one by one:
//! a law says what must never happen, a case what must.

use super::*;

const PARTIES: [Party; 3] = [Party::App, Party::Init, Party::Proxy];
const EXPECTED: [Expected; 6] = [
    Expected::NoMesh,
    Expected::Captured,
    Expected::Local,
    Expected::Off,
    Expected::Listed,
    Expected::MeshPort,
];
const PATHS: [Path; 6] = [
    Path::Capture,
    Path::Waiting,
    Path::Elsewhere,
    Path::Own,
    Path::Direct,
    Path::Lost,
];
const OUTCOMES: [Outcome; 6] = [
    Outcome::Established,
    Outcome::Refused,
    Outcome::TimedOut,
    Outcome::Unreachable,
    Outcome::Failed,
    Outcome::Aborted,
];

fn facts(direction: Direction, party: Party, expected: Expected, path: Path) -> Facts {
    Facts {
        direction,
        party,
        expected,
        path,
        mesh_port: false,
        outcome: Outcome::Established,
        unanswered: false,
        cause: Reason::NoRules,
    }
}

fn all() -> Vec<Facts> {
    let mut all = Vec::new();
    for direction in [Direction::Outbound, Direction::Inbound] {
        for party in PARTIES {
            for expected in EXPECTED {
                for path in PATHS {
                    let base = facts(direction, party, expected, path);
                    for outcome in OUTCOMES {
                        for bits in 0..4 {
                            all.push(Facts {
                                outcome,
                                mesh_port: bits & 1 != 0,
                                unanswered: bits & 2 != 0,
                                ..base
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

/// The laws that hold for every one of the 2 × 3 × 6 × 6 × 6 × 4 cases.
#[test]
fn laws() {
    let all = all();
    assert_eq!(all.len(), 5184);
    for f in &all {
        let (leg, verdict) = judge(f);
        let established = f.outcome == Outcome::Established;
        match verdict {
            Verdict::Bypassed { reason } => {
                assert!(established, "{f:?}");
                assert_eq!(f.party, Party::App, "{f:?}");
                assert_eq!(f.expected, Expected::Captured, "{f:?}");
                assert!(matches!(f.path, Path::Direct | Path::Elsewhere), "{f:?}");
                assert_eq!(reason, f.cause);
            }
            Verdict::Excluded { .. } => {
                assert!(established && f.party != Party::Proxy, "{f:?}");
                assert!(matches!(f.path, Path::Direct | Path::Elsewhere), "{f:?}");
            }
            Verdict::Stuck { stage } => {
                assert!(!established && f.direction == Direction::Outbound, "{f:?}");
                assert_eq!(stage == Stage::HandshakeToUpstream, f.party == Party::Proxy);
            }
            Verdict::Intercepted => {
                assert!(established, "{f:?}");
                assert!(
                    matches!(leg, Leg::AppToProxy | Leg::PeerToProxy)
                        || f.direction == Direction::Inbound,
                    "{f:?}"
                );
            }
            Verdict::Failed => assert!(!established, "{f:?}"),
            Verdict::Neutral => assert!(established, "{f:?}"),
        }
        if f.expected == Expected::NoMesh && f.party != Party::Proxy {
            assert!(
                matches!(verdict, Verdict::Neutral | Verdict::Failed),
                "{f:?}"
            );
        }
    }
}

/// intent × observed, as in the design.
#[test]
fn outbound_of_the_app() {
    use Expected as E;
    use Path as P;
    use Reason as R;
    let bypassed = Verdict::Bypassed { reason: R::NoRules };
    let excluded = |reason| Verdict::Excluded { reason };
    let table = [
        (
            E::Captured,
            P::Capture,
            Leg::AppToProxy,
            Verdict::Intercepted,
        ),
        (
            E::Captured,
            P::Waiting,
            Leg::AppToProxy,
            Verdict::Intercepted,
        ),
        (E::Captured, P::Direct, Leg::DirectOut, bypassed),
        (E::Captured, P::Elsewhere, Leg::Local, bypassed),
        (E::Captured, P::Own, Leg::Local, Verdict::Neutral),
        (E::Captured, P::Lost, Leg::AppToProxy, Verdict::Neutral),
        (E::Listed, P::Capture, Leg::AppToProxy, Verdict::Intercepted),
        (E::Listed, P::Direct, Leg::DirectOut, excluded(R::Excluded)),
        (E::Listed, P::Lost, Leg::DirectOut, Verdict::Neutral),
        (E::Off, P::Direct, Leg::DirectOut, excluded(R::Excluded)),
        (
            E::MeshPort,
            P::Direct,
            Leg::DirectOut,
            excluded(R::MeshPort),
        ),
        (E::Local, P::Own, Leg::Local, Verdict::Neutral),
        (E::Local, P::Direct, Leg::DirectOut, Verdict::Neutral),
        (E::Local, P::Capture, Leg::AppToProxy, Verdict::Intercepted),
        (E::NoMesh, P::Direct, Leg::DirectOut, Verdict::Neutral),
        (E::NoMesh, P::Own, Leg::Local, Verdict::Neutral),
    ];
    for (expected, path, leg, verdict) in table {
        let f = facts(Direction::Outbound, Party::App, expected, path);
        assert_eq!(judge(&f), (leg, verdict), "{f:?}");
    }
}

#[test]
fn failures_of_the_app() {
    use Outcome as O;
    use Path as P;
    let stuck = Verdict::Stuck {
        stage: Stage::HandshakeToProxy,
    };
    let table = [
        (P::Waiting, O::Refused, false, Leg::AppToProxy, stuck),
        (P::Waiting, O::TimedOut, false, Leg::AppToProxy, stuck),
        (P::Waiting, O::Aborted, false, Leg::AppToProxy, stuck),
        (P::Capture, O::Refused, false, Leg::AppToProxy, stuck),
        (P::Elsewhere, O::Refused, false, Leg::AppToProxy, stuck),
        (P::Elsewhere, O::Failed, false, Leg::Local, Verdict::Failed),
        (
            P::Waiting,
            O::Unreachable,
            false,
            Leg::AppToProxy,
            Verdict::Failed,
        ),
        (P::Direct, O::Refused, true, Leg::AppToProxy, stuck),
        (P::Lost, O::Refused, true, Leg::AppToProxy, stuck),
        (
            P::Direct,
            O::Refused,
            false,
            Leg::DirectOut,
            Verdict::Failed,
        ),
        (P::Lost, O::Refused, false, Leg::DirectOut, Verdict::Failed),
        (
            P::Direct,
            O::TimedOut,
            true,
            Leg::DirectOut,
            Verdict::Failed,
        ),
        (P::Own, O::Refused, true, Leg::Local, Verdict::Failed),
        (
            P::Capture,
            O::Failed,
            true,
            Leg::AppToProxy,
            Verdict::Failed,
        ),
    ];
    for (path, outcome, unanswered, leg, verdict) in table {
        let base = facts(Direction::Outbound, Party::App, Expected::Captured, path);
        let f = Facts {
            outcome,
            unanswered,
            ..base
        };
        assert_eq!(judge(&f), (leg, verdict), "{f:?}");
    }
}

// lint: long because it is a table
#[test]
fn the_proxys_own_legs() {
    use Outcome as O;
    use Path as P;
    let table = [
        (
            P::Direct,
            false,
            O::Established,
            Leg::ProxyToUpstream,
            Verdict::Neutral,
        ),
        (
            P::Direct,
            false,
            O::Refused,
            Leg::ProxyToUpstream,
            Verdict::Failed,
        ),
        (
            P::Direct,
            false,
            O::TimedOut,
            Leg::ProxyToUpstream,
            Verdict::Stuck {
                stage: Stage::HandshakeToUpstream,
            },
        ),
        (
            P::Own,
            false,
            O::Established,
            Leg::ProxyToApp,
            Verdict::Neutral,
        ),
        (P::Own, false, O::Refused, Leg::ProxyToApp, Verdict::Failed),
        (
            P::Own,
            true,
            O::Established,
            Leg::ProxyOwn,
            Verdict::Neutral,
        ),
        (
            P::Capture,
            false,
            O::Established,
            Leg::ProxyOwn,
            Verdict::Neutral,
        ),
        (P::Own, false, O::TimedOut, Leg::ProxyToApp, Verdict::Failed),
    ];
    for (path, mesh_port, outcome, leg, verdict) in table {
        let base = facts(Direction::Outbound, Party::Proxy, Expected::Captured, path);
        let f = Facts {
            outcome,
            mesh_port,
            ..base
        };
        assert_eq!(judge(&f), (leg, verdict), "{f:?}");
    }
}

// lint: long because it is a table
#[test]
fn inbound() {
    use Expected as E;
    use Path as P;
    let bypassed = Verdict::Bypassed {
        reason: Reason::NoRules,
    };
    let excluded = |reason| Verdict::Excluded { reason };
    let table = [
        (
            Party::Proxy,
            E::Captured,
            P::Direct,
            false,
            Leg::PeerToProxy,
            Verdict::Intercepted,
        ),
        (
            Party::Proxy,
            E::Captured,
            P::Own,
            false,
            Leg::Local,
            Verdict::Neutral,
        ),
        (
            Party::Proxy,
            E::MeshPort,
            P::Direct,
            true,
            Leg::ProxyOwn,
            Verdict::Neutral,
        ),
        (
            Party::App,
            E::Captured,
            P::Direct,
            false,
            Leg::DirectIn,
            bypassed,
        ),
        (
            Party::App,
            E::Captured,
            P::Own,
            false,
            Leg::Local,
            Verdict::Neutral,
        ),
        (
            Party::App,
            E::Listed,
            P::Direct,
            false,
            Leg::DirectIn,
            excluded(Reason::Excluded),
        ),
        (
            Party::App,
            E::MeshPort,
            P::Direct,
            false,
            Leg::DirectIn,
            excluded(Reason::MeshPort),
        ),
        (
            Party::Init,
            E::Captured,
            P::Direct,
            false,
            Leg::DirectIn,
            excluded(Reason::InitContainer),
        ),
        (
            Party::App,
            E::NoMesh,
            P::Direct,
            false,
            Leg::DirectIn,
            Verdict::Neutral,
        ),
    ];
    for (party, expected, path, mesh_port, leg, verdict) in table {
        let f = Facts {
            mesh_port,
            ..facts(Direction::Inbound, party, expected, path)
        };
        assert_eq!(judge(&f), (leg, verdict), "{f:?}");
    }
}
