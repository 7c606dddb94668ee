//! One way through the hooks, and the ways that were left to be walked.
//!
//! A way is a small value that can be copied: dividing it at a condition that nobody can know costs one copy. What happens
//! inside a chain is in `steps`; here is what the kernel does between the chains and between the hooks.

use super::super::{
    connection::{Connection, Interface},
    path::{Outcome, Path, Redirection, Step},
    ruleset::{ChainKind, Hook, Ruleset, shorten},
};
use super::order::{Called, ChainAt, called, is_tied};
use super::packet::{Packet, Tracking};
use super::trail::{At, Trail};
use crate::model::Direction;

/// Ways that are walked of one connection.
const MAX_WAYS: usize = 64;

/// The end of one way.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) trail: Trail,
}

/// All ways of one connection.
pub(super) struct Walk<'a> {
    pub(super) rules: &'a Ruleset,
    hooks: Vec<(Hook, Vec<Called>)>,
    ways: Vec<Way<'a>>,
    started: usize,
    pub(super) looks: usize,
    pub(super) exhausted: bool,
    /// Whatever any way found that it could not know.
    because: Vec<String>,
}

/// One way, where it is now.
#[derive(Clone)]
pub(super) struct Way<'a> {
    pub(super) packet: Packet<'a>,
    /// Place in [`Walk::hooks`].
    pub(super) hook: usize,
    /// The next base chain of the hook.
    next: usize,
    pub(super) base: Option<Called>,
    pub(super) stack: Vec<Frame>,
    pub(super) trail: Trail,
    /// Answer to the question whether the connection comes in again by `lo`, once it was asked.
    returns: Option<bool>,
}

/// A chain that is being walked.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) at: ChainAt,
    pub(super) rule: usize,
    pub(super) statement: usize,
    pub(super) case: usize,
}

/// What a rule does to the way.
pub(super) enum Turn {
    On,
    End(Outcome),
}

impl<'a> Walk<'a> {
    pub(super) fn new(rules: &'a Ruleset, connection: &'a Connection, reversed: bool) -> Self {
        let mut packet = Packet::new(connection);
        let order: &[Hook] = match connection.direction {
            Direction::Outbound => {
                packet.goes_out = Some(connection.interface.clone());
                packet.has_socket = true;
                &[
                    Hook::Output,
                    Hook::Postrouting,
                    Hook::Prerouting,
                    Hook::Input,
                ]
            }
            Direction::Inbound => {
                packet.came_in = Some(connection.interface.clone());
                if connection.leaves_by.is_some() {
                    &[Hook::Prerouting, Hook::Forward, Hook::Postrouting]
                } else {
                    &[Hook::Prerouting, Hook::Input]
                }
            }
        };
        let family = connection.family();
        let hooks = (order.iter())
            .map(|&hook| (hook, called(rules, family, hook, reversed)))
            .collect();
        let way = Way {
            packet,
            hook: 0,
            next: 0,
            base: None,
            stack: Vec::new(),
            trail: Trail::default(),
            returns: None,
        };
        Self {
            rules,
            hooks,
            ways: vec![way],
            started: 1,
            looks: 0,
            exhausted: false,
            because: Vec::new(),
        }
    }

    /// Whether the order of chains of some hook is not certain.
    pub(super) fn is_tied(&self) -> bool {
        self.hooks.iter().any(|(_, chains)| is_tied(chains))
    }

    /// Whether a bound was reached.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Walks the next way to its end.
    pub(super) fn next_end(&mut self) -> Option<End> {
        let mut way = self.ways.pop()?;
        loop {
            if let Turn::End(outcome) = self.turn(&mut way) {
                let trail = way.trail;
                return Some(End { outcome, trail });
            }
        }
    }

    fn turn(&mut self, way: &mut Way<'a>) -> Turn {
        match way.stack.last().copied() {
            Some(frame) => self.chain(way, frame),
            None => self.next_base(way),
        }
    }

    /// The next base chain, the next hook, or the end.
    fn next_base(&mut self, way: &mut Way<'a>) -> Turn {
        let Some((hook, chains)) = self.hooks.get(way.hook) else {
            return Turn::End(outcome(&way.packet));
        };
        let hook = *hook;
        let Some(called) = chains.get(way.next).copied() else {
            return self.leave_hook(way, hook);
        };
        way.next += 1;
        if called.tracked && way.packet.tracking == Tracking::Before {
            way.packet.tracking = Tracking::Tracked;
        }
        if called.kind == ChainKind::Nat && way.is_translated(hook) {
            return Turn::On;
        }
        way.base = Some(called);
        way.stack.push(Frame::at(called.at));
        Turn::On
    }

