//! The deep probe against packets that are really dropped: attached while somebody is watched, told
//! by the kernel's own names, and gone with the agent however it ends.
//!
//! `cargo test -p sidestep-tests --test kernel_drops` as root, here or in a VM of the matrix; see
//! `kernel_probes.rs`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kernel::{CLIENT, CLIENT6, SERVER, SERVER6, World, at, serve};
use sidestep::{
    model::{Direction, LostPackets, Part, Signal},
    probe::{ProbeOptions, Probes},
};

/// Time for one SYN that is not answered, and not for a second one.
const ONE_SYN: Duration = Duration::from_millis(500);

/// Time to read the kernel's names, also where CPU is short.
const NAMES: Duration = Duration::from_secs(20);

/// What this process has attached is looked at: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn dial(to: SocketAddr) {
    assert!(TcpStream::connect_timeout(&to, ONE_SYN).is_err());
}

fn drop_syns(world: &World, side: char, rule: &str) {
    for tool in ["iptables", "ip6tables"] {
        world.run(side, &format!("{tool} -A {rule} -j DROP"));
    }
}

fn lost(world: &mut World) -> Vec<LostPackets> {
    world.probes.as_mut().unwrap().lost_packets().unwrap()
}

/// What is told once its names were read, which takes a while the first time.
fn told(world: &mut World) -> Vec<LostPackets> {
    let until = Instant::now() + NAMES;
    loop {
        let found = lost(world);
        if !found.is_empty() || Instant::now() > until {
            return found;
        }
        thread::sleep(ONE_SYN / 10);
    }
}

/// Whether it says that a rule dropped it, in whichever way this kernel can.
fn by_netfilter(lost: &LostPackets) -> bool {
    lost.reason.as_deref() == Some("NETFILTER_DROP")
        || lost.function.as_deref() == Some("nf_hook_slow")
}

/// The programs that a process has attached to the tracepoint.
fn attached(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let texts = entries.into_iter().flatten().flatten();
    let texts = texts.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .filter(|text| text.contains("kfree_skb"))
        .filter_map(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("prog_id:"))?;
            line.trim().parse().ok()
        })
        .collect()
}

fn is_loaded(id: u32) -> bool {
    let mut all = aya::programs::loaded_programs();
    all.any(|info| info.is_ok_and(|info| info.id() == id))
}

#[test]
fn a_dropped_syn_is_told_by_its_reason_and_only_while_it_is_watched() {
    let _alone = alone();
    let mut world = World::new("drp");
    assert!(world.has("drops"), "kfree_skb can be had everywhere");
    drop_syns(&world, 's', "INPUT -p tcp --dport 81");
    world.enter('c');
    let own = std::process::id();
    dial(at(SERVER, 81));
    assert_eq!(lost(&mut world), []);
    assert!(
        attached(own).is_empty(),
        "nobody is watched: nothing is attached"
    );

    let watched = addresses(&[CLIENT, CLIENT6]);
    world.probes.as_mut().unwrap().watch_drops(&watched);
    assert_eq!(attached(own).len(), 1);
    for (to, from) in [(at(SERVER, 81), CLIENT), (at(SERVER6, 81), CLIENT6)] {
        dial(to);
        let found = told(&mut world);
        let syn = found.iter().find(|l| l.part == Part::Syn && l.remote == to);
        let syn = syn.unwrap_or_else(|| panic!("{to}: {found:?}"));
        assert!(by_netfilter(syn), "{syn:?}");
        assert_eq!(syn.local, from.parse::<IpAddr>().unwrap());
        assert_eq!(
            (syn.direction, syn.packets),
            (Direction::Outbound, 1),
            "{syn:?}"
        );
        assert_eq!(syn.netns, Some(world.server), "{syn:?}");
    }

    world.probes.as_mut().unwrap().watch_drops(&BTreeSet::new());
    assert!(attached(own).is_empty());
    dial(at(SERVER, 81));
    assert_eq!(lost(&mut world), []);

    // And once more, for another address: that of the other end.
    let watched = addresses(&[SERVER]);
    world.probes.as_mut().unwrap().watch_drops(&watched);
    dial(at(SERVER, 81));
    let found = told(&mut world);
    let syn = found
        .iter()
        .find(|l| l.part == Part::Syn && by_netfilter(l));
    assert_eq!(
        syn.map(|l| l.direction),
        Some(Direction::Inbound),
        "{found:?}"
    );
    assert_eq!(syn.map(|l| l.local), SERVER.parse().ok());
}

