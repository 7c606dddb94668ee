//! Reading live rules on a real kernel, with the real programs, and with broken ones.
//! Needs root; whatever it makes is called `ss-rules-…` and taken away again.

#![expect(clippy::unwrap_used, reason = "a panic is the test's failure")]

#[path = "rules_host/kit.rs"]
mod kit;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use kit::{Netns, PATIENCE, REDIRECT, Reader, kept_by, part, script, shown};
use sidestep::{
    engine::RulesSource,
    node::rules::{Options, Tools},
    rules::{Ruleset, parse_save},
};

const EMPTY: [&str; 5] = ["empty"; 5];

#[test]
fn every_kind_is_read_as_it_is_installed() {
    let pod = Netns::new("kinds");
    pod.restore("iptables-legacy-restore", "istio-ipv4");
    pod.restore("ip6tables-legacy-restore", "istio-ipv6");
    pod.restore("iptables-nft-restore", "linkerd-ipv4");
    pod.restore("ip6tables-nft-restore", "linkerd-ipv6");
    pod.exec("nft add table inet mine");
    pod.exec("nft add chain inet mine out { type filter hook output priority 0 ; }");
    pod.exec("nft add rule inet mine out tcp dport 4143 counter accept");
    let mut reader = Reader::real();
    let reading = reader.reading(&pod, ["complete"; 5]);
    for source in RulesSource::RULES {
        if source == RulesSource::Nft {
            continue;
        }
        let backend = kept_by(source);
        let mut expected = Ruleset::default();
        let text = pod.exec(source.program());
        parse_save(&text, backend, source.family().unwrap(), &mut expected);
        let found = part(&reading, source);
        assert_eq!(found, expected, "{source:?}");
        let rules = found.tables.iter().flat_map(|table| &table.chains);
        let rules: usize = rules.map(|chain| chain.rules.len()).sum();
        assert!(rules >= 8, "{source:?}: {rules}");
    }
    let native = part(&reading, RulesSource::Nft);
    assert_eq!(native.tables.len(), 1, "{native:?}");
    assert_eq!(native.tables[0].name, "mine");
    assert!(format!("{native:?}").contains("4143"));
    assert!(
        reading.ruleset.problems.is_empty(),
        "{:?}",
        reading.ruleset.problems
    );
}

#[test]
fn sets_are_read_where_a_rule_names_one() {
    let pod = Netns::new("sets");
    pod.exec("ipset create leaves hash:net");
    pod.exec("ipset add leaves 10.9.0.0/16");
    pod.exec("iptables-nft -t nat -A OUTPUT -p tcp -j RETURN");
    let mut reader = Reader::real();
    let none = ["empty", "empty", "complete", "empty", "empty"];
    reader.reading(&pod, none);
    pod.exec("iptables-nft -t nat -A OUTPUT -m set --match-set leaves dst -j RETURN");
    pod.exec("iptables-legacy -t nat -A OUTPUT -m set --match-set leaves dst -j RETURN");
    reader.node.rules_changed(pod.id());
    let all = [
        "complete", "empty", "complete", "empty", "empty", "complete",
    ];
    let reading = reader.reading(&pod, all);
    let text = shown(&reading);
    assert_eq!(text.matches("10.9.255.255").count(), 2, "{text}");
    // No generation of the kernel tells of this.
    pod.exec("ipset add leaves 10.11.0.0/16");
    reader.node.rules_changed(pod.id());
    reader.until("the new element", |reader| {
        (reader.last(pod.id())).is_some_and(|last| shown(last).contains("10.11.255.255"))
    });
}

#[test]
fn a_set_that_cannot_be_read_leaves_the_rules_known() {
    let dir = tempfile::tempdir().unwrap();
    let fails = script(&dir, "fails", "echo no >&2; exit 1");
    let tools = Tools::find(&[(RulesSource::Ipset, fails)]).unwrap();
    let pod = Netns::new("nosets");
    pod.exec("ipset create leaves hash:net");
    pod.exec("iptables-nft -t nat -A OUTPUT -m set --match-set leaves dst -j RETURN");
    let mut reader = Reader::new(Options {
        tools,
        ..Options::default()
    });
    let failed = ["empty", "empty", "complete", "empty", "empty", "failed"];
    let reading = reader.reading(&pod, failed);
    assert!(reading.is_complete());
    assert!(shown(&reading).contains("what is in the set `leaves` is not known"));
    reader.until("trouble", |reader| !reader.troubles.is_empty());
}

