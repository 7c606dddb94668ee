//! What was seen of such connections: the edges on the board that match a question.
//!
//! A captured inbound connection is accepted on the proxy's port, and which port was asked for is not seen: those edges
//! match every port of their peer. The proxy's own connections match too, they are the rest of the way; they say nothing
//! about whether the app's are captured.

use std::collections::BTreeSet;

use super::{Ask, By, EdgeRow, Wanted, Way};
use crate::{
    engine::{Board, Leg, PodRow, RulesRow, Verdict},
    model::{Direction, Time},
    rules::Protocol,
};

/// Kinds of connections that are shown.
const MOST: usize = 20;
/// Counts come up to a second late, and readings of rules do as well: what was counted within this time after rules were
/// read first may have met the earlier ones.
const LATE_US: u64 = 2_500_000;

/// Edges that match, latest first. Sidestep sees TCP only.
pub(super) fn matching(board: &Board, pod: &PodRow, ask: &Ask) -> Vec<EdgeRow> {
    if ask.protocol == Protocol::Udp {
        return Vec::new();
    }
    let inbound_port = pod.wants.as_deref().map(|wants| wants.inbound_port);
    let asked = ask.remote.ip().to_canonical();
    let is_asked = |edge: &&EdgeRow| {
        let (key, remote) = (&edge.key, edge.key.remote);
        if is_onward(edge, ask) {
            return edge.pod.as_ref() == Some(&pod.pod);
        }
        let at_port = match ask.direction {
            Direction::Outbound => remote.port() == ask.remote.port(),
            Direction::Inbound => {
                key.local_port == ask.port || Some(key.local_port) == inbound_port
            }
        };
        let by = |id: Option<u32>, of: u32| id.is_none_or(|id| id == of) || !is_apps(edge);
        edge.pod.as_ref() == Some(&pod.pod)
            && key.direction == ask.direction
            && at_port
            && remote.ip().to_canonical() == asked
            && by(ask.uid, key.owner.uid)
            && by(ask.gid, key.owner.gid)
    };
    let found = board.edges.iter().filter(is_asked);
    found.take(MOST).cloned().collect()
}

/// The rest of the way of a connection that came in: from the proxy to the app.
fn is_onward(edge: &EdgeRow, ask: &Ask) -> bool {
    let to_app = edge.leg == Leg::ProxyToApp && edge.key.remote.port() == ask.port;
    ask.direction == Direction::Inbound && to_app
}

/// Connections of the proxy that make up the rest of the way, and got nowhere.
pub(super) fn stranded(observed: &[EdgeRow]) -> impl Iterator<Item = &EdgeRow> {
    observed.iter().filter(|edge| {
        let onward = matches!(edge.leg, Leg::ProxyToUpstream | Leg::ProxyToApp);
        onward && matches!(edge.verdict, Verdict::Failed | Verdict::Stuck { .. })
    })
}

/// Whether it is the app's connection, or one to it, and not the proxy's own.
pub(super) const fn is_apps(edge: &EdgeRow) -> bool {
    match edge.leg {
        Leg::ProxyToUpstream | Leg::ProxyToApp | Leg::ProxyOwn => false,
        Leg::AppToProxy | Leg::PeerToProxy | Leg::DirectOut | Leg::DirectIn | Leg::Local => true,
    }
}

/// Those that met the rules as they are, the proxy's own left out.
pub(super) fn current<'a>(observed: &'a [EdgeRow], rules: Option<&RulesRow>) -> Vec<&'a EdgeRow> {
    let since = rules
        .filter(|row| !row.earlier.is_empty())
        .and_then(|row| row.live.as_ref())
        .map_or(Time(0), |live| live.since.plus_micros(LATE_US));
    let met = |edge: &&EdgeRow| is_apps(edge) && edge.last_seen >= since;
    observed.iter().filter(met).collect()
}

/// Those of the very connection that is asked about: of the same user, and not on the proxy's port where it is not meant
/// to come there.
pub(super) fn told_by<'a>(
    mut current: Vec<&'a EdgeRow>,
    by: Option<&By>,
    ask: &Ask,
    wanted: &Wanted,
) -> Vec<&'a EdgeRow> {
    current.retain(|edge| {
        let owner = edge.key.owner;
        let same = by.is_none_or(|by| (by.uid, by.gid) == (owner.uid, owner.gid));
        let meant = matches!(wanted.way, Way::Captured { .. });
        let here = ask.direction == Direction::Outbound || edge.key.local_port == ask.port;
        same && (here || meant)
    });
    current
}

/// Whether somebody should look at it.
pub(super) const fn is_trouble(edge: &EdgeRow) -> bool {
    matches!(
        edge.verdict,
        Verdict::Bypassed { .. } | Verdict::Stuck { .. }
    )
}

/// Reasons among them, as they stand in codes.
pub(super) fn reasons(edges: &[&EdgeRow]) -> BTreeSet<&'static str> {
    use Verdict::{Bypassed, Excluded};
    let reason = |edge: &&EdgeRow| match edge.verdict {
        Bypassed { reason } | Excluded { reason } => Some(reason.as_str()),
        _ => None,
    };
    edges.iter().filter_map(reason).collect()
}
