//! Which of a pod's connections hang, at which stage, and which two of them are one path.
//!
//! Pure: the socket table of the namespace against the pod's intent. The app's connection and the
//! proxy's accepted socket are the same connection, by tuple. The accepted socket and what the proxy
//! dialled for it are joined by time: the proxy sent on when it was spoken to. A connection the proxy
//! shares between requests shows no single one, so there nothing is said.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{Leg, Stage, streams::Page};
use crate::{
    mesh::{Expectation, Intent},
    model::{Direction, Stream, StreamState},
};

/// The proxy passes on what it is told within this, if it does at all.
const PASSED_ON_MS: u32 = 1_000;
/// Bytes unread for longer are not about to be read. An event loop that stalls for seconds is
/// broken for everything it serves.
const UNREAD_MS: u64 = 5_000;
/// Whoever is in an accept queue for longer waits.
const QUEUED_MS: u32 = 1_000;

/// Whose socket of the pod it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// On a capture port: the proxy's end of what it accepted, or will.
    Accepted(Direction),
    /// What the proxy dialled: upstream, or its own app.
    Dialled(Direction),
    /// The proxy's own business.
    Own,
    /// Anybody else's.
    App,
}

/// A connection that makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hang {
    pub(super) stage: Stage,
    pub(super) direction: Direction,
    /// Where it was meant to go, as far as that is known.
    pub(super) to: Option<SocketAddr>,
    pub(super) waited_ms: u64,
    /// Bytes that wait: unread, or not acknowledged.
    pub(super) bytes: u32,
    /// Where the app wanted to go, if its own connection was found beside it.
    pub(super) asked: Option<SocketAddr>,
}

/// Everything that hangs in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hangs {
    pub(super) all: Vec<Hang>,
    /// The proxy was asked, and did not dial for it: not a stage, because it may never come to one.
    pub(super) nowhere: Vec<Hang>,
    /// Half-closed connections by the leg they are on: whose end is left open, for how long each.
    pub(super) half_closed: Vec<(Leg, Closer, u64)>,
}

impl Hangs {
    /// How many hang at each stage.
    pub(super) fn by_stage(&self) -> BTreeMap<Stage, u64> {
        let mut by = BTreeMap::new();
        for hang in &self.all {
            *by.entry(hang.stage).or_default() += 1;
        }
        by
    }
}

/// Whose end of a half-closed connection is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closer {
    App,
    Proxy,
}

/// What surrounds the sockets.
struct Place<'a> {
    page: &'a Page,
    intent: &'a Intent,
    /// The pod's own addresses.
    own: &'a [IpAddr],
    /// The app's connections: from where, to where.
    apps: BTreeMap<SocketAddr, SocketAddr>,
    /// The proxy cannot get rid of what it read.
    held_back: bool,
    /// Milliseconds since the proxy last dialled or sent anything on: out, in.
    passed_on: [Option<u32>; 2],
}

/// Looks through the sockets of a namespace whose pod has these addresses of its own.
pub(super) fn hangs(page: &Page, intent: &Intent, own: &[IpAddr]) -> Hangs {
    let place = Place::new(page, intent, own);
    let mut hangs = Hangs::default();
    let mut silent = Vec::new();
    for stream in &place.page.streams {
        let role = place.role(stream);
        if stream.state == StreamState::PeerClosed {
            hangs.half_closed.extend(place.half_closed(stream, role));
        }
        hangs.all.extend(place.handshake(stream, role));
        match role {
            Role::Accepted(direction) if stream.state == StreamState::Open => {
                hangs.all.extend(place.accepted(stream, direction));
            }
            Role::Dialled(direction) if place.is_silent(stream) => {
                silent.push((direction, stream));
            }
            _ => {}
        }
    }
    place.unanswered(&mut hangs, &silent);
    hangs
}