    fn leave_hook(&mut self, way: &mut Way<'a>, hook: Hook) -> Turn {
        match hook {
            Hook::Output => {
                way.packet.destination_done = true;
                if way.packet.is_redirected {
                    way.packet.goes_out = Some(way.packet.way_out());
                }
            }
            Hook::Postrouting => {
                way.packet.source_done = true;
                if way.packet.connection.leaves_by.is_some() {
                    return Turn::End(outcome(&way.packet));
                }
                let Some(returns) = self.comes_in_again(way) else {
                    return Turn::On;
                };
                if !returns {
                    return Turn::End(outcome(&way.packet));
                }
                way.packet.goes_out = None;
                way.packet.has_socket = false;
                way.packet.came_in = Some(Interface::Named("lo".to_owned()));
            }
            Hook::Prerouting if way.packet.connection.leaves_by.is_some() => {
                way.packet.destination_done = true;
                if way.packet.is_redirected && way.packet.is_local() != Some(false) {
                    return Turn::End(outcome(&way.packet));
                }
                // Routed by where it goes now, which is not where the caller asked about.
                way.packet.goes_out = if way.packet.is_redirected {
                    Some(way.packet.way_out())
                } else {
                    way.packet.connection.leaves_by.clone()
                };
            }
            Hook::Prerouting => {
                way.packet.destination_done = true;
                let elsewhere = way.packet.is_redirected && way.packet.is_local() == Some(false);
                if elsewhere {
                    return Turn::End(outcome(&way.packet));
                }
            }
            Hook::Input | Hook::Forward => {}
        }
        if way.packet.tracking == Tracking::Before {
            way.packet.tracking = Tracking::Tracked;
        }
        way.hook += 1;
        way.next = 0;
        Turn::On
    }

    /// Whether a connection of this namespace is to this namespace; `None` if the way was divided over it.
    fn comes_in_again(&mut self, way: &mut Way<'a>) -> Option<bool> {
        if let Some(returns) = way.returns {
            return Some(returns);
        }
        let interface = match &way.packet.goes_out {
            Some(Interface::Named(name)) => Some(name == "lo"),
            Some(Interface::NotLoopback) => Some(false),
            Some(Interface::Unknown) | None => None,
        };
        let known = match way.packet.is_redirected {
            true => way.packet.is_local(),
            false => interface.or_else(|| way.packet.is_local()),
        };
        let nothing_to_ask = (self.hooks[way.hook + 1..].iter()).all(|(_, all)| all.is_empty());
        if known.is_some() || nothing_to_ask {
            way.returns = Some(known.unwrap_or(false));
            return way.returns;
        }
        self.because("the addresses of the namespace are not known");
        let mut other = way.clone();
        other.returns = Some(true);
        self.divide(other);
        way.returns = Some(false);
        way.returns
    }

    /// The hook a way is at.
    pub(super) fn hook_of(&self, way: &Way<'_>) -> Hook {
        self.hooks
            .get(way.hook)
            .map_or(Hook::Output, |(hook, _)| *hook)
    }

    pub(super) fn because(&mut self, what: impl Into<String>) {
        let what = shorten(&what.into());
        if self.because.len() < MAX_WAYS && !self.because.contains(&what) {
            self.because.push(what);
        }
    }

    pub(super) fn divide(&mut self, way: Way<'a>) {
        if self.started >= MAX_WAYS {
            self.exhausted = true;
            return;
        }
        self.started += 1;
        self.ways.push(way);
    }

    /// The answer for people.
    pub(super) fn path(&self, end: Option<&End>, outcome: Outcome) -> Path {
        let step = |at: &At| at.step(self.rules);
        let trail: Vec<Step> = end.map_or_else(Vec::new, |end| {
            end.trail.steps.iter().filter_map(step).collect()
        });
        let decided = end.and_then(|end| end.trail.decided_by(outcome));
        Path {
            outcome,
            decided_by: decided.as_ref().and_then(step),
            trail,
            because: if outcome == Outcome::Unknown {
                self.because.clone()
            } else {
                Vec::new()
            },
        }
    }
}

impl Frame {
    pub(super) const fn at(at: ChainAt) -> Self {
        Self {
            at,
            rule: 0,
            statement: 0,
            case: 0,
        }
    }
}

impl Way<'_> {
    const fn is_translated(&self, hook: Hook) -> bool {
        if matches!(self.packet.tracking, Tracking::Untracked) {
            return true;
        }
        match hook {
            Hook::Prerouting | Hook::Output | Hook::Forward => self.packet.destination_done,
            Hook::Input | Hook::Postrouting => self.packet.source_done,
        }
    }
}

/// Where the packet is when nothing stopped it.
fn outcome(packet: &Packet<'_>) -> Outcome {
    if let Some((address, port)) = packet.tproxy {
        return Outcome::Redirected {
            by: Redirection::Tproxy,
            address,
            port,
        };
    }
    if packet.is_redirected {
        return Outcome::Redirected {
            by: Redirection::Nat,
            address: packet.destination,
            port: packet.port,
        };
    }
    Outcome::Direct
}
