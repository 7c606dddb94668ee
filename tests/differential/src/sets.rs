//! Sets that rules name: the same in every case, of the types that the agent reads.
//!
//! They are there before any rule is, as those who make them see to it. nftables' own rules have their content written out.

use proptest::prelude::*;

use crate::grammar::Family;

/// All of them, as `ipset restore` takes them. A small machine has no names for protocols; a port alone is one of TCP.
pub(crate) const CONTENT: &str = "\
create nets4 hash:net family inet
add nets4 10.97.0.0/24
add nets4 10.96.0.10
create nets6 hash:net family inet6
add nets6 fd97::/64
add nets6 fd96::10
create pairs4 hash:ip,port family inet
add pairs4 10.97.0.1,8080
add pairs4 10.97.0.2,443
add pairs4 10.96.0.10,53
add pairs4 10.96.0.10,17:80
create pairs6 hash:net,port family inet6
add pairs6 fd97::1,8080
add pairs6 fd96::/64,53
create ports bitmap:port range 0-65535
add ports 80
add ports 15020-15021
";

/// What a rule asks of which set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// Whether the source is one of some networks.
    From,
    /// Whether the destination is.
    To,
    /// Whether destination and port are one of some pairs.
    Pair,
    /// Whether the port is one of some.
    Port,
}

/// Any of the questions.
pub(crate) fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        1 => Just(Asked::From),
        2 => Just(Asked::To),
        2 => Just(Asked::Pair),
        1 => Just(Asked::Port),
    ]
}

/// As `iptables` asks it.
pub(crate) fn saved(asked: Asked, not: &str, family: Family) -> String {
    let number = match family {
        Family::Four => 4,
        Family::Six => 6,
    };
    let rest = match asked {
        Asked::From => format!("nets{number} src"),
        Asked::To => format!("nets{number} dst"),
        Asked::Pair => format!("pairs{number} dst,dst"),
        Asked::Port => "ports dst".to_owned(),
    };
    format!("-m set {not}--match-set {rest}")
}

/// As nftables asks the same.
pub(crate) fn native(asked: Asked, not: &str, family: Family) -> String {
    let (ip, nets, pairs) = match family {
        Family::Four => (
            "ip",
            "{ 10.97.0.0/24, 10.96.0.10 }",
            "{ 10.97.0.1 . 8080, 10.97.0.2 . 443, 10.96.0.10 . 53 }",
        ),
        Family::Six => (
            "ip6",
            "{ fd97::/64, fd96::10 }",
            "{ fd97::1 . 8080, fd96::10 . 53, fd96::99 . 53 }",
        ),
    };
    match asked {
        Asked::From => format!("{ip} saddr {not}{nets}"),
        Asked::To => format!("{ip} daddr {not}{nets}"),
        Asked::Pair => format!("{ip} daddr . tcp dport {not}{pairs}"),
        Asked::Port => format!("tcp dport {not}{{ 80, 15020-15021 }}"),
    }
}
