//! Verdict: what was meant × what was seen, for one outcome of one edge.
//!
//! A total, pure function over small enums, so that a table can test all of it. It knows
//! no addresses, no times and no meshes: [`super::facts`] reduced them to [`Facts`] before.
//! It must never turn doubt into a bypass: what was not seen is `Neutral`.

use super::{Leg, Reason, Stage, Verdict};
use crate::model::{Direction, Outcome};

/// Whose socket it is, inside its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    /// The app, or any container that is not one of the others.
    App,
    /// An init container that ends before the app starts, the mesh's own included.
    Init,
    /// The proxy.
    Proxy,
}

/// What the spec wants for a connection that is not the proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Expected {
    /// The pod is in no mesh.
    NoMesh,
    /// Redirect to the proxy.
    Captured,
    /// Leave alone: inside the pod.
    Local,
    /// Leave alone: the direction is not captured.
    Off,
    /// Leave alone: a list of the user's.
    Listed,
    /// Leave alone: the mesh's own port.
    MeshPort,
}

/// Where the connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// A socket of the proxy answered inside the namespace.
    Capture,
    /// Redirected towards the proxy, nobody has answered yet.
    Waiting,
    /// A socket of the namespace answered that is neither the proxy's nor the one asked for.
    Elsewhere,
    /// To (or from) the pod itself, as asked.
    Own,
    /// Out of (or into) the namespace, as asked.
    Direct,
    /// Not seen.
    Lost,
}

/// Everything the verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) direction: Direction,
    pub(super) party: Party,
    pub(super) expected: Expected,
    pub(super) path: Path,
    /// The port at this pod's end is one of the mesh's own (admin, health, capture).
    pub(super) mesh_port: bool,
    pub(super) outcome: Outcome,
    /// Nobody listens on the capture port, as far as sockets and resets tell.
    pub(super) unanswered: bool,
    /// Why it is direct, if it is a bypass.
    pub(super) cause: Reason,
}

/// The leg a connection is on, and what to think of it.
#[must_use]
pub(super) fn judge(f: &Facts) -> (Leg, Verdict) {
    (leg(f), verdict(f))
}

fn leg(f: &Facts) -> Leg {
    match (f.direction, f.party) {
        (_, Party::App | Party::Init) if f.expected == Expected::NoMesh => leg_unmeshed(f),
        (Direction::Outbound, Party::Proxy) => leg_of_proxy(f),
        (Direction::Outbound, Party::App | Party::Init) => leg_of_app(f),
        (Direction::Inbound, _) if f.path == Path::Own => Leg::Local,
        (Direction::Inbound, Party::Proxy) if f.mesh_port => Leg::ProxyOwn,
        (Direction::Inbound, Party::Proxy) => Leg::PeerToProxy,
        (Direction::Inbound, Party::App | Party::Init) => Leg::DirectIn,
    }
}

fn leg_unmeshed(f: &Facts) -> Leg {
    match (f.direction, f.path) {
        (_, Path::Own | Path::Elsewhere) => Leg::Local,
        (Direction::Outbound, _) => Leg::DirectOut,
        (Direction::Inbound, _) => Leg::DirectIn,
    }
}

fn leg_of_proxy(f: &Facts) -> Leg {
    match f.path {
        Path::Direct | Path::Lost => Leg::ProxyToUpstream,
        Path::Own if !f.mesh_port => Leg::ProxyToApp,
        Path::Own | Path::Capture | Path::Waiting | Path::Elsewhere => Leg::ProxyOwn,
    }
}

fn leg_of_app(f: &Facts) -> Leg {
    match f.path {
        Path::Capture | Path::Waiting => Leg::AppToProxy,
        Path::Own | Path::Elsewhere => Leg::Local,
        Path::Direct | Path::Lost if refused_by_nobody(f) => Leg::AppToProxy,
        // Not seen, but meant to be captured: the likelier leg.
        Path::Lost if established(f) && f.expected == Expected::Captured => Leg::AppToProxy,
        Path::Direct | Path::Lost => Leg::DirectOut,
    }
}

fn verdict(f: &Facts) -> Verdict {
    match (f.party, f.expected) {
        (Party::Proxy, _) => verdict_of_proxy(f),
        (_, Expected::NoMesh) if established(f) => Verdict::Neutral,
        (_, Expected::NoMesh) => Verdict::Failed,
        _ if established(f) => verdict_established(f),
        _ => verdict_failed(f),
    }
}

fn verdict_of_proxy(f: &Facts) -> Verdict {
    match (f.direction, f.outcome) {
        (Direction::Inbound, Outcome::Established) if leg(f) == Leg::PeerToProxy => {
            Verdict::Intercepted
        }
        (_, Outcome::Established) => Verdict::Neutral,
        // A refusal is an answer; silence is not.
        (Direction::Outbound, Outcome::TimedOut) if leg(f) == Leg::ProxyToUpstream => {
            Verdict::Stuck {
                stage: Stage::HandshakeToUpstream,
            }
        }
        _ => Verdict::Failed,
    }
}

fn verdict_established(f: &Facts) -> Verdict {
    match f.path {
        Path::Capture | Path::Waiting => Verdict::Intercepted,
        Path::Own | Path::Lost => Verdict::Neutral,
        Path::Direct | Path::Elsewhere => match (f.expected, f.party) {
            (Expected::Captured, Party::Init) => Verdict::Excluded {
                reason: Reason::InitContainer,
            },
            (Expected::Captured, _) => Verdict::Bypassed { reason: f.cause },
            (Expected::Listed | Expected::Off, _) => Verdict::Excluded {
                reason: Reason::Excluded,
            },
            (Expected::MeshPort, _) => Verdict::Excluded {
                reason: Reason::MeshPort,
            },
            (Expected::Local | Expected::NoMesh, _) => Verdict::Neutral,
        },
    }
}

fn verdict_failed(f: &Facts) -> Verdict {
    let no_answer = matches!(
        f.outcome,
        Outcome::Refused | Outcome::TimedOut | Outcome::Aborted
    );
    if f.direction == Direction::Outbound
        && (f.path == Path::Waiting && no_answer || refused_by_nobody(f))
    {
        Verdict::Stuck {
            stage: Stage::HandshakeToProxy,
        }
    } else {
        Verdict::Failed
    }
}

fn established(f: &Facts) -> bool {
    f.outcome == Outcome::Established
}

/// Refused, meant for the proxy, not seen to be redirected, and the proxy's port is deserted.
fn refused_by_nobody(f: &Facts) -> bool {
    f.outcome == Outcome::Refused
        && f.expected == Expected::Captured
        && f.unanswered
        && matches!(f.path, Path::Direct | Path::Lost)
}

#[cfg(test)]
mod tests {
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
}
