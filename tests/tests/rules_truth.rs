//! The evaluation of rules against the kernel: every golden rule set is installed, every connection is really made, and it
//! must arrive where the evaluation of the rules, read back from the namespace, says.
//!
//! `cargo test -p sidestep-tests --test rules_truth` as root. The connections are the lines of `agent/tests/rules/*/expect.txt`
//! whose answer is certain and that a TCP client can make; the expected answers there are not used.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use sidestep::{
    model::{Direction, Family},
    rules::{
        Backend, Connection, Interface, IpSets, Outcome, Protocol, Ruleset, evaluate, parse_nft,
        parse_save_with,
    },
};
use socket2::{Domain, Socket, Type};

/// Listeners that some rule set redirects to.
const PROXIES: [u16; 6] = [15_001, 15_006, 15_053, 4_140, 4_143, 20_000];
const OWN: [&str; 2] = ["10.1.0.5", "fd11::5"];

const POD: &str = "link set eth0 up; addr add 10.1.0.5/32 dev eth0; addr add fd11::5/128 dev eth0; \
    addr add ::6/128 dev lo; route add 10.254.0.1 dev eth0; route add default via 10.254.0.1; \
    route add fd12::1 dev eth0; -6 route add default via fd12::1";
const OUTSIDE: &str = "link set eth0 up; addr add 10.254.0.1/32 dev eth0; addr add fd12::1/128 dev eth0; \
    route add 10.1.0.5 dev eth0; -6 route add fd11::5 dev eth0; route add local 0.0.0.0/1 dev lo table main; \
    route add local 128.0.0.0/1 dev lo table main; -6 route add local fd00::/8 dev lo table main; \
    -6 route add local 2001::/16 dev lo table main";
const BY_MARK: &str = "rule add fwmark 1337 lookup 133; route add local 0.0.0.0/0 dev lo table 133; \
    -6 rule add fwmark 1337 lookup 133; -6 route add local ::/0 dev lo table 133";

#[path = "../reaper.rs"]
mod reaper;

/// A pod and the world around it, which has every address.
struct World {
    name: String,
    _reaper: reaper::Reaper,
}

impl World {
    /// With routing by mark only where the mesh's rules count on it.
    fn new(by_mark: bool) -> Self {
        let name = format!("t{}", std::process::id());
        let names = ["p", "o"].map(|side| format!("{name}{side}"));
        let world = Self {
            name,
            _reaper: reaper::Reaper::of(&names).unwrap(),
        };
        for side in ["p", "o"] {
            shell(&format!("ip netns add {}{side}", world.name));
            world.run(side, "sysctl -qw net.ipv6.conf.default.accept_dad=0");
            world.run(side, "ip link set lo up");
        }
        world.run(
            "p",
            &format!(
                "ip link add eth0 type veth peer name eth0 netns {}o",
                world.name
            ),
        );
        let by_mark = if by_mark { BY_MARK } else { "" };
        world.wire("p", POD);
        world.wire("o", OUTSIDE);
        world.wire("p", by_mark);
        world
    }

    fn wire(&self, side: &str, commands: &str) {
        let commands = commands.split(';').filter(|command| !command.is_empty());
        commands.for_each(|command| self.run(side, &format!("ip {}", command.trim())));
    }

    fn run(&self, side: &str, command: &str) {
        shell(&format!("ip netns exec {}{side} {command}", self.name));
    }

    fn output(&self, command: &str) -> String {
        let command = format!("ip netns exec {}p {command}", self.name);
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Moves this thread into one of the namespaces.
    fn enter(&self, side: &str) {
        let file = File::open(format!("/run/netns/{}{side}", self.name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Listens everywhere on the ports and tells each client who answered.
    fn serve(&self, side: &'static str, ports: &[u16]) {
        self.serve_at(side, ["0.0.0.0", "::"], ports);
    }

    fn serve_at(&self, side: &'static str, addresses: [&str; 2], ports: &[u16]) {
        self.enter(side);
        for &port in ports {
            for ip in addresses {
                let address = SocketAddr::new(ip.parse().unwrap(), port);
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                if address.is_ipv6() {
                    socket.set_only_v6(true).unwrap();
                    socket.set_ip_transparent_v6(true).unwrap();
                } else {
                    socket.set_ip_transparent_v4(true).unwrap();
                }
                socket.bind(&address.into()).unwrap();
                socket.listen(16).unwrap();
                let listener = std::net::TcpListener::from(socket);
                std::thread::spawn(move || {
                    for mut client in listener.incoming().flatten() {
                        let _ = write!(client, "{side}{port}");
                    }
                });
            }
        }
    }

    /// Reads the rules back as an agent would.
    fn rules(&self) -> Ruleset {
        let mut rules = Ruleset::default();
        let mut texts = Vec::new();
        for (tool, family) in [("iptables", Family::Ipv4), ("ip6tables", Family::Ipv6)] {
            for (name, backend) in [("legacy", Backend::Legacy), ("nft", Backend::Nft)] {
                texts.push((family, backend, self.output(&format!("{tool}-{name}-save"))));
            }
        }
        let saved = self.output("ipset save");
        let named: Vec<&str> = texts.iter().map(|(_, _, text)| text.as_str()).collect();
        let mut sets = IpSets::read(&saved, &named);
        for (family, backend, text) in &texts {
            parse_save_with(text, *backend, *family, &mut sets, &mut rules);
        }
        parse_nft(&self.output("nft -j list ruleset"), &mut rules).unwrap();
        rules
    }

    /// Who answers a connection, as `p15001` or `o8080`.
    fn answer(&self, connection: &Connection) -> String {
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let inbound = connection.direction == Direction::Inbound;
                self.enter(if inbound { "o" } else { "p" });
                if let (Some(uid), Some(gid)) = (connection.uid, connection.gid) {
                    setfsgid(Gid::from_raw(gid));
                    setfsuid(Uid::from_raw(uid));
                }
                connect(connection, inbound).unwrap_or_else(|error| error.to_string())
            });
            client.join().unwrap()
        })
    }
}

