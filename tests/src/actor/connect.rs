//! A client: so many connections, at such a rate, opened like this; and what became of each.
//!
//! It makes the awkward sockets that real programs make: non-blocking, aborted, v4-mapped, opened under another user,
//! inherited from a parent. Its result is one JSON object on stdout.
//!
//! It must never retry: every connection of the count is one connect(2).

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::sock;
use crate::place::Place;
use crate::spec::ConnectMode;

/// What to connect to and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Destination
    #[arg(long)]
    to: SocketAddr,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Connections per second
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Threads that share them
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// No new connections after so many seconds
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds to wait for the handshake, and for the answer
    #[arg(long, default_value_t = 1.0)]
    timeout: f64,
    /// Seconds of idleness between handshake and request
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// How connect(2) is called
    #[arg(long, value_enum, default_value_t = ConnectMode::Blocking)]
    mode: ConnectMode,
    /// Uses an IPv6 socket for an IPv4 address
    #[arg(long)]
    v4_mapped: bool,
    /// User that opens the sockets
    #[arg(long)]
    socket_uid: Option<u32>,
    /// Group that opens the sockets
    #[arg(long)]
    socket_gid: Option<u32>,
    /// Opens the socket and leaves it to a child to connect
    #[arg(long)]
    inherited: bool,
    /// Connects the socket that is its standard input
    #[arg(long)]
    from_stdin: bool,
    /// Asks for nothing, only waits until the peer closes
    #[arg(long)]
    bare: bool,
    /// Bytes asked for
    #[arg(long, default_value_t = 2)]
    bytes: u64,
}

/// What became of the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Handshake, request, answer.
    pub(crate) ok: u64,
    /// ECONNREFUSED.
    pub(crate) refused: u64,
    /// The handshake was never answered.
    pub(crate) timed_out: u64,
    /// Established, then closed or reset without an answer.
    pub(crate) closed: u64,
    /// Established, no answer in time.
    pub(crate) silent: u64,
    /// Closed at once, as asked.
    pub(crate) aborted: u64,
    /// Anything else.
    pub(crate) other: u64,
    /// When the first connection was begun: microseconds since the Unix epoch.
    pub(crate) began_us: u64,
    /// From then to the end of the last one.
    pub(crate) elapsed_ns: u64,
    /// The first error that is neither refusal nor time-out.
    pub(crate) error: Option<String>,
}

enum End {
    Ok,
    Refused,
    TimedOut,
    Closed,
    Silent,
    Aborted,
    Other(String),
}