#[test]
fn an_answer_that_is_lost_is_told_from_both_sides() {
    let _alone = alone();
    let mut world = World::new("ans");
    drop_syns(&world, 'c', "INPUT -p tcp --sport 82");
    world.enter('s');
    serve(at(SERVER, 82));
    world.enter('c');
    let watched = addresses(&[CLIENT]);
    world.probes.as_mut().unwrap().watch_drops(&watched);
    let to = at(SERVER, 82);
    let end = Duration::from_millis(3_500);
    assert!(TcpStream::connect_timeout(&to, end).is_err());
    let found = told(&mut world);
    let answers = found
        .iter()
        .filter(|l| l.part == Part::SynAck && l.remote == to);
    let answers: Vec<&LostPackets> = answers.collect();
    assert!(!answers.is_empty(), "{found:?}");
    for lost in answers {
        assert!(by_netfilter(lost), "{lost:?}");
        assert_eq!(lost.direction, Direction::Inbound);
        assert_eq!(lost.netns, Some(world.client));
    }
    assert!(world.has("syn_ack_retransmit"));
    let server = world.server;
    world.until("the answer sent again", move |w| {
        w.signals.iter().any(|signal| {
            matches!(signal, Signal::SynAckResent { owner, local, peer }
                if owner.netns == server && *local == to && peer.ip().to_string() == CLIENT)
        })
    });
}

#[test]
fn a_healthy_connection_shows_no_drops_of_its_handshake() {
    let _alone = alone();
    let mut world = World::new("fine");
    world.enter('s');
    serve(at(SERVER, 83));
    world.enter('c');
    let watched = addresses(&[CLIENT, SERVER]);
    world.probes.as_mut().unwrap().watch_drops(&watched);
    for _ in 0..20 {
        drop(TcpStream::connect_timeout(&at(SERVER, 83), Duration::from_secs(5)).unwrap());
    }
    let found = told(&mut world);
    // Another test may have the same addresses at the same time, in namespaces of its own.
    let own = [Some(world.client), Some(world.server)];
    let is_own = |l: &&LostPackets| own.contains(&l.netns) || l.remote.port() == 83;
    let mut ours = found.iter().filter(is_own);
    assert!(ours.all(|l| l.part == Part::Later), "{found:?}");
}

/// Ends its process by its id, whatever happens to the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_is_detached_when_the_agent_is_killed() {
    let program = std::env::current_exe().unwrap();
    let child = Command::new(program)
        .args([
            "--ignored",
            "--exact",
            "one_that_watches_until_it_is_killed",
        ])
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let end = Instant::now() + Duration::from_secs(60);
    let ids = loop {
        let ids = attached(child.0.id());
        if !ids.is_empty() {
            break ids;
        }
        assert!(Instant::now() < end, "it never watches");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(ids.iter().all(|id| is_loaded(*id)));
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // The kernel frees what nobody holds a moment later.
    while ids.iter().any(|id| is_loaded(*id)) {
        assert!(Instant::now() < end, "it is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "started, and killed, by another test"]
fn one_that_watches_until_it_is_killed() {
    let mut probes = Probes::start(&ProbeOptions::default()).expect("the probes do not start");
    probes.watch_drops(&addresses(&[CLIENT]));
    std::thread::sleep(Duration::from_secs(120));
}
