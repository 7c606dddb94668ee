//! Random rule sets around what meshes write, and random connections that meet them.
//!
//! A rule set is a small tree that both dialects can be written from (`save.rs`, `native.rs`), so that one failure can be
//! compared across backends. Values come from short lists: a match that no connection ever meets tests nothing.
//!
//! It must never make rules that decide about replies: only the first packet of a connection is evaluated, and what
//! happens to the second would be mistaken for it. Hence a port in every rule that drops.

use std::net::IpAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::sets::{Asked, asked};

/// Ports that services listen on, on both sides.
pub(crate) const SERVICES: &[u16] = &[53, 80, 443, 8080, 9090, 15008, 15020, 15021];
/// Ports that proxies listen on, in the pod.
pub(crate) const CAPTURES: &[u16] = &[4140, 15001, 15006, 15053];
const UIDS: &[u32] = &[0, 1000, 1337, 2102];
const GIDS: &[u32] = &[0, 1000, 1337];
const MARKS: &[u32] = &[0x539, 0x111, 1337, 1338];
const MASKS: &[u32] = &[0xffff_ffff, 0xfff];

/// A family, as the rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    Four,
    /// IPv6.
    Six,
}

/// Which side dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A process of the pod.
    Outbound,
    /// A peer of the pod.
    Inbound,
}

/// How rules are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `iptables-legacy-restore`.
    Legacy,
    /// `iptables-nft-restore`.
    Nft,
    /// `nft -f`.
    Native,
}

/// A condition of a rule; `not` turns it round.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) not: bool,
    pub(crate) what: What,
}

/// What a condition is about.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Goes out by, or came in by.
    Interface(&'static str),
    /// Source, index into [`nets`].
    Source(usize),
    /// Destination, index into [`nets`].
    Destination(usize),
    /// Destination ports, first and last.
    Ports(u16, u16),
    /// A list of destination ports.
    Multiport(Vec<u16>),
    /// User of the socket, first and last.
    Uid(u32, u32),
    /// Group of the socket.
    Gid(u32),
    /// The destination is the namespace's own.
    Local,
    /// Mark of the packet and its mask.
    Mark(u32, u32),
    /// Mark of the connection and its mask.
    Connmark(u32, u32),
    /// First packet of a connection.
    New,
    /// Somebody listens where the packet goes: at that address, or anywhere. Only what comes in is asked.
    Listener { anywhere: bool },
    /// Something of the packet is in a set.
    Set(Asked),
}

/// What a rule does.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Return,
    Accept,
    Drop,
    Reject,
    Redirect(u16),
    /// To the n-th chain after this one: no loops.
    Jump(usize),
    Goto(usize),
    SetMark(u32, u32),
    SetConnmark(u32, u32),
    SaveMark,
    RestoreMark,
    Notrack,
}

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) tcp: bool,
    pub(crate) when: Vec<Condition>,
    pub(crate) then: Then,
}

/// The rules of one table: a base chain, and chains that only rules lead to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) base: Vec<Rule>,
    pub(crate) chains: Vec<Vec<Rule>>,
}

/// All rules of one side and family.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) raw: Table,
    pub(crate) mangle: Table,
    pub(crate) nat: Table,
    pub(crate) filter: Table,
}

/// A connection to make. Addresses are indices into what the world has.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) to: usize,
    pub(crate) port: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// From 127.0.0.6 or ::6, as proxies dial their app; only to the pod itself.
    pub(crate) from_bind: bool,
}

/// Rules, and connections that meet them.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) dialect: Dialect,
    pub(crate) family: Family,
    pub(crate) side: Side,
    pub(crate) rules: Rules,
    pub(crate) dials: Vec<Dial>,
}

/// Networks that rules name, by family; the world has addresses in all of them.
pub(crate) fn nets(family: Family) -> &'static [&'static str] {
    match family {
        Family::Four => &[
            "127.0.0.1/32",
            "127.0.0.6/32",
            "127.0.0.0/8",
            "10.97.0.1/32",
            "10.97.0.2/32",
            "10.97.0.0/24",
            "10.96.0.0/16",
            "10.96.0.10/32",
        ],
        Family::Six => &[
            "::1/128",
            "::6/128",
            "fd97::1/128",
            "fd97::2/128",
            "fd97::/64",
            "fd96::/64",
            "fd96::10/128",
        ],
    }
}

