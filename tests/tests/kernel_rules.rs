//! Changes of rules, by each front end: who, where, when.
//!
//! `cargo test -p sidestep-tests --test kernel_rules` as root, here or in a VM of the
//! matrix; see `kernel_probes.rs`. With `--bare` in a VM the modules load during the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a panic is a failed test; the helpers are shared"
)]

mod kernel;

use std::time::Duration;

use kernel::World;
use sidestep::model::{Family, NetnsId, RulesBackend, Signal};

const REDIRECT: &str = "-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001";

/// What was told about one namespace: back end, family, process.
fn told(world: &World, about: NetnsId) -> Vec<(RulesBackend, Option<Family>, String)> {
    let one = |signal: &Signal| match signal {
        Signal::RulesChanged {
            netns,
            backend,
            family,
            uid,
            process,
            at,
        } if *netns == about => {
            assert_eq!(*uid, 0);
            assert_ne!(process.pid, 0);
            assert_ne!(at.0, 0);
            Some((*backend, *family, process.comm.clone()))
        }
        _ => None,
    };
    world.signals.iter().filter_map(one).collect()
}

/// Where functions can be probed at all, both signals must work once their modules are there.
fn probes_functions() -> bool {
    let here = std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists();
    if !here {
        println!("skipped: this kernel has no kprobes");
    }
    here
}

#[test]
fn each_front_end_is_heard_with_namespace_and_process() {
    if !probes_functions() {
        return;
    }
    let mut world = World::new("rul");
    for (tool, backend, family) in [
        ("iptables-legacy", RulesBackend::Legacy, Some(Family::Ipv4)),
        ("ip6tables-legacy", RulesBackend::Legacy, Some(Family::Ipv6)),
        ("iptables-nft", RulesBackend::Nft, None),
        ("ip6tables-nft", RulesBackend::Nft, None),
    ] {
        world.run('c', &format!("{tool} -t nat -L OUTPUT"));
        world.until("the module's probe", |w| {
            w.has(&format!("rules_change_{}", backend.as_str()))
        });
        world.signals.clear();
        world.run('c', &format!("{tool} {REDIRECT}"));
        let comm: String = tool.chars().take(15).collect();
        world.until(tool, |w| {
            told(w, w.client).contains(&(backend, family, comm.clone()))
        });
    }
    world.signals.clear();
    world.run('c', "nft add table inet mine");
    world.until("nft", |w| {
        told(w, w.client) == [(RulesBackend::Nft, None, "nft".to_owned())]
    });
    assert_eq!(told(&world, world.server), []);
    world.assert_no_loss();
}

#[test]
fn reading_rules_is_no_change() {
    if !probes_functions() {
        return;
    }
    let mut world = World::new("rdr");
    world.run('c', &format!("iptables-legacy {REDIRECT}"));
    world.run('c', &format!("iptables-nft {REDIRECT}"));
    world.until("the probes", |w| {
        w.has("rules_change_legacy") && w.has("rules_change_nft")
    });
    std::thread::sleep(Duration::from_millis(200));
    world.until("the rest", |_| true);
    world.signals.clear();
    for tool in [
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "iptables-nft-save",
        "ip6tables-nft-save",
        "nft -j list ruleset",
    ] {
        world.run('c', tool);
    }
    world.run('c', "nft add table inet mine");
    world.until("the change after it", |w| !told(w, w.client).is_empty());
    let all = told(&world, world.client);
    assert_eq!(all, [(RulesBackend::Nft, None, "nft".to_owned())]);
}
