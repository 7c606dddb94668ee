//! TCP connections of a network namespace, looked at closely only where something waits.
//!
//! All sockets of a namespace are read at a slow pace, and all but a few are fine: bytes went both
//! ways, nothing is unread. A namespace where that holds for every socket is not told at all. Where
//! it does not, and once more when it does again, every socket is told, because what waits is
//! understood only beside what does not.

use std::{io, net::SocketAddr};

use super::diag::{self, Record, state};
use crate::model::{Stream, StreamState};

/// Most sockets told of one namespace.
const MAX_TOLD: usize = 1_024;
/// Most sockets read of one namespace in one look: some 30 ms.
const MAX_READ: u64 = 32_768;
/// Whoever waits for less is not waiting: an answer takes its time.
const WAITS_MS: u32 = 1_000;
/// What was sent again so often waits, however lately it was.
const REPEATED: u8 = 3;

/// One look at a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Any of them waits.
    pub(super) waits: bool,
    /// Its sockets, those that wait first.
    pub(super) streams: Vec<Stream>,
    /// Sockets there are besides.
    pub(super) left: u64,
}

/// TCP sockets with a peer of the calling thread's network namespace.
///
/// # Errors
/// The kernel cannot say (module `tcp_diag` missing), or netlink failed.
pub(super) fn connected() -> io::Result<Look> {
    let states = [
        state::ESTABLISHED,
        state::SYN_SENT,
        state::CLOSE_WAIT,
        state::FIN_WAIT1,
        state::FIN_WAIT2,
    ];
    let (mut waiting, mut quiet) = (Vec::new(), Vec::new());
    let (mut read, mut left) = (0_u64, 0_u64);
    diag::sockets(&states, Some(diag::INFO), |one| {
        read += 1;
        if let Some(stream) = stream(one) {
            let kind = if waits(&stream) {
                &mut waiting
            } else {
                &mut quiet
            };
            if kind.len() < MAX_TOLD {
                kind.push(stream);
            } else {
                left += 1;
            }
        }
        read < MAX_READ
    })?;
    let waits = !waiting.is_empty();
    let room = MAX_TOLD.saturating_sub(waiting.len());
    left += quiet.len().saturating_sub(room) as u64;
    // What was not read at all is not known to be fine.
    left += u64::from(read >= MAX_READ);
    waiting.extend(quiet.into_iter().take(room));
    Ok(Look {
        waits,
        streams: waiting,
        left,
    })
}

fn waits(stream: &Stream) -> bool {
    match stream.state {
        StreamState::Dialling => stream.retransmits > 0,
        StreamState::PeerClosed => stream.held,
        StreamState::OwnerClosed => false,
        StreamState::Open => {
            let one_sided = stream.is_unanswered() || stream.has_not_answered();
            let stays = stream.unread > 0 || stream.unsent > 0 || one_sided;
            stays && (stream.idle_ms() >= WAITS_MS || stream.retransmits >= REPEATED)
        }
    }
}

fn stream(record: Record<'_>) -> Option<Stream> {
    let state = match record.state() {
        state::ESTABLISHED => StreamState::Open,
        state::SYN_SENT => StreamState::Dialling,
        state::FIN_WAIT1 | state::FIN_WAIT2 => StreamState::OwnerClosed,
        state::CLOSE_WAIT => StreamState::PeerClosed,
        _ => return None,
    };
    let info = Info(record.attribute(diag::INFO)?);
    let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port()).into();
    Some(Stream {
        cookie: record.cookie(),
        local: canonical(record.local()),
        remote: canonical(record.remote()),
        state,
        uid: record.uid(),
        held: record.inode() != 0,
        unread: record.receive_queue(),
        unsent: record.send_queue(),
        received: info.u64(BYTES_RECEIVED)?,
        sent: info.u64(BYTES_SENT)?,
        sent_ms: info.u32(LAST_DATA_SENT)?,
        received_ms: info.u32(LAST_DATA_RECV)?,
        retransmits: record.retransmits(),
    })
}

/// `struct tcp_info` of the kernel's user API; it only ever grows at its end. All of these are
/// there since 4.19.
struct Info<'a>(&'a [u8]);

const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECV: usize = 52;
const BYTES_RECEIVED: usize = 128;
const BYTES_SENT: usize = 200;

impl Info<'_> {
    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        thread,
        time::Duration,
    };

    use super::{Look, connected};
    use crate::model::Stream;

    fn find(look: &Look, local: std::net::SocketAddr) -> Option<Stream> {
        look.streams.iter().find(|s| s.local == local).cloned()
    }

    #[test]
    fn what_was_said_and_not_answered_is_told() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"hello").unwrap();
        let (mut accepted, peer) = server.accept().unwrap();
        thread::sleep(Duration::from_millis(1_100));
        let look = connected().unwrap();
        let own = find(&look, peer).unwrap();
        assert!(own.is_unanswered() && own.held, "{own:?}");
        assert_eq!((own.sent, own.unsent), (5, 0));
        let other = look.streams.iter().find(|s| s.remote == peer).unwrap();
        assert_eq!((other.received, other.unread), (5, 5));
        assert!(other.received_ms >= 1_000, "{other:?}");
        let mut buffer = [0; 5];
        accepted.read_exact(&mut buffer).unwrap();
        accepted.write_all(b"there").unwrap();
        let look = connected().unwrap();
        let unanswered = find(&look, peer).is_some_and(|s| s.is_unanswered());
        assert!(!unanswered);
    }
}
