//! What rules ask about sets. The saved texts are those of ipset 7.17.

use std::net::SocketAddr;

use super::*;
use crate::rules::{
    Backend, Connection, Outcome, Protocol, Ruleset, evaluate, parse_save_with, ruleset::MAX_TEXT,
};

const SAVED: &str = r#"create a hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x86d0066d
add a 10.0.0.1
add a 10.0.0.9
create n hash:net family inet hashsize 1024 maxelem 65536 counters comment bucketsize 12 initval 0x2a005b4e
add n 10.0.0.0/8 packets 0 bytes 0 comment "not nomatch"
create except hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x2a005b4e
add except 10.0.0.0/8
add except 10.1.0.0/16 nomatch
create np hash:net,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x2af31620
add np 10.2.0.0/16,tcp:80
add np 10.4.0.0/16,6:80
add np 10.4.0.0/16,17:53
add np 10.0.0.1,udp:53
create np6 hash:net,port family inet6 hashsize 1024 maxelem 65536 bucketsize 12 initval 0x2af31620
add np6 2001:db8::/32,tcp:80
create p bitmap:port range 0-1000
add p 80
add p 81
create three hash:ip,port,net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x36cc366e
add three 10.0.0.1,sctp:5,10.0.0.0/24
add three 10.0.0.1,tcp:80,10.0.0.0/24
create b bitmap:ip range 10.0.0.0-10.0.0.255 netmask 28
add b 10.0.0.16
create m hash:ip family inet hashsize 1024 maxelem 65536 netmask 24 bucketsize 12 initval 0x4130a890
add m 10.2.3.0
create times hash:ip family inet hashsize 1024 maxelem 65536 timeout 30 bucketsize 12 initval 0x4130a890
add times 10.2.3.4 timeout 29
create faces hash:net,iface family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x6afa7d23
add faces 10.0.0.0/8,eth0
create of list:set size 8
add of a
create empty hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x86d0066d
create filled hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x86d0066d
add filled 10.0.0.1
"#;

fn rules(matches: &str) -> String {
    format!("*nat\n:OUTPUT ACCEPT\n-A OUTPUT {matches} -j REDIRECT --to-ports 15001\nCOMMIT\n")
}

fn parsed(text: &str, saved: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut sets = IpSets::read(saved, &[text]);
    parse_save_with(text, Backend::Nft, Family::Ipv4, &mut sets, &mut rules);
    assert_eq!(rules.problems, []);
    rules
}

/// Whether a connection from 10.0.0.1 meets the matches; `None` is unknown.
fn met(matches: &str, protocol: Protocol, to: &str) -> Option<bool> {
    let from: SocketAddr = "10.0.0.1:5000".parse().ok()?;
    let to: SocketAddr = to.parse().ok()?;
    let connection = Connection::outbound(protocol, from, to, Some(vec![from.ip()]));
    match evaluate(&parsed(&rules(matches), SAVED), &connection).outcome {
        Outcome::Redirected { .. } => Some(true),
        Outcome::Direct => Some(false),
        _ => None,
    }
}

fn tcp(matches: &str, to: &str) -> Option<bool> {
    met(matches, Protocol::Tcp, to)
}

#[test]
fn addresses_and_networks_are_asked_on_their_side() {
    assert_eq!(tcp("-m set --match-set a dst", "10.0.0.9:1"), Some(true));
    assert_eq!(tcp("-m set --match-set a dst", "10.0.0.8:1"), Some(false));
    assert_eq!(tcp("-m set ! --match-set a dst", "10.0.0.8:1"), Some(true));
    assert_eq!(tcp("-m set --match-set a src", "10.0.0.8:1"), Some(true));
    assert_eq!(tcp("-m set --match-set n dst", "10.200.0.1:1"), Some(true));
    assert_eq!(tcp("-m set --match-set n dst", "11.0.0.1:1"), Some(false));
    assert_eq!(
        tcp("-m set --match-set empty dst", "11.0.0.1:1"),
        Some(false)
    );
    let counts = "-m set --match-set n dst ! --update-counters ! --update-subcounters";
    assert_eq!(tcp(counts, "10.200.0.1:1"), Some(true));
}