#[test]
fn an_empty_namespace_is_empty_and_stays_so() {
    let pod = Netns::new("empty");
    let mut reader = Reader::real();
    let reading = reader.reading(&pod, EMPTY);
    assert!(reading.is_complete() && reading.ruleset == Ruleset::default());
    for file in ["ip_tables_names", "ip6_tables_names"] {
        assert_eq!(pod.exec(&format!("cat /proc/thread-self/net/{file}")), "");
    }
    assert_eq!(pod.exec("nft list tables"), "");
    assert!(reading.took_us < 5_000, "{} us", reading.took_us);
}

#[test]
fn a_table_that_only_looks_like_iptables_is_read_as_nftables() {
    let pod = Netns::new("foreign");
    pod.exec("nft add table ip nat");
    pod.exec("nft add chain ip nat mine { type nat hook output priority -100 ; }");
    pod.exec("nft add rule ip nat mine tcp dport { 80, 81 } redirect to :15001");
    let mut reader = Reader::real();
    let reading = reader.reading(&pod, ["empty", "empty", "empty", "empty", "complete"]);
    assert!(part(&reading, RulesSource::IptablesNft).is_empty());
    let native = part(&reading, RulesSource::Nft);
    assert!(format!("{native:?}").contains("15001"), "{native:?}");
}

#[test]
fn the_reading_of_an_injected_pod_is_cheap() {
    let pod = Netns::new("cost");
    let other = Netns::new("costn");
    pod.restore("iptables-legacy-restore", "istio-ipv4");
    pod.restore("ip6tables-legacy-restore", "istio-ipv6");
    other.restore("iptables-nft-restore", "istio-ipv4");
    other.restore("ip6tables-nft-restore", "istio-ipv6");
    let mut reader = Reader::real();
    let legacy = reader.reading(&pod, ["complete", "complete", "empty", "empty", "empty"]);
    let nft = reader.reading(&other, ["empty", "empty", "complete", "complete", "empty"]);
    println!("legacy {} us, nft {} us", legacy.took_us, nft.took_us);
    assert!(legacy.took_us.max(nft.took_us) < 20_000);
}

#[test]
fn a_change_is_read_once_it_has_settled() {
    let pod = Netns::new("change");
    let mut reader = Reader::real();
    reader.node.rules_are_told(true);
    reader.reading(&pod, EMPTY);
    let before = reader.readings.len();
    for port in [80, 81, 82] {
        reader.node.rules_changed(pod.id());
        pod.exec(&format!(
            "iptables-legacy -t nat -A OUTPUT -p tcp --dport {port} -j REDIRECT --to-ports 15001"
        ));
    }
    let start = Instant::now();
    let netns = pod.id();
    reader.until("all three", |r| {
        r.last(netns)
            .is_some_and(|r| shown(r).contains("--dport 82"))
    });
    assert!(start.elapsed() < Duration::from_secs(3));
    let readings = &reader.readings[before..];
    assert!(readings.iter().filter(|r| r.netns == netns).count() <= 2);
}

#[test]
fn without_a_signal_a_change_is_found_all_the_same() {
    let pod = Netns::new("untold");
    let mut reader = Reader::real();
    reader.reading(&pod, EMPTY);
    pod.exec(&format!("iptables-nft {REDIRECT}"));
    reader.reading(&pod, ["empty", "empty", "complete", "empty", "empty"]);
    pod.exec("nft flush ruleset");
    reader.reading(&pod, EMPTY);
    reader.until("nothing read for nothing", |r| {
        r.node.rules_stats().reads.contains_key("unchanged")
    });
}

#[test]
fn packets_are_no_news() {
    let pod = Netns::new("packets");
    pod.exec("ip link set lo up");
    pod.exec(&format!("iptables-legacy {REDIRECT}"));
    pod.exec(&format!("iptables-nft {REDIRECT}"));
    pod.exec("nft add table inet mine");
    pod.exec("nft add chain inet mine out { type filter hook output priority 0 ; }");
    pod.exec("nft add rule inet mine out counter");
    pod.exec(
        "nft add set inet mine seen { type ipv4_addr ; flags dynamic,timeout ; timeout 1h ; }",
    );
    pod.exec("nft add rule inet mine out update @seen { ip daddr }");
    let mut reader = Reader::real();
    let expected = ["complete", "empty", "complete", "empty", "complete"];
    let before = reader.reading(&pod, expected);
    pod.exec("bash -c echo>/dev/udp/127.0.0.1/9");
    assert!(!pod.exec("nft list table inet mine").contains("packets 0"));
    reader.readings.clear();
    reader.node.read_rules(pod.id());
    assert_eq!(reader.reading(&pod, expected).ruleset, before.ruleset);
}

