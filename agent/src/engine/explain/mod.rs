//! Why a connection went another way than its pod's spec wants, by the rules that were live.
//!
//! The very connection is evaluated under the rules as they are, and where those do not
//! explain it, as they were. What comes out is a reason that can be filed, and the facts a
//! person needs to mend it: the rule that let it go, the chain nothing leads to, who removed
//! the rules and when. Where rules are not known for sure, nothing is explained: the older,
//! weaker signs decide then.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

pub(super) use words::{NOBODY_TAKES, seen, who};
use words::{ago, nobody_takes, one_line, removed_facts, strays};

use super::{
    Reason,
    directory::PodEntry,
    facts::View,
    findings::Case,
    rulebook::{Page, Read},
    sockets::Namespace,
    verdict::Path,
};
use crate::{
    mesh::{Expectation, Intent},
    model::{Arrival, CgroupId, Direction, EdgeKey, Family, NO_ID, NetnsId, Owner, Time},
    rules::{
        self, Backend, Connection, Field, Interface, Outcome, Protocol, Redirector, Ruleset, Step,
    },
};

/// Rules that appear within this time after a connection was counted may be younger than it:
/// counts come up to a second late, and so do readings.
const COUNTED_LATE_US: u64 = 2_500_000;

/// Destinations of a case that are asked about again.
const ASKED_AGAIN: usize = 8;

/// What and why, for people.
type Facts = Vec<(&'static str, String)>;

/// A reason with its facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Explained {
    /// The reason.
    pub(super) reason: Reason,
    /// What and why, for people.
    pub(super) facts: Facts,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) key: &'a EdgeKey,
    pub(super) view: &'a View,
    pub(super) intent: &'a Intent,
    /// Addresses of the pod.
    pub(super) own: &'a [IpAddr],
    /// The interface that has this end's address.
    pub(super) interface: Option<&'a str>,
    /// Sockets that listen in the namespace, if they are known.
    pub(super) ns: Option<&'a Namespace>,
    /// When it was counted.
    pub(super) at: Time,
    /// Since when the pod is known. Numbers of namespaces are used again: what was read before
    /// may be another pod's.
    pub(super) since: Time,
}

impl Question<'_> {
    /// The port of the proxy it should have come to.
    fn port(&self) -> u16 {
        match self.key.direction {
            Direction::Outbound => match self.intent.outbound(self.key.remote, self.own) {
                Expectation::Captured { port } => port,
                Expectation::Exempt { .. } => self.intent.outbound_port,
            },
            Direction::Inbound => self.intent.inbound_port_by(self.interface),
        }
    }

    /// Whether this port is where it should have come to: its own, or that of queries.
    fn is_meant(&self, port: u16) -> bool {
        let dns = self.intent.dns.as_ref().filter(|dns| dns.port == port);
        port == self.port() || dns.is_some() && self.key.remote.port() == 53
    }

    fn connection(&self) -> Connection {
        let mut made = connection(Protocol::Tcp, self.key, self.own, self.interface);
        made.listeners = self.ns.and_then(Namespace::listening);
        made
    }
}

/// What the kernel told of, as rules see it; ids it did not tell are not known. What leaves the
/// pod goes by the interface that has its source's address.
pub(super) fn connection(
    protocol: Protocol,
    key: &EdgeKey,
    own: &[IpAddr],
    interface: Option<&str>,
) -> Connection {
    let mut made = made(protocol, key, own);
    if let (Interface::NotLoopback, Some(name)) = (&made.interface, interface) {
        made.interface = Interface::Named(name.to_owned());
    }
    made
}

fn made(protocol: Protocol, key: &EdgeKey, own: &[IpAddr]) -> Connection {
    let own = Some(own.to_vec());
    let local = SocketAddr::new(key.local, key.local_port);
    match key.direction {
        Direction::Inbound => Connection::inbound(protocol, key.remote, local, own),
        Direction::Outbound => {
            let mut made = Connection::outbound(protocol, local, key.remote, own);
            let known = |id: u32| (id != NO_ID).then_some(id);
            made.uid = known(key.owner.uid);
            made.gid = known(key.owner.gid);
            made
        }
    }
}

/// Whether the rules as they are would have captured a connection. If it was seen not to be,
/// they are not those it met, or something else is wrong.
pub(super) fn would_capture(page: &Page, q: &Question<'_>) -> bool {
    let now = page.read_since(q.since);
    now.is_some_and(|now| captured(&now.rules, &q.connection(), q))
}