fn connect(connection: &Connection, inbound: bool) -> std::io::Result<String> {
    let socket = Socket::new(
        Domain::for_address(connection.destination),
        Type::STREAM,
        None,
    )?;
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    match (inbound, connection.source.is_ipv6()) {
        (false, _) => socket.set_mark(connection.mark.unwrap_or(0))?,
        (true, true) => socket.set_freebind_v6(true)?,
        (true, false) => socket.set_freebind_v4(true)?,
    }
    socket.bind(&connection.source.into())?;
    let wait = Duration::from_secs(2);
    socket.set_read_timeout(Some(wait))?;
    socket.connect_timeout(&connection.destination.into(), wait)?;
    let mut said = String::new();
    TcpStream::from(socket).read_to_string(&mut said)?;
    Ok(said)
}

fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// The connection of a line, if a TCP client can make it.
fn connection(line: &str) -> Option<Connection> {
    let (asked, _) = line.split_once(" => ")?;
    let words: Vec<&str> = asked.split_whitespace().collect();
    let [direction, "tcp", source, destination, rest @ ..] = words.as_slice() else {
        return None;
    };
    let source: IpAddr = source.parse().ok()?;
    let destination: SocketAddr = destination.parse().ok()?;
    let mapped = matches!(source, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if source.is_unspecified() || mapped {
        return None;
    }
    let local = Some(OWN.iter().map(|own| own.parse().unwrap()).collect());
    let source = SocketAddr::new(source, 0);
    let mut connection = match *direction {
        "out" => Connection::outbound(Protocol::Tcp, source, destination, local),
        _ => Connection::inbound(Protocol::Tcp, source, destination, local),
    };
    if !connection.destination.ip().is_loopback()
        && !OWN.iter().any(|own| destination.ip().to_string() == *own)
    {
        if connection.direction == Direction::Inbound {
            return None;
        }
        connection.interface = Interface::Named("eth0".to_owned());
    }
    if connection.direction == Direction::Inbound {
        connection.interface = Interface::Named("eth0".to_owned());
    }
    for word in rest {
        if let Some((uid, gid)) = word.split_once(':') {
            connection = connection.owned_by(uid.parse().ok()?, gid.parse().ok()?);
        } else if let Some(mark) = word.strip_prefix("mark=") {
            let hex = mark
                .strip_prefix("0x")
                .map(|hex| u32::from_str_radix(hex, 16).ok());
            connection.mark = hex.unwrap_or_else(|| mark.parse().ok());
            // A mark does not cross the wire.
            (connection.direction == Direction::Outbound && connection.mark.is_some())
                .then_some(())?;
        } else if !word.ends_with("=eth0") {
            return None;
        }
    }
    Some(connection)
}

fn expected(connection: &Connection, outcome: Outcome) -> Option<String> {
    let own = OWN.contains(&connection.destination.ip().to_string().as_str());
    let inside = own || connection.destination.ip().is_loopback();
    match outcome {
        Outcome::Redirected { port, .. } => Some(format!("p{port}")),
        Outcome::Direct if inside => Some(format!("p{}", connection.destination.port())),
        Outcome::Direct => Some(format!("o{}", connection.destination.port())),
        Outcome::Dropped | Outcome::Rejected | Outcome::Unknown => None,
    }
}

/// How a folder's rules are installed.
fn installs(folder: &Path) -> Vec<Vec<String>> {
    let file = |name: String| folder.join(name).display().to_string();
    if !folder.join("legacy4.save").exists() {
        return vec![vec![format!("nft -j -f {}", file("nft.json".to_owned()))]];
    }
    let sets = file("ipset.save".to_owned());
    // None are none.
    let sets = format!("sh -c '! test -e {sets} || ipset restore -file {sets}'");
    let restore = |backend: &str| {
        let one = |tool: &str, number: u8| {
            let file = file(format!("{backend}{number}.save"));
            format!("{tool}-{backend}-restore {file}")
        };
        vec![sets.clone(), one("iptables", 4), one("ip6tables", 6)]
    };
    vec![restore("legacy"), restore("nft")]
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/rules");
    let all = (fs::read_dir(root).unwrap()).map(|entry| entry.unwrap().path());
    // Those of strangers ask for what this world does not have: several interfaces, chances, sets.
    let mut all: Vec<PathBuf> = all
        .filter(|path| {
            path.is_dir() && !path.ends_with("strangers") && !path.ends_with("native-strangers")
        })
        .collect();
    all.sort();
    all
}

#[test]
fn connections_arrive_where_the_evaluation_says() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let mut asked = 0;
    let mut wrong = Vec::new();
    for folder in folders() {
        let lines = fs::read_to_string(folder.join("expect.txt")).unwrap();
        let connections: Vec<Connection> = lines.lines().filter_map(connection).collect();
        let ports = connections.iter().map(|one| one.destination.port());
        let mut ports: Vec<u16> = ports.collect();
        ports.sort_unstable();
        ports.dedup();
        for commands in installs(&folder) {
            let world = World::new(folder.display().to_string().ends_with("tproxy"));
            commands.iter().for_each(|command| world.run("p", command));
            let app = ports.iter().copied().filter(|port| !PROXIES.contains(port));
            let inside: Vec<u16> = app.chain(PROXIES).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| world.serve("o", &ports));
                scope.spawn(|| world.serve("p", &inside)).join().unwrap();
            });
            let rules = world.rules();
            for connection in &connections {
                let path = evaluate(&rules, connection);
                let Some(expected) = expected(connection, path.outcome) else {
                    continue;
                };
                asked += 1;
                let found = world.answer(connection);
                if found != expected {
                    wrong.push(format!(
                        "{}: {connection:?}\n  expected {expected}, found {found}\n{}",
                        commands.join("; "),
                        path.explain()
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {asked} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(asked > 200, "only {asked} connections were made");
}

/// Rules that ask for sockets send what they find to the proxy: it arrives there if somebody listens as they ask.
#[test]
fn who_listens_is_what_rules_find() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    // Whether a route leads back is only known of what comes in by loopback.
    for (asks, certain) in [
        ("-m socket", 8),
        ("-m socket --nowildcard", 8),
        ("-m rpfilter --invert", 4),
    ] {
        for backend in ["legacy", "nft"] {
            assert_eq!(found_by(asks, backend), certain, "{backend} {asks}");
        }
    }
}

/// Connections that arrived where the evaluation was certain that they would.
fn found_by(asks: &str, backend: &str) -> usize {
    let world = World::new(false);
    std::thread::scope(|scope| {
        let everywhere = scope.spawn(|| world.serve("p", &[9001, 15_006]));
        everywhere.join().unwrap();
        scope.spawn(|| world.serve_at("p", OWN, &[9002]));
    });
    for tool in ["iptables", "ip6tables"] {
        let tool = format!("{tool}-{backend}");
        let mark = format!("-p tcp --syn --dport 9000:9010 {asks} -j MARK --set-mark 7");
        world.run("p", &format!("{tool} -t mangle -A PREROUTING {mark}"));
        let redirect = "-p tcp -m mark --mark 7 -j REDIRECT --to-ports 15006";
        world.run("p", &format!("{tool} -t nat -A PREROUTING {redirect}"));
    }
    let rules = world.rules();
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    let any = [at("0.0.0.0", 9001), at("::", 9001)];
    let listeners: Vec<SocketAddr> = OWN
        .map(|own| at(own, 9002))
        .into_iter()
        .chain(any)
        .collect();
    let lines = OWN.into_iter().flat_map(|own| {
        let peer = if own.contains(':') {
            "fd77::7"
        } else {
            "10.7.0.7"
        };
        let to = [9001, 9002].map(|port| at(own, port));
        to.map(|to| {
            [
                format!("in tcp {peer} {to} => ?"),
                format!("out tcp {own} {to} => ?"),
            ]
        })
    });
    let mut found = 0;
    for line in lines.flatten() {
        let mut connection = connection(&line).unwrap();
        connection.listeners = Some(listeners.clone());
        let path = evaluate(&rules, &connection);
        let Some(expected) = expected(&connection, path.outcome) else {
            continue;
        };
        found += 1;
        let answer = world.answer(&connection);
        assert_eq!(answer, expected, "{backend} {line}\n{}", path.explain());
    }
    found
}