#[test]
fn an_element_of_several_parts_is_met_as_a_whole() {
    let both = "-m set --match-set np dst,dst";
    assert_eq!(tcp(both, "10.2.9.9:80"), Some(true));
    assert_eq!(tcp(both, "10.2.9.9:81"), Some(false));
    // Where nobody has names for protocols.
    assert_eq!(tcp(both, "10.4.9.9:80"), Some(true));
    assert_eq!(tcp(both, "10.4.9.9:53"), Some(false));
    assert_eq!(tcp(both, "10.3.9.9:80"), Some(false));
    assert_eq!(met(both, Protocol::Udp, "10.2.9.9:80"), Some(false));
    let mixed = "-m set --match-set np src,dst";
    assert_eq!(met(mixed, Protocol::Udp, "10.9.9.9:53"), Some(true));
    let three = "-m set --match-set three src,dst,dst";
    assert_eq!(tcp(three, "10.0.0.77:80"), Some(true));
    assert_eq!(tcp(three, "10.0.0.77:5"), Some(false));
    assert_eq!(
        tcp("-m set ! --match-set three src,dst,dst", "10.0.1.77:80"),
        Some(true)
    );
    // Another family is never in it, and one side of two is no question.
    assert_eq!(
        tcp("-m set --match-set np6 dst,dst", "10.2.9.9:80"),
        Some(false)
    );
    assert_eq!(tcp("-m set --match-set np dst", "10.2.9.9:80"), Some(false));
    assert_eq!(
        tcp("-m set ! --match-set np dst", "10.2.9.9:80"),
        Some(true)
    );
}

#[test]
fn ports_and_masked_addresses_have_bitmaps() {
    let port = "-m set --match-set p dst";
    assert_eq!(tcp(port, "10.9.9.9:81"), Some(true));
    assert_eq!(met(port, Protocol::Udp, "10.9.9.9:80"), Some(true));
    assert_eq!(tcp(port, "10.9.9.9:82"), Some(false));
    assert_eq!(tcp("-m set --match-set b dst", "10.0.0.31:1"), Some(true));
    assert_eq!(tcp("-m set --match-set b dst", "10.0.0.32:1"), Some(false));
    assert_eq!(tcp("-m set --match-set m dst", "10.2.3.200:1"), Some(true));
    assert_eq!(tcp("-m set --match-set m dst", "10.2.4.200:1"), Some(false));
}

#[test]
fn what_cannot_be_said_is_unknown_with_its_reason() {
    for (name, why) in [
        ("times", "changes with time and traffic"),
        ("except", "has exceptions"),
        ("faces", "of the type `hash:net,iface`"),
        ("of", "of the type `list:set`"),
        ("gone", "there is no set `gone`"),
    ] {
        let matches = format!("-m set --match-set {name} dst,dst");
        assert_eq!(tcp(&matches, "10.0.0.1:80"), None, "{name}");
        let shown = format!("{:?}", parsed(&rules(&matches), SAVED));
        assert!(shown.contains(why), "{shown}");
    }
    let exceptions = "-m set --match-set n dst --return-nomatch";
    assert_eq!(tcp(exceptions, "10.200.0.1:80"), None);
    assert_eq!(
        tcp("-m set --match-set n dst --packets-gt 3", "10.2.0.1:80"),
        None
    );
    // What was not read at all.
    let text = rules("-m set --match-set a dst");
    let mut unread = Ruleset::default();
    crate::rules::parse_save(&text, Backend::Nft, Family::Ipv4, &mut unread);
    assert!(format!("{unread:?}").contains("what is in the set `a` is not known"));
}

#[test]
fn a_set_that_rules_fill_is_not_told() {
    let filled = "*mangle\n-A OUTPUT -j SET --add-set filled src\nCOMMIT\n";
    let text = filled.to_owned() + &rules("-m set --match-set filled dst");
    assert!(format!("{:?}", parsed(&text, SAVED)).contains("changes with time and traffic"));
}

#[test]
fn the_order_of_the_kernels_table_is_no_difference() {
    let text = rules("-m set --match-set a dst");
    let turned: Vec<&str> = SAVED.lines().take(3).collect();
    let turned = [turned[0], turned[2], turned[1]].join("\n");
    assert_eq!(parsed(&text, SAVED), parsed(&text, &turned));
}

#[test]
fn what_is_handed_out_is_bounded() {
    let element = |n: usize| format!("add a 10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255);
    let elements: String = (0..MAX_ELEMENTS / 2 + 1).map(element).collect();
    let saved = format!("create a hash:ip family inet\n{elements}");
    let one = rules("-m set --match-set a dst");
    assert!(!format!("{:?}", parsed(&one, &saved)).contains("too many"));
    let two = rules("-m set --match-set a dst -m set --match-set a src");
    assert!(format!("{:?}", parsed(&two, &saved)).contains("one of too many elements"));
    let long = rules(&format!(
        "-m set --match-set {} dst",
        "x".repeat(9 * MAX_TEXT)
    ));
    assert!(format!("{:?}", parsed(&long, &saved)).len() < 9 * MAX_TEXT);
}

#[test]
fn only_rules_that_ask_make_anybody_look() {
    assert!(IpSets::asks(&rules("-m set ! --match-set a dst")));
    assert!(!IpSets::asks(&rules("-m comment --comment match-set")));
    assert!(!IpSets::asks("-A OUTPUT -j SET --add-set a src\n"));
}
