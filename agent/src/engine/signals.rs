//! What the engine makes of a ring buffer record.
//!
//! Records come before the counts they belong to and may be lost, so they never count
//! connections; they name processes, tell who listens, and speak for a suspicion early.

use std::net::SocketAddr;

use super::{
    blame::Lost,
    diagnose,
    directory::Who,
    edges::Comm,
    facts,
    machine::Engine,
    rulebook::RulesChange,
    verdict::{Expected, Party, Path},
};
use crate::model::{
    Arrival, Direction, EdgeKey, Family, Listener, NetnsId, Owner, Process, Signal,
};

impl Engine {
    pub(super) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::FirstSeen { key, process } => self.names(&key, &process),
            Signal::Reset { key, port } => self.reset_by_peer(&key, port),
            Signal::Closed { key, n } => self.closed_by_peer(&key, n),
            Signal::SynAckResent { owner, local, peer } => {
                self.syn_ack_resent(&owner, local.ip(), peer.ip());
            }
            Signal::Failed { .. } | Signal::Stalled { .. } => self.not_established(&signal),
            Signal::NoListener {
                netns,
                port,
                local,
                peer,
            } => {
                self.no_listener(netns, port, SocketAddr::new(local, port), peer);
            }
            Signal::InboundRedirect { netns, to, .. } => {
                self.known.sockets.redirects(self.now, netns, to);
            }
            Signal::Listening {
                owner,
                listener,
                process,
            } => {
                self.listening(&owner, listener, process);
            }
            Signal::ListeningEnded { netns, listener } => {
                self.known.sockets.ended(netns, &listener);
                self.findings.touched = true;
            }
            Signal::RulesChanged {
                netns,
                at,
                backend,
                family,
                uid,
                process,
            } => self.known.rulebook.changed(
                netns,
                RulesChange {
                    at,
                    backend,
                    family,
                    uid,
                    process,
                },
            ),
        }
    }

    /// A connection failed, or hangs.
    fn not_established(&mut self, signal: &Signal) {
        let (key, process, lost) = match signal {
            Signal::Failed {
                key,
                refused_at: Some(port),
                process,
                ..
            } => {
                self.names(key, process);
                self.met_nobody(key, *port, process);
                return;
            }
            Signal::Failed {
                key,
                outcome,
                process,
                after_us,
                retransmits,
                ..
            } => (key, process, (Some(*outcome), *retransmits, *after_us)),
            Signal::Stalled {
                key,
                process,
                retransmits,
            } => (key, process, (None, *retransmits, 0)),
            _ => return,
        };
        self.names(key, process);
        let (outcome, resent, after_us) = lost;
        if outcome.is_none() {
            self.stalled(key);
        }
        self.lost(&Lost {
            key,
            process,
            outcome,
            resent,
            after_us,
        });
    }

    fn names(&mut self, key: &EdgeKey, process: &Process) {
        let now = self.now;
        if let Some(comm) = Comm::of(process)
            && let Some(edge) = self.edges.touch(now, key)
        {
            edge.process = Some(comm);
        }
    }

    /// A SYN of this connection met no listener in its own namespace.
    fn met_nobody(&mut self, key: &EdgeKey, port: u16, process: &Process) {
        let family = Family::of(key.remote.ip());
        self.known
            .sockets
            .nobody_listens(self.now, key.owner.netns, port, family);
        let Who::Pod { pod, container, .. } = self.known.directory.who(&key.owner) else {
            return;
        };
        let own = self.known.directory.own_addresses(pod);
        let Some(entry) = self.known.directory.pod(pod) else {
            return;
        };
        let view = facts::look(key, entry, container, &own);
        let redirected = matches!(view.path, Path::Capture | Path::Waiting | Path::Elsewhere);
        // Asked for that very port by itself: nothing was redirected.
        let asked = key.remote.port() == port;
        if view.party != Party::App || view.expected != Expected::Captured || !redirected || asked {
            return;
        }
        // To a port the mesh never had: the rules are to blame, and the edge, which waits for
        // them, will say so.
        let intent = entry.intent.as_ref();
        let foreign = intent.is_some_and(|intent| !intent.has_port(port));
        if foreign && self.known.rulebook.readable {
            return;
        }
        let process = Comm::of(process);
        let sample = diagnose::signal_sample(Direction::Outbound, key.remote, process, 0);
        let ns = entry.netns.and_then(|n| self.known.sockets.of(n));
        if entry.intent.is_some() {
            let case = (pod, diagnose::nobody(self.now, entry));
            diagnose::signalled_refusal(self.now, case, ns, port, &sample, &mut self.findings);
        }
    }

    fn no_listener(&mut self, netns: NetnsId, port: u16, local: SocketAddr, peer: SocketAddr) {
        let family = Family::of(local.ip());
        self.known
            .sockets
            .nobody_listens(self.now, netns, port, family);
        let Some(pod) = self.known.directory.pod_of(netns) else {
            return;
        };
        let Some(entry) = self.known.directory.pod(pod) else {
            return;
        };
        let intent = entry.intent.as_ref();
        if intent.is_some_and(|i| i.inbound_port == port || i.tunnel_port == Some(port)) {
            let asked = SocketAddr::new(peer.ip(), port);
            let sample = diagnose::signal_sample(Direction::Inbound, asked, None, 1);
            let ns = self.known.sockets.of(netns);
            let case = (pod, diagnose::nobody(self.now, entry));
            diagnose::signalled_refusal(self.now, case, ns, port, &sample, &mut self.findings);
        }
    }

    fn stalled(&mut self, key: &EdgeKey) {
        let Who::Pod { pod, .. } = self.known.directory.who(&key.owner) else {
            return;
        };
        let port = self
            .known
            .directory
            .pod(pod)
            .and_then(|p| p.intent.as_ref())
            .map(|i| i.outbound_port);
        if port.is_some_and(|port| key.arrival == Arrival::Decided(port)) {
            let watch = self.known.watches.entry(pod).or_default();
            watch.hanging = watch.hanging.saturating_add(1);
        }
    }

    fn listening(&mut self, owner: &Owner, listener: Listener, process: Process) {
        let port = listener.port;
        let sockets = &mut self.known.sockets;
        sockets.began(self.now, owner, listener, process.comm);
        self.findings.touched = true;
        if let Some(pod) = self.known.directory.pod_of(owner.netns) {
            self.reread_by_listeners(pod);
            self.proxy_may_be_back(pod);
            let entry = self.known.directory.pod(pod);
            let intent = entry.and_then(|entry| entry.intent.as_ref());
            if intent.is_some_and(|intent| intent.outbound_port == port) {
                self.ask_memory(pod);
            }
        }
    }
}