impl<'a> Place<'a> {
    fn new(page: &'a Page, intent: &'a Intent, own: &'a [IpAddr]) -> Self {
        let mut place = Self {
            page,
            intent,
            own,
            apps: BTreeMap::new(),
            held_back: false,
            passed_on: [None; 2],
        };
        for stream in &page.streams {
            match place.role(stream) {
                Role::App => {
                    place.apps.insert(stream.local, stream.remote);
                }
                Role::Dialled(direction) => {
                    let dialling = stream.state == StreamState::Dialling;
                    place.held_back |= dialling || stream.unsent > 0;
                    let ms = match stream.state {
                        StreamState::Open => stream.sent_ms,
                        _ => 0,
                    };
                    let last = &mut place.passed_on[usize::from(direction == Direction::Inbound)];
                    *last = Some(last.map_or(ms, |last| last.min(ms)));
                }
                Role::Accepted(_) | Role::Own => {}
            }
        }
        place
    }

    fn role(&self, stream: &Stream) -> Role {
        let intent = self.intent;
        let of_proxy = intent.proxy_uid == Some(stream.uid);
        let accepts = of_proxy || !stream.held || intent.proxy_uid.is_none();
        match stream.local.port() {
            port if port == intent.outbound_port && accepts => Role::Accepted(Direction::Outbound),
            port if port == intent.inbound_port && accepts => Role::Accepted(Direction::Inbound),
            port if of_proxy && intent.has_port(port) => Role::Own,
            _ if !of_proxy => Role::App,
            _ if self.is_own(stream.remote.ip()) && intent.has_port(stream.remote.port()) => {
                Role::Own
            }
            _ if self.is_own(stream.remote.ip()) => Role::Dialled(Direction::Inbound),
            _ => Role::Dialled(Direction::Outbound),
        }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.own.contains(&ip)
    }

    fn captured(&self, to: SocketAddr) -> bool {
        matches!(
            self.intent.outbound(to, self.own),
            Expectation::Captured { .. }
        )
    }

    /// Where the app wanted to go whose connection the proxy accepted here.
    fn asked(&self, accepted: &Stream) -> Option<SocketAddr> {
        self.apps.get(&accepted.remote).copied()
    }

    fn handshake(&self, stream: &Stream, role: Role) -> Option<Hang> {
        if stream.state != StreamState::Dialling || stream.retransmits == 0 {
            return None;
        }
        let (stage, direction) = match role {
            Role::App if self.captured(stream.remote) => {
                (Stage::HandshakeToProxy, Direction::Outbound)
            }
            Role::Dialled(direction) => (Stage::HandshakeToUpstream, direction),
            _ => return None,
        };
        Some(Hang {
            stage,
            direction,
            to: Some(stream.remote),
            waited_ms: 0,
            bytes: 0,
            asked: None,
        })
    }

    /// Stages that show at the proxy's end of what it accepted.
    fn accepted(&self, stream: &Stream, direction: Direction) -> Option<Hang> {
        let unread_ms = self.page.unread_ms(stream);
        let (stage, waited_ms, bytes) = if !stream.held {
            (stream.idle_ms() >= QUEUED_MS).then_some((
                Stage::ProxyAcceptQueue,
                u64::from(stream.idle_ms()),
                stream.unread,
            ))?
        } else if stream.unread > 0 && unread_ms >= UNREAD_MS && !self.held_back {
            // A proxy that cannot get rid of what it read does not read on: upstream is to blame.
            (Stage::ProxyNotReading, unread_ms, stream.unread)
        } else if stream.unsent > 0 && stream.idle_ms() >= self.page.silent_ms() {
            (
                Stage::ReturnPath,
                u64::from(stream.idle_ms()),
                stream.unsent,
            )
        } else {
            return None;
        };
        Some(Hang {
            stage,
            direction,
            to: self.asked(stream),
            waited_ms,
            bytes,
            asked: None,
        })
    }

    /// What the proxy dialled was sent something, and nothing has come back since.
    fn is_silent(&self, stream: &Stream) -> bool {
        let spoke_last = stream.sent > 0 && stream.sent_ms < stream.received_ms;
        stream.state == StreamState::Open
            && stream.held
            && (stream.is_unanswered() || spoke_last)
            && stream.sent_ms >= self.page.silent_ms()
    }