#[test]
fn who_asks_is_answered_even_if_nothing_changed() {
    let pod = Netns::new("asked");
    pod.exec(&format!("iptables-legacy {REDIRECT}"));
    let mut reader = Reader::real();
    reader.node.rules_are_told(true);
    let expected = ["complete", "empty", "empty", "empty", "empty"];
    reader.reading(&pod, expected);
    reader.readings.clear();
    reader.node.read_rules(pod.id());
    reader.reading(&pod, expected);
}

#[test]
fn a_namespace_that_vanishes_disturbs_nobody() {
    let mut reader = Reader::real();
    for round in 0..5 {
        let pod = Netns::new(&format!("gone{round}"));
        pod.exec(&format!("iptables-legacy {REDIRECT}"));
        let netns = pod.id();
        reader.node.rules_changed(netns);
        drop(pod);
        reader.node.read_rules(netns);
        reader.node.rules_changed(netns);
    }
    let pod = Netns::new("after");
    reader.reading(&pod, EMPTY);
    assert!(reader.troubles.iter().all(Option::is_none));
}

#[test]
fn a_program_that_hangs_is_ended_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let hangs = script(&dir, "hangs", "echo '*nat'; sleep 88.125; echo COMMIT");
    let pod = Netns::new("hangs");
    pod.exec(&format!("iptables-legacy {REDIRECT}"));
    pod.exec(&format!("ip6tables-legacy {REDIRECT}"));
    let tools = Tools::find(&[(RulesSource::IptablesLegacy, hangs)]).unwrap();
    let mut reader = Reader::new(Options {
        tools,
        time: Duration::from_millis(500),
        ..Options::default()
    });
    let expected = ["timed_out", "complete", "empty", "empty", "empty"];
    let reading = reader.reading(&pod, expected);
    assert!(part(&reading, RulesSource::IptablesLegacy).is_empty());
    assert!(!part(&reading, RulesSource::Ip6tablesLegacy).is_empty());
    reader.until("the trouble", |r| {
        r.troubles
            .iter()
            .flatten()
            .any(|t| t.contains("iptables-legacy-save did not end within 0.5 s"))
    });
    drop(reader);
    let left = Command::new("pgrep")
        .args(["-f", "sleep 88[.]125"])
        .output();
    assert!(left.unwrap().stdout.is_empty(), "it lives on");
}

#[test]
fn a_program_that_prints_without_end_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let talks = script(
        &dir,
        "talks",
        "while :; do echo '-A OUTPUT -j ACCEPT'; done",
    );
    let pod = Netns::new("talks");
    pod.exec(&format!("iptables-nft {REDIRECT}"));
    let tools = Tools::find(&[(RulesSource::IptablesNft, talks)]).unwrap();
    let mut reader = Reader::new(Options {
        tools,
        bytes: 1 << 20,
        time: PATIENCE,
        ..Options::default()
    });
    // What iptables-nft could not read is read as nftables' own.
    let reading = reader.reading(&pod, ["empty", "empty", "too_big", "empty", "complete"]);
    assert!(part(&reading, RulesSource::IptablesNft).is_empty());
    assert!(!part(&reading, RulesSource::Nft).is_empty() && !reading.is_complete());
    reader.until("the trouble", |r| {
        r.troubles
            .iter()
            .flatten()
            .any(|t| t.contains("more than 1 MiB"))
    });
}

#[test]
fn a_missing_program_is_named_while_it_is_needed() {
    let pod = Netns::new("missing");
    let mut reader = Reader::new(Options::default());
    reader.reading(&pod, EMPTY);
    pod.exec(&format!("ip6tables-legacy {REDIRECT}"));
    reader.node.rules_changed(pod.id());
    reader.reading(&pod, ["empty", "no_tool", "empty", "empty", "empty"]);
    reader.until("the trouble", |r| {
        let texts = r.troubles.iter().flatten();
        texts
            .clone()
            .any(|t| t.contains("no ip6tables-legacy-save") && t.contains("package iptables"))
    });
    assert!(reader.node.rules_stats().reads["no_tool"] > 0);
}
