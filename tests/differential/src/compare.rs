//! A case: installed, read back, evaluated, dialed, compared.
//!
//! The rules are read by the programs the agent uses, so that what is compared is what a node would see. It must never
//! take "unknown" for a right answer without counting it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sidestep::{
    model,
    rules::{self, Backend, Connection, Interface, IpSets, Outcome, Path, Protocol, Ruleset},
};

use crate::{
    dial::{Seen, dial},
    grammar::{Case, Dial, Dialect, Family, SERVICES, Side, destinations},
    native, save,
    world::{Place, World, listeners, source},
};

/// Below the ports that the kernel gives, above all that rules name.
const SOURCES: std::ops::Range<u16> = 20_001..32_000;

/// What was compared so far; shrinking does not count.
#[derive(Debug, Default)]
pub(crate) struct Count {
    all: Cell<u64>,
    unknown: Cell<u64>,
    refused: Cell<u64>,
    unsteady: Cell<u64>,
    mute: Cell<u64>,
    failed: Cell<bool>,
    port: Cell<u16>,
    outcomes: RefCell<BTreeMap<&'static str, u64>>,
}

impl Count {
    pub(crate) fn all(&self) -> u64 {
        self.all.get()
    }

    pub(crate) fn unknown(&self) -> u64 {
        self.unknown.get()
    }

    /// Connections that were made as evaluated, and whose end said nothing.
    pub(crate) fn muted(&self) -> u64 {
        self.mute.get()
    }

    fn mute(&self) {
        self.mute.set(self.mute.get() + 1);
    }

    /// Connections that came out as evaluated only when they were made once more.
    pub(crate) fn unsteady(&self) -> u64 {
        self.unsteady.get()
    }

    /// Rule sets that the tools would not install.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.outcomes.borrow().clone()
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    pub(crate) fn fail(&self) {
        self.failed.set(true);
    }

    /// A source port that was not used for thousands of connections.
    fn next_port(&self) -> u16 {
        let port = self.port.get();
        let next = if SOURCES.contains(&port) {
            port
        } else {
            SOURCES.start
        };
        self.port.set(next + 1);
        next
    }

    fn add(&self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Redirected { .. } => "redirected",
            Outcome::Direct => "direct",
            Outcome::Dropped => "dropped",
            Outcome::Rejected => "rejected",
            Outcome::Unknown => "unknown",
        };
        *self.outcomes.borrow_mut().entry(name).or_default() += 1;
        self.all.set(self.all.get() + 1);
        if outcome == Outcome::Unknown {
            self.unknown.set(self.unknown.get() + 1);
        }
    }
}

/// Waits until every destination answers without any rules: IPv6 needs a second after the cable is plugged in.
pub(crate) fn warm_up(world: &World) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    for (place, side) in [(Place::Pod, Side::Outbound), (Place::Peer, Side::Inbound)] {
        for to in [Family::Four, Family::Six]
            .map(|f| destinations(f, side))
            .concat()
        {
            let to = SocketAddr::new(to, SERVICES[0]);
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let any = SocketAddr::new(any, 0);
            let answers = || world.within(place, || dial(to, any, 0, 0));
            while !matches!(answers()?, Seen::Reached(..)) {
                ensure!(
                    Instant::now() < end,
                    "{to} does not answer, without any rules"
                );
            }
        }
    }
    Ok(())
}