/// Explains what a case is about under the rules as they are now, by its commonest connection;
/// `None` if it is about both directions, or the rules are not known.
pub(super) fn again(
    page: &Page,
    intent: &Intent,
    (own, ns): (&[IpAddr], Option<&Namespace>),
    entry: &PodEntry,
    case: &Case,
) -> Option<Explained> {
    let (destination, _) = *case.destinations.most(1).first()?;
    anew(intent, (own, ns), entry, case, destination, |q| {
        explain(page, q)
    })?
}

/// Whether the rules as they are would capture all that a case is about, as far as that is remembered.
pub(super) fn captures_again(
    page: &Page,
    intent: &Intent,
    (own, ns): (&[IpAddr], Option<&Namespace>),
    entry: &PodEntry,
    case: &Case,
) -> bool {
    let captured = |to| {
        anew(intent, (own, ns), entry, case, to, |q| {
            would_capture(page, q)
        })
    };
    let all = case.destinations.most(ASKED_AGAIN);
    !all.is_empty() && all.into_iter().all(|(to, _)| captured(to) == Some(true))
}

/// Asks about a connection of a case as if it were made anew; `None` if the case is about both directions.
fn anew<T>(
    intent: &Intent,
    (own, ns): (&[IpAddr], Option<&Namespace>),
    entry: &PodEntry,
    case: &Case,
    destination: SocketAddr,
    ask: impl FnOnce(&Question<'_>) -> T,
) -> Option<T> {
    let direction = case.direction()?;
    let (uid, gid) = case
        .ids
        .most(1)
        .first()
        .map_or((NO_ID, NO_ID), |(ids, _)| *ids);
    let local = own
        .iter()
        .find(|ip| ip.is_ipv4() == destination.is_ipv4())?;
    let inbound = direction == Direction::Inbound;
    let key = EdgeKey {
        owner: Owner {
            netns: NetnsId(0),
            cgroup: CgroupId(0),
            uid,
            gid,
        },
        direction,
        local: *local,
        local_port: if inbound { destination.port() } else { 0 },
        remote: if inbound {
            SocketAddr::new(destination.ip(), 0)
        } else {
            destination
        },
        arrival: Arrival::Nowhere,
    };
    let view = View::direct(Family::of(destination.ip()));
    Some(ask(&Question {
        key: &key,
        view: &view,
        intent,
        own,
        interface: entry.interface(*local),
        ns,
        at: case.last,
        since: entry.since,
    }))
}

/// Explains a connection that was not captured; `None` where the rules are not known.
pub(super) fn explain(page: &Page, q: &Question<'_>) -> Option<Explained> {
    let now = page
        .read_since(q.since)
        .filter(|now| now.is_known(q.view.family))?;
    let connection = q.connection();
    let path = rules::evaluate(&now.rules, &connection);
    let mut facts = Vec::new();
    let reason = match path.outcome {
        Outcome::Unknown => {
            facts.push(("rules_not_clear", path.because.join("; ")));
            return Some(Explained {
                reason: Reason::Unknown,
                facts,
            });
        }
        Outcome::Redirected { port, .. } if q.is_meant(port) => {
            captured_now(page, now, q, &connection, &mut facts)
        }
        Outcome::Redirected { port, .. } => {
            facts.push((
                "redirected_to",
                format!("port {port}, which is not the proxy's {}", q.port()),
            ));
            two_backends(&now.rules, q, &mut facts).unwrap_or(Reason::RulesPartial)
        }
        Outcome::Direct => direct(
            page,
            now,
            q,
            &connection,
            path.decided_by.as_ref(),
            &mut facts,
        ),
        // It was established: these rules are not the ones it met.
        Outcome::Dropped | Outcome::Rejected => Reason::Unknown,
    };
    if let Some(step) = &path.decided_by {
        facts.push(("rule", step.to_string()));
    }
    if reason == Reason::Unknown {
        facts.push(("evaluation", one_line(&path.explain())));
    }
    Some(Explained { reason, facts })
}

/// The rules would capture it, and it was not: it is older than they are, or nobody knows.
fn captured_now(
    page: &Page,
    now: &Read,
    q: &Question<'_>,
    connection: &Connection,
    facts: &mut Facts,
) -> Reason {
    let before = page.earlier_since(q.since).next();
    let was_there = before.is_some_and(|before| captured(&before.rules, connection, q));
    let seen_to_come = before.is_some() || page.changes > 0;
    let came_after = seen_to_come && q.at.micros_since(now.first) < COUNTED_LATE_US;
    if was_there || !came_after {
        return Reason::Unknown;
    }
    if let (Some(before), Some(was)) = (before, removed(page, q, connection)) {
        // They were there, went away, and came back.
        removed_facts(before, was, q, connection, facts);
        return Reason::RulesRemoved;
    }
    facts.push(("rules_since", ago(q.at, now.first, "counted")));
    Reason::BeforeRules
}

fn direct(
    page: &Page,
    now: &Read,
    q: &Question<'_>,
    connection: &Connection,
    decided_by: Option<&Step>,
    facts: &mut Facts,
) -> Reason {
    if let Some(step) = decided_by
        && let Some(reason) = let_go(&now.rules, step, q)
    {
        return reason;
    }
    if let Some(reason) = two_backends(&now.rules, q, facts) {
        return reason;
    }
    let (direction, family) = (q.key.direction, q.view.family);
    let all = rules::redirectors(&now.rules, direction, family, Protocol::Tcp);
    let ours: Vec<&Redirector> = all.iter().filter(|r| r.sends_to(q.port())).collect();
    if let Some(one) = ours.iter().find(|r| r.reached) {
        nobody_takes(q, one, facts);
        return Reason::RulesPartial;
    }
    if let Some(was) = removed(page, q, connection) {
        removed_facts(now, was, q, connection, facts);
        return Reason::RulesRemoved;
    }
    strays(&now.rules, family, &ours, facts);
    if !ours.is_empty() || all.iter().any(|r| r.reached) {
        return Reason::RulesPartial;
    }
    facts.push(("rules_seen", seen(&now.rules)));
    absent(&now.rules, q)
}

/// Several backends redirect, and not alike: each was written by somebody who did not see the other.
fn two_backends(rules: &Ruleset, q: &Question<'_>, facts: &mut Facts) -> Option<Reason> {
    let all = rules::redirectors(rules, q.key.direction, q.view.family, Protocol::Tcp);
    type Ways = BTreeSet<(Option<(u16, u16)>, bool)>;
    let mut by_backend: BTreeMap<Backend, Ways> = BTreeMap::new();
    for one in &all {
        by_backend
            .entry(one.step.backend)
            .or_default()
            .insert((one.ports, one.reached));
    }
    let first = by_backend.values().next()?;
    if by_backend.values().all(|other| other == first) {
        return None;
    }
    for backend in by_backend.keys() {
        if let Some(one) = all.iter().find(|one| one.step.backend == *backend) {
            facts.push((backend.as_str(), one.step.to_string()));
        }
    }
    Some(Reason::RulesBackend)
}

/// Rules with this purpose are not there at all: what is there instead names the reason.
fn absent(rules: &Ruleset, q: &Question<'_>) -> Reason {
    let has = |direction, family| {
        let port = match direction {
            Direction::Outbound => q.intent.outbound_port,
            Direction::Inbound => q.intent.inbound_port,
        };
        rules::redirectors(rules, direction, family, Protocol::Tcp)
            .iter()
            .any(|r| r.reached && r.sends_to(port))
    };
    let either = |family| has(Direction::Outbound, family) || has(Direction::Inbound, family);
    if q.view.family == Family::Ipv6 && !either(Family::Ipv6) && either(Family::Ipv4) {
        return Reason::Ipv6;
    }
    let other = match q.key.direction {
        Direction::Outbound => Direction::Inbound,
        Direction::Inbound => Direction::Outbound,
    };
    if has(other, q.view.family) {
        Reason::RulesPartial
    } else {
        Reason::NoRules
    }
}

/// A rule let it go by what it asks for.
fn let_go(rules: &Ruleset, step: &Step, q: &Question<'_>) -> Option<Reason> {
    let rule = rules.rule_at(step)?;
    if rule.asks_for(Field::Uid) && Some(q.key.owner.uid) == q.intent.proxy_uid {
        return Some(Reason::ProxyUid);
    }
    if rule.asks_for(Field::Gid) && Some(q.key.owner.gid) == q.intent.proxy_gid {
        return Some(Reason::ProxyGid);
    }
    Some(Reason::RulesPartial)
}

/// The latest rules before these that would have captured it.
fn removed<'a>(page: &'a Page, q: &Question<'_>, connection: &Connection) -> Option<&'a Read> {
    page.earlier_since(q.since)
        .find(|read| captured(&read.rules, connection, q))
}

fn captured(rules: &Ruleset, connection: &Connection, q: &Question<'_>) -> bool {
    let to = rules::evaluate(rules, connection).redirected_to();
    to.is_some_and(|port| q.is_meant(port))
}

/// Whether a connection seen this way is asked about at all.
pub(super) const fn is_asked(view: &View) -> bool {
    use super::verdict::{Expected, Party};
    matches!(view.expected, Expected::Captured)
        && matches!(view.party, Party::App)
        && matches!(view.path, Path::Direct | Path::Elsewhere)
}
