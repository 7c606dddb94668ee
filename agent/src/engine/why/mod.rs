//! Why one connection of a pod goes the way it goes: what is wanted, what the rules do, what was seen.
//!
//! A pure function of the board, so that it answers from the same picture as every other page and can be tested by hand-made
//! boards. It asks the same intent and the same evaluation as the verdicts do; it must never be more certain than they are:
//! rules that could not be read are *not known*, and an earlier observation says nothing about later rules.

mod conclude;
mod live;
mod observed;
mod wanted;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Board, Code, EdgeRow, Finding, LiveRules, PodRow, RulesChange, RulesRow};
use crate::{
    model::{Direction, Family, NO_ID, PodKey, Time},
    rules::{Connection, Path, Protocol},
};

/// User and group of a process where nothing tells: no mesh's own.
const ORDINARY: u32 = 1_000;

/// One connection, as a person asks about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Made by the pod, or to it.
    pub direction: Direction,
    /// Outbound: where to. Inbound: the peer, port 0 for any.
    pub remote: SocketAddr,
    /// Inbound: the pod's port that is asked for. Outbound: 0.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Outbound: user of the socket, where it is given.
    pub uid: Option<u32>,
    /// Outbound: group of the socket, where it is given.
    pub gid: Option<u32>,
}

/// Where an answer's user and group come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerSource {
    /// The question.
    Given,
    /// The latest such connection.
    Seen,
    /// Nothing tells: ids that are not the proxy's.
    Assumed,
}

/// Who makes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// User of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// What says so; where one of the two is assumed: assumed, unless the other is given.
    pub from: OwnerSource,
}

/// What the pod's spec wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "way")]
pub enum Way {
    /// By the proxy.
    Captured {
        /// The port that captures it.
        port: u16,
    },
    /// Past the proxy.
    Direct,
    /// The pod is in no mesh.
    NoMesh,
    /// The spec leaves it open.
    Unclear,
}

/// What the pod's spec wants, and what in it says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Mesh profile.
    pub mesh: Option<String>,
    /// Where the spec was read: `manifest` or `listeners`.
    pub read_from: Option<String>,
    /// The way.
    #[serde(flatten)]
    pub way: Way,
    /// The annotations, arguments and defaults that say so, one each.
    pub because: Vec<String>,
}

/// How much of the rules is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// All that matter for this connection.
    Fully,
    /// Some could not be read.
    Partly,
    /// None were read.
    NotRead,
}

/// What the live rules do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// How much of the rules is known.
    pub known: Known,
    /// Why not all of it, one each.
    pub unread: Vec<String>,
    /// When they were read last.
    pub read: Option<Time>,
    /// Since when they are as they are, as far as the agent looked.
    pub since: Option<Time>,
    /// The last change the kernel told.
    pub changed: Option<RulesChange>,
    /// They were read before and were different.
    pub differed: bool,
    /// Where it goes, and by which rules.
    pub path: Option<Path>,
    /// Where it is not sent to the proxy: what is there and does not work.
    pub missing: Vec<String>,
    /// Earlier rules that did otherwise, and until when.
    pub before: Option<Before>,
}

/// What earlier rules did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// When they ended.
    pub until: Time,
    /// Where they sent it.
    pub path: Path,
}

/// Whether what is wanted, what the rules do and what was seen agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// They do, as far as something was seen.
    Agree,
    /// They do not.
    Disagree,
    /// Something is not known that could change the answer.
    Unclear,
}

/// The answer in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conclusion {
    /// Whether all agree.
    pub agreement: Agreement,
    /// The same, for people.
    pub sentence: String,
    /// Open findings about such connections.
    pub findings: Vec<Finding>,
    /// Codes of open findings of the pod about others.
    pub other_findings: Vec<Code>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The pod.
    pub pod: PodKey,
    /// The question.
    pub ask: Ask,
    /// Outbound: who makes it.
    pub by: Option<By>,
    /// What is wanted.
    pub wanted: Wanted,
    /// What the live rules do.
    pub live: Live,
    /// What was seen, latest first.
    pub observed: Vec<EdgeRow>,
    /// Whether they agree.
    pub conclusion: Conclusion,
}

/// Answers about a pod of the board.
#[must_use]
pub fn why(board: &Board, pod: &PodRow, ask: &Ask) -> Why {
    let rules = board.rules.iter().find(|row| row.pod == pod.pod);
    let observed = observed::matching(board, pod, ask);
    let current = observed::current(&observed, rules);
    let by = by(pod, ask, &current);
    let wanted = wanted::wanted(pod, ask, by.as_ref(), &observed);
    let connection = connection(pod, ask, by.as_ref());
    let live = live::live(rules, pod, &wanted, &connection);
    let conclusion = conclude::conclude(&conclude::Case {
        board,
        pod,
        ask,
        wanted: &wanted,
        live: &live,
        current: observed::told_by(current, by.as_ref(), ask, &wanted),
        stranded: observed::stranded(&observed).collect(),
    });
    Why {
        pod: pod.pod.clone(),
        ask: *ask,
        by,
        wanted,
        live,
        observed,
        conclusion,
    }
}

/// Who makes it: as asked, as seen (those in trouble first), or somebody who is not the proxy.
fn by(pod: &PodRow, ask: &Ask, current: &[&EdgeRow]) -> Option<By> {
    if ask.direction == Direction::Inbound {
        return None;
    }
    let known = |edge: &&&EdgeRow| {
        let owner = edge.key.owner;
        owner.uid != NO_ID && owner.gid != NO_ID
    };
    let mut known = current.iter().filter(known);
    let trouble = known.clone().find(|edge| observed::is_trouble(edge));
    let seen = trouble.or_else(|| known.next()).map(|edge| edge.key.owner);
    let wants = pod.wants.as_deref();
    let ordinary = |proxys: Option<u32>| ORDINARY + u32::from(proxys == Some(ORDINARY));
    let assumed_uid = ordinary(wants.and_then(|wants| wants.proxy_uid));
    let assumed_gid = ordinary(wants.and_then(|wants| wants.proxy_gid));
    let from = match (ask.uid, ask.gid, seen) {
        (None, None, None) => OwnerSource::Assumed,
        (None, None, Some(_)) => OwnerSource::Seen,
        _ => OwnerSource::Given,
    };
    Some(By {
        uid: ask.uid.or(seen.map(|o| o.uid)).unwrap_or(assumed_uid),
        gid: ask.gid.or(seen.map(|o| o.gid)).unwrap_or(assumed_gid),
        from,
    })
}

fn connection(pod: &PodRow, ask: &Ask, by: Option<&By>) -> Connection {
    let family = Family::of(ask.remote.ip().to_canonical());
    let local = pod
        .ips
        .iter()
        .map(IpAddr::to_canonical)
        .find(|ip| Family::of(*ip) == family)
        .unwrap_or(match family {
            Family::Ipv4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        });
    let local = SocketAddr::new(local, ask.port);
    let own = (!pod.ips.is_empty()).then(|| pod.ips.clone());
    match ask.direction {
        Direction::Inbound => Connection::inbound(ask.protocol, ask.remote, local, own),
        Direction::Outbound => {
            let made = Connection::outbound(ask.protocol, local, ask.remote, own);
            match by {
                Some(by) => made.owned_by(by.uid, by.gid),
                None => made,
            }
        }
    }
}

pub(super) use live::in_words as live_in_words;

#[cfg(test)]
mod tests;
