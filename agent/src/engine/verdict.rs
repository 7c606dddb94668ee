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
        Path::Elsewhere if unanswered_redirect(f) => Leg::AppToProxy,
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
    if f.direction == Direction::Outbound && (unanswered_redirect(f) || refused_by_nobody(f)) {
        Verdict::Stuck {
            stage: Stage::HandshakeToProxy,
        }
    } else {
        Verdict::Failed
    }
}

/// Redirected, to the proxy or to a wrong port, and not answered there.
fn unanswered_redirect(f: &Facts) -> bool {
    let no_answer = matches!(
        f.outcome,
        Outcome::Refused | Outcome::TimedOut | Outcome::Aborted
    );
    let redirected = match f.path {
        Path::Capture | Path::Waiting => true,
        Path::Elsewhere => f.expected == Expected::Captured,
        Path::Own | Path::Direct | Path::Lost => false,
    };
    redirected && no_answer
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
mod tests;