/// Compares every connection of a case.
pub(crate) fn case(world: &World, case: &Case, count: &Count) -> Result<()> {
    world.clear(case.dialect, case.family)?;
    let text = match case.dialect {
        Dialect::Native => native::text(&case.rules, case.family, case.side),
        Dialect::Legacy | Dialect::Nft => save::text(&case.rules, case.family, case.side),
    };
    if let Err(error) = world.install(case.dialect, case.family, &text) {
        bail!("the tool does not take the rules: {error:#}");
    }
    let printed = world.read(case.dialect, case.family)?;
    let mut rules = Ruleset::default();
    let family = match case.family {
        Family::Four => model::Family::Ipv4,
        Family::Six => model::Family::Ipv6,
    };
    let sets = match case.dialect {
        Dialect::Legacy | Dialect::Nft if IpSets::asks(&printed) => world.sets()?,
        _ => String::new(),
    };
    let mut sets = IpSets::read(&sets, &[&printed]);
    let mut saved = |backend, rules: &mut Ruleset| {
        rules::parse_save_with(&printed, backend, family, &mut sets, rules);
    };
    match case.dialect {
        Dialect::Legacy => saved(Backend::Legacy, &mut rules),
        Dialect::Nft => saved(Backend::Nft, &mut rules),
        Dialect::Native => rules::parse_nft(&printed, &mut rules)?,
    }
    // Only these tell a connection's first packet from its later ones, of which nothing is claimed. As iptables prints
    // them, and as nft does in JSON.
    let later = ["ctstate", "\"key\": \"state\"", "-m socket", "\"socket\""];
    let by_state = later.iter().any(|word| printed.contains(word));
    let result = case
        .dials
        .iter()
        .try_for_each(|one| compare(world, case, one, &rules, count, by_state));
    // The next case may be of another dialect, and would meet these rules too.
    let cleared = world.clear(case.dialect, case.family);
    result.with_context(|| format!("with these rules, as read:\n{printed}"))?;
    cleared
}

fn compare(
    world: &World,
    case: &Case,
    dial_: &Dial,
    rules: &Ruleset,
    count: &Count,
    by_state: bool,
) -> Result<()> {
    let place = match case.side {
        Side::Outbound => Place::Pod,
        Side::Inbound => Place::Peer,
    };
    let to = *destinations(case.family, case.side)
        .get(dial_.to)
        .context("no destination")?;
    let own = own_addresses();
    let local = to.is_loopback() || own.contains(&to);
    let bound = dial_.from_bind && local && case.side == Side::Outbound;
    let from = source(place, to, bound);
    let to = SocketAddr::new(to, dial_.port);
    let connection = connection(case.side, from, to, dial_, own, local);
    let path = rules::evaluate(rules, &connection);
    if !count.failed() {
        count.add(path.outcome);
    }
    let Some(expected) = expected(&path, case.side, local, dial_.port) else {
        return Ok(());
    };
    let once = || {
        let from = SocketAddr::new(from, count.next_port());
        world.within(place, || dial(to, from, dial_.uid, dial_.gid))
    };
    let mut seen = once()?;
    if seen == Seen::Mute && by_state && matches!(expected, Seen::Reached(..)) {
        count.mute();
        return Ok(());
    }
    // Rules decide the same again; a starved machine does not.
    if seen != expected {
        let first = std::mem::replace(&mut seen, once()?);
        if seen == expected && !count.failed() {
            eprintln!("only once: {connection:?}: {first:?}, then as evaluated: {expected:?}");
            count.unsteady.set(count.unsteady.get() + 1);
        }
    }
    if seen == expected {
        return Ok(());
    }
    bail!(
        "{connection:?}\nevaluated: {expected:?}\n{}kernel: {seen:?}",
        path.explain()
    )
}

fn connection(
    side: Side,
    from: IpAddr,
    to: SocketAddr,
    dial: &Dial,
    own: Vec<IpAddr>,
    local: bool,
) -> Connection {
    // The port is chosen by the kernel: not known.
    let from = SocketAddr::new(from, 0);
    match side {
        Side::Outbound => {
            let mut connection = Connection::outbound(Protocol::Tcp, from, to, Some(own))
                .owned_by(dial.uid, dial.gid);
            let name = if local { "lo" } else { "eth0" };
            connection.interface = Interface::Named(name.to_owned());
            connection
        }
        Side::Inbound => {
            let mut connection = Connection::inbound(Protocol::Tcp, from, to, Some(own));
            connection.listeners = Some(listeners());
            connection.interface = Interface::Named("eth0".to_owned());
            connection
        }
    }
}

fn own_addresses() -> Vec<IpAddr> {
    ["10.97.0.1", "fd97::1", "::6"]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// What the kernel must do if the evaluation is right; `None` if it says that it does not know.
fn expected(path: &Path, side: Side, local: bool, port: u16) -> Option<Seen> {
    Some(match path.outcome {
        Outcome::Redirected { port, .. } => Seen::Reached(Place::Pod, port),
        Outcome::Direct if local || side == Side::Inbound => Seen::Reached(Place::Pod, port),
        Outcome::Direct => Seen::Reached(Place::Peer, port),
        Outcome::Dropped => Seen::Silent,
        Outcome::Rejected => Seen::Refused,
        Outcome::Unknown => return None,
    })
}