    /// Requests the proxy read and did not answer, each with what was dialled for it, if anything.
    fn unanswered(&self, hangs: &mut Hangs, silent: &[(Direction, &Stream)]) {
        let mut free: Vec<_> = silent.to_vec();
        let mut alone = Vec::new();
        for stream in &self.page.streams {
            let Role::Accepted(direction) = self.role(stream) else {
                continue;
            };
            let waits = stream.state == StreamState::Open
                && stream.held
                && stream.has_not_answered()
                && stream.unread == 0
                && stream.received_ms >= self.page.silent_ms().saturating_sub(PASSED_ON_MS);
            if !waits {
                continue;
            }
            let asked = self.asked(stream);
            match take_nearest(&mut free, direction, stream, asked) {
                Some(dialled) => hangs.all.push(upstream(direction, dialled, asked)),
                None => alone.push((direction, stream, asked)),
            }
        }
        for (direction, dialled) in free {
            // Without a request beside it, whoever spoke last may well be done.
            if dialled.is_unanswered() {
                hangs.all.push(upstream(direction, dialled, None));
            }
        }
        for (direction, stream, asked) in alone {
            if self.page.left == 0 && !self.dialled_since(direction, stream.received_ms) {
                hangs.nowhere.push(Hang {
                    stage: Stage::UpstreamSilent,
                    direction,
                    to: asked,
                    waited_ms: u64::from(stream.received_ms),
                    bytes: 0,
                    asked,
                });
            }
        }
    }

    /// Whether anything the proxy dialled in this direction may be for a request of that age.
    fn dialled_since(&self, direction: Direction, ms: u32) -> bool {
        let last = self.passed_on[usize::from(direction == Direction::Inbound)];
        last.is_some_and(|last| last <= ms.saturating_add(PASSED_ON_MS))
    }

    /// The end that is still open of a connection whose other end was closed.
    fn half_closed(&self, stream: &Stream, role: Role) -> Option<(Leg, Closer, u64)> {
        // A request may be ended before its answer.
        if !stream.held || stream.sent == 0 {
            return None;
        }
        let (leg, closer) = match role {
            Role::Accepted(Direction::Outbound) => (Leg::AppToProxy, Closer::Proxy),
            Role::Accepted(Direction::Inbound) => (Leg::PeerToProxy, Closer::Proxy),
            Role::Dialled(Direction::Outbound) => (Leg::ProxyToUpstream, Closer::Proxy),
            Role::Dialled(Direction::Inbound) => (Leg::ProxyToApp, Closer::Proxy),
            Role::App if self.captured(stream.remote) => (Leg::AppToProxy, Closer::App),
            Role::App if self.intent.inbound_bind.contains(&stream.remote.ip()) => {
                (Leg::ProxyToApp, Closer::App)
            }
            Role::App | Role::Own => return None,
        };
        Some((leg, closer, self.page.closed_ms(stream)?))
    }
}

/// Takes what was dialled when the accepted connection was last spoken to; to where it wanted to
/// go, if that is there.
fn take_nearest<'a>(
    free: &mut Vec<(Direction, &'a Stream)>,
    direction: Direction,
    accepted: &Stream,
    asked: Option<SocketAddr>,
) -> Option<&'a Stream> {
    let apart = |s: &Stream| s.sent_ms.abs_diff(accepted.received_ms);
    let (at, _) = free
        .iter()
        .enumerate()
        .filter(|(_, (d, s))| *d == direction && apart(s) <= PASSED_ON_MS)
        .min_by_key(|(_, (_, s))| (asked != Some(s.remote), apart(s), s.cookie))?;
    Some(free.remove(at).1)
}

fn upstream(direction: Direction, dialled: &Stream, asked: Option<SocketAddr>) -> Hang {
    Hang {
        stage: Stage::UpstreamSilent,
        direction,
        to: Some(dialled.remote),
        waited_ms: u64::from(dialled.sent_ms),
        bytes: dialled.unsent,
        asked,
    }
}