/// Addresses that connections go to: the pod's own, the peer's, and services behind the peer.
pub(crate) fn destinations(family: Family, side: Side) -> Vec<IpAddr> {
    let texts: &[&str] = match (side, family) {
        (Side::Outbound, Family::Four) => &[
            "127.0.0.1",
            "127.0.0.9",
            "10.97.0.1",
            "10.97.0.2",
            "10.96.0.10",
            "10.96.0.99",
        ],
        (Side::Outbound, Family::Six) => &["::1", "fd97::1", "fd97::2", "fd96::10", "fd96::99"],
        (Side::Inbound, Family::Four) => &["10.97.0.1"],
        (Side::Inbound, Family::Six) => &["fd97::1"],
    };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A case of one dialect.
pub(crate) fn case(dialects: Vec<Dialect>) -> impl Strategy<Value = Case> {
    let family = prop_oneof![Just(Family::Four), Just(Family::Six)];
    let side = prop_oneof![3 => Just(Side::Outbound), 1 => Just(Side::Inbound)];
    (select(dialects), family, side).prop_flat_map(|(dialect, family, side)| {
        (rules(family, side), vec(dial(family, side), 1..9)).prop_map(move |(rules, dials)| Case {
            dialect,
            family,
            side,
            rules,
            dials,
        })
    })
}

fn dial(family: Family, side: Side) -> impl Strategy<Value = Dial> {
    let to = 0..destinations(family, side).len();
    (
        to,
        select(SERVICES),
        select(UIDS),
        select(GIDS),
        prop::bool::weighted(0.15),
    )
        .prop_map(|(to, port, uid, gid, from_bind)| Dial {
            to,
            port,
            uid,
            gid,
            from_bind,
        })
}

fn rules(family: Family, side: Side) -> impl Strategy<Value = Rules> {
    let quiet = |table| option::weighted(0.3, table).prop_map(Option::unwrap_or_default);
    (
        quiet(table(family, side, raw_then().boxed(), 3, false)),
        quiet(table(family, side, mangle_then().boxed(), 4, false)),
        table(family, side, nat_then().boxed(), 7, false),
        quiet(table(family, side, filter_then().boxed(), 3, true)),
    )
        .prop_map(|(raw, mangle, nat, filter)| Rules {
            raw,
            mangle,
            nat,
            filter,
        })
}

fn table(
    family: Family,
    side: Side,
    then: BoxedStrategy<Then>,
    most: usize,
    ported: bool,
) -> impl Strategy<Value = Table> {
    let rules = move |most: usize, then: BoxedStrategy<Then>| {
        vec(rule(family, side, then, ported), 0..most)
    };
    (
        rules(most.div_ceil(2) + 1, with_jumps(then.clone())),
        vec(rules(most + 1, with_jumps(then)), 0..4),
    )
        .prop_map(|(base, chains)| Table { base, chains })
}

fn with_jumps(then: BoxedStrategy<Then>) -> BoxedStrategy<Then> {
    prop_oneof![
        4 => then,
        2 => (0..3_usize).prop_map(Then::Jump),
        1 => (0..3_usize).prop_map(Then::Goto),
    ]
    .boxed()
}

fn nat_then() -> impl Strategy<Value = Then> {
    prop_oneof![
        3 => Just(Then::Return),
        1 => Just(Then::Accept),
        4 => select(CAPTURES).prop_map(Then::Redirect),
    ]
}

fn raw_then() -> impl Strategy<Value = Then> {
    prop_oneof![2 => Just(Then::Return), 1 => Just(Then::Accept), 1 => Just(Then::Notrack)]
}

fn mangle_then() -> impl Strategy<Value = Then> {
    prop_oneof![
        1 => Just(Then::Return),
        1 => Just(Then::Accept),
        3 => (select(MARKS), select(MASKS)).prop_map(|(v, m)| Then::SetMark(v & m, m)),
        2 => (select(MARKS), select(MASKS)).prop_map(|(v, m)| Then::SetConnmark(v & m, m)),
        1 => Just(Then::SaveMark),
        1 => Just(Then::RestoreMark),
    ]
}

fn filter_then() -> impl Strategy<Value = Then> {
    prop_oneof![
        2 => Just(Then::Return),
        2 => Just(Then::Accept),
        1 => Just(Then::Drop),
        1 => Just(Then::Reject),
    ]
}

fn rule(
    family: Family,
    side: Side,
    then: BoxedStrategy<Then>,
    ported: bool,
) -> impl Strategy<Value = Rule> {
    let ports = condition(port().boxed());
    (
        prop::bool::weighted(0.7),
        vec(condition(what(family, side)), 0..4),
        ports,
        then,
    )
        .prop_map(move |(tcp, mut when, port, then)| {
            // A kind of match once per rule: that is all that iptables can say.
            when.sort_by_key(|c| kind(&c.what));
            when.dedup_by_key(|c| kind(&c.what));
            let needs = ported || matches!(then, Then::Drop | Then::Reject | Then::Notrack);
            if needs {
                when.retain(|c| kind(&c.what) != kind(&What::Ports(0, 0)));
                when.push(Condition { not: false, ..port });
            }
            if matches!(then, Then::Notrack) {
                // Inside the pod, answers would be tracked as connections of their own, and redirected.
                when.retain(|c| kind(&c.what) != kind(&What::Interface("")));
                let what = What::Interface("eth0");
                when.push(Condition { not: false, what });
            }
            let about_ports = |c: &Condition| kind(&c.what) == kind(&What::Ports(0, 0));
            let redirects = matches!(then, Then::Redirect(_) | Then::Reject);
            let tcp = tcp || redirects || when.iter().any(about_ports);
            Rule { tcp, when, then }
        })
}

/// Conditions that exclude each other in one rule have the same number.
const fn kind(what: &What) -> u8 {
    match what {
        What::Interface(_) => 0,
        What::Source(_) => 1,
        What::Destination(_) => 2,
        What::Ports(..) | What::Multiport(_) => 3,
        What::Uid(..) => 4,
        What::Gid(_) => 5,
        What::Local => 6,
        What::Mark(..) => 7,
        What::Connmark(..) => 8,
        What::New => 9,
        What::Listener { .. } => 10,
        What::Set(_) => 11,
    }
}

fn condition(what: BoxedStrategy<What>) -> impl Strategy<Value = Condition> {
    (prop::bool::weighted(0.3), what).prop_map(|(not, what)| Condition { not, what })
}

fn port() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => select(SERVICES).prop_map(|p| What::Ports(p, p)),
        1 => (select(SERVICES), 0..500_u16).prop_map(|(p, n)| What::Ports(p, p + n)),
        1 => vec(select(SERVICES), 1..4).prop_map(|mut list| {
            list.sort_unstable();
            list.dedup();
            What::Multiport(list)
        }),
    ]
}

fn what(family: Family, side: Side) -> BoxedStrategy<What> {
    let nets = nets(family).len();
    let any = prop_oneof![
        3 => prop_oneof![Just("lo"), Just("eth0"), Just("eth+")].prop_map(What::Interface),
        2 => (0..nets).prop_map(What::Source),
        3 => (0..nets).prop_map(What::Destination),
        3 => port(),
        1 => Just(What::Local),
        1 => (select(MARKS), select(MASKS)).prop_map(|(v, m)| What::Mark(v & m, m)),
        1 => (select(MARKS), select(MASKS)).prop_map(|(v, m)| What::Connmark(v & m, m)),
        1 => Just(What::New),
        2 => asked().prop_map(What::Set),
    ];
    match side {
        Side::Inbound => prop_oneof![
            12 => any,
            2 => prop::bool::ANY.prop_map(|anywhere| What::Listener { anywhere }),
        ]
        .boxed(),
        Side::Outbound => prop_oneof![
            5 => any,
            2 => (select(UIDS), prop::bool::weighted(0.2))
                .prop_map(|(uid, range)| What::Uid(uid, if range { uid + 500 } else { uid })),
            2 => select(GIDS).prop_map(What::Gid),
        ]
        .boxed(),
    }
}