/// Makes the connections and prints the tally.
pub(crate) fn run(options: &Options, place: &Place) -> Result<ExitCode> {
    let tally = if options.from_stdin {
        place.become_user()?;
        from_stdin(options)
    } else if options.inherited {
        inherited(options, place)?
    } else if options.socket_uid.is_some() || options.socket_gid.is_some() {
        let sockets = (0..options.count)
            .map(|_| open_as(options))
            .collect::<Result<Vec<_>>>()?;
        place.become_user()?;
        paced(options, 0, options.count, sockets.into_iter().map(Ok))
    } else {
        place.become_user()?;
        in_threads(options)?
    };
    let text = serde_json::to_string(&tally)?;
    writeln!(io::stdout(), "{text}").context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

fn in_threads(options: &Options) -> Result<Tally> {
    let each = options.count.div_ceil(options.threads);
    let threads: Vec<_> = (0..options.threads)
        .map(|thread| {
            let options = options.clone();
            thread::spawn(move || {
                let sockets = std::iter::repeat_with(|| open(&options));
                paced(&options, thread, each, sockets)
            })
        })
        .collect();
    let mut sum = Tally::default();
    for thread in threads {
        sum.merge(
            thread
                .join()
                .map_err(|_| anyhow!("a client thread panicked"))?,
        );
    }
    Ok(sum)
}

/// The connections of one thread. Threads begin one after the other: all at once would be a burst at no rate.
fn paced(
    options: &Options,
    thread: u32,
    count: u32,
    sockets: impl Iterator<Item = io::Result<Socket>>,
) -> Tally {
    let start = Instant::now();
    let gap = f64::from(options.threads) / options.rate;
    let first = f64::from(thread) / options.rate;
    let mut tally = Tally {
        began_us: micros_of_epoch(),
        ..Tally::default()
    };
    let mut held = Vec::new();
    for (index, socket) in (0..count).zip(sockets) {
        let due = Duration::from_secs_f64(first + gap * f64::from(index));
        thread::sleep(due.saturating_sub(start.elapsed()));
        if options
            .seconds
            .is_some_and(|limit| start.elapsed().as_secs_f64() > limit)
        {
            break;
        }
        if options.hold > 0.0 {
            let options = options.clone();
            held.push(thread::spawn(move || attempt(&options, socket)));
        } else {
            tally.count(attempt(options, socket));
        }
    }
    for thread in held {
        let end = thread
            .join()
            .unwrap_or_else(|_| End::Other("panicked".to_owned()));
        tally.count(end);
    }
    tally.elapsed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    tally
}

fn micros_of_epoch() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn open(options: &Options) -> io::Result<Socket> {
    let domain = if options.v4_mapped {
        Domain::IPV6
    } else {
        Domain::for_address(options.to)
    };
    let socket = match options.mode {
        ConnectMode::Datagram => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
        _ => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
    };
    if options.v4_mapped {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// The socket's file keeps the credentials of the moment it was opened.
fn open_as(options: &Options) -> Result<Socket> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    let uid = options.socket_uid.map_or(root.0, Uid::from_raw);
    let gid = options.socket_gid.map_or(root.1, Gid::from_raw);
    setresgid(root.1, gid, root.1).context("cannot switch group")?;
    setresuid(root.0, uid, root.0).context("cannot switch user")?;
    let socket = open(options).context("cannot open a socket");
    setresuid(root.0, root.0, root.0).context("cannot switch back")?;
    setresgid(root.1, root.1, root.1).context("cannot switch back")?;
    socket
}

fn inherited(options: &Options, place: &Place) -> Result<Tally> {
    let mut sum = Tally::default();
    for _ in 0..options.count {
        let socket: OwnedFd = open_as(options)?.into();
        let mut child = crate::process::myself();
        child.arg("actor");
        let child_place = Place {
            netns: None,
            cgroup: None,
            ..place.clone()
        };
        child_place.add_to(&mut child);
        let output = child
            .args(["connect", "--from-stdin", "--to", &options.to.to_string()])
            .args(["--timeout", &options.timeout.to_string()])
            .stdin(Stdio::from(socket))
            .process_group(0)
            .output()
            .context("cannot start the child that connects")?;
        sum.merge(serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "the child says: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?);
        thread::sleep(Duration::from_secs_f64(1.0 / options.rate));
    }
    Ok(sum)
}

fn from_stdin(options: &Options) -> Tally {
    let socket = io::stdin().as_fd().try_clone_to_owned().map(Socket::from);
    let mut tally = Tally::default();
    tally.count(attempt(options, socket));
    tally
}

fn attempt(options: &Options, socket: io::Result<Socket>) -> End {
    if options.mode == ConnectMode::Datagram {
        let timeout = Duration::from_secs_f64(options.timeout);
        return match socket.and_then(|socket| sock::ask(socket, options.to, timeout)) {
            Ok(()) => End::Ok,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => End::Refused,
                io::ErrorKind::WouldBlock => End::Silent,
                _ => End::Other(error.to_string()),
            },
        };
    }
    let connected = socket.and_then(|socket| connect(options, socket));
    match connected {
        Ok(Some(stream)) => {
            thread::sleep(Duration::from_secs_f64(options.hold));
            exchange(options, &stream)
        }
        Ok(None) => End::Aborted,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => End::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => End::TimedOut,
            _ if error.raw_os_error() == Some(libc::EINPROGRESS) => End::TimedOut,
            _ => End::Other(error.to_string()),
        },
    }
}

fn connect(options: &Options, socket: Socket) -> io::Result<Option<TcpStream>> {
    let timeout = Duration::from_secs_f64(options.timeout);
    let to = match (options.v4_mapped, options.to.ip()) {
        (true, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), options.to.port()),
        _ => options.to,
    };
    match options.mode {
        // A datagram went another way.
        ConnectMode::Blocking | ConnectMode::Datagram => {
            // SO_SNDTIMEO bounds a blocking connect(2).
            socket.set_write_timeout(Some(timeout))?;
            socket.connect(&to.into())?;
        }
        ConnectMode::Nonblocking => socket.connect_timeout(&to.into(), timeout)?,
        ConnectMode::Abort => {
            socket.set_nonblocking(true)?;
            return match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(None),
            };
        }
    }
    Ok(Some(socket.into()))
}

fn exchange(options: &Options, mut stream: &TcpStream) -> End {
    if options.bare {
        return match stream.read(&mut [0]) {
            Ok(0) => End::Ok,
            _ => End::Closed,
        };
    }
    let request = format!(
        "GET /{} HTTP/1.1\r\nhost: {}\r\n\r\n",
        options.bytes, options.to
    );
    let timeout = Duration::from_secs_f64(options.timeout);
    let mut answer = [0_u8; 65_536];
    let mut total = 0_u64;
    let sent = stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.write_all(request.as_bytes()));
    if sent.is_err() {
        return End::Closed;
    }
    loop {
        match stream.read(&mut answer) {
            Ok(0) if total > options.bytes => return End::Ok,
            Ok(0) => return End::Closed,
            Ok(length) => total += length as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return End::Silent,
            Err(_) => return End::Closed,
        }
    }
}

impl Tally {
    fn count(&mut self, end: End) {
        match end {
            End::Ok => self.ok += 1,
            End::Refused => self.refused += 1,
            End::TimedOut => self.timed_out += 1,
            End::Closed => self.closed += 1,
            End::Silent => self.silent += 1,
            End::Aborted => self.aborted += 1,
            End::Other(error) => {
                self.other += 1;
                self.error.get_or_insert(error);
            }
        }
    }

    /// Adds another tally to this one.
    pub(crate) fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.closed += other.closed;
        self.silent += other.silent;
        self.aborted += other.aborted;
        self.other += other.other;
        let first = [self.began_us, other.began_us]
            .into_iter()
            .filter(|at| *at > 0)
            .min();
        self.began_us = first.unwrap_or(0);
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        if self.error.is_none() {
            self.error = other.error;
        }
    }

    /// All connections.
    pub(crate) fn total(&self) -> u64 {
        self.ok
            + self.refused
            + self.timed_out
            + self.closed
            + self.silent
            + self.aborted
            + self.other
    }
}
