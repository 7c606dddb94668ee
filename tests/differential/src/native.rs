//! The same rule set as `nft -f` takes it.
//!
//! One table per part with the priorities that iptables has, so that both dialects mean the same. A chain is written before
//! the rules that lead to it.

use std::fmt::Write as _;

use crate::{
    grammar::{Condition, Family, Rule, Rules, Side, Table, Then, What, nets},
    save::leads_to,
    sets,
};

/// A script that makes one table per part.
pub(crate) fn text(rules: &Rules, family: Family, side: Side) -> String {
    let (early, late) = match side {
        Side::Outbound => ("output", "output"),
        Side::Inbound => ("prerouting", "input"),
    };
    let mangle = if side == Side::Outbound {
        "route"
    } else {
        "filter"
    };
    let mut text = String::new();
    for (name, kind, hook, priority, table) in [
        ("raw", "filter", early, -300, &rules.raw),
        ("mangle", mangle, early, -150, &rules.mangle),
        ("nat", "nat", early, -100, &rules.nat),
        ("filter", "filter", late, 0, &rules.filter),
    ] {
        let _ = writeln!(text, "table inet m-{name} {{");
        // A chain must be there before a rule leads to it.
        for (index, chain) in table.chains.iter().enumerate().rev() {
            let _ = writeln!(text, " chain m{index} {{");
            for rule in chain {
                line(&mut text, rule, table, index + 1, family, side);
            }
            text.push_str(" }\n");
        }
        let _ = writeln!(
            text,
            " chain base {{\n  type {kind} hook {hook} priority {priority}; policy accept;"
        );
        for rule in &table.base {
            line(&mut text, rule, table, 0, family, side);
        }
        text.push_str(" }\n}\n");
    }
    text
}

fn line(text: &mut String, rule: &Rule, table: &Table, next: usize, family: Family, side: Side) {
    let Some(then) = then(&rule.then, table, next) else {
        return;
    };
    text.push_str("  ");
    if rule.tcp {
        text.push_str("meta l4proto tcp ");
    }
    for condition in &rule.when {
        let _ = write!(text, "{} ", when(condition, family, side));
    }
    let _ = writeln!(text, "counter {then}");
}

fn when(condition: &Condition, family: Family, side: Side) -> String {
    let not = if condition.not { "!= " } else { "" };
    let ip = match family {
        Family::Four => "ip",
        Family::Six => "ip6",
    };
    match &condition.what {
        What::Interface(name) => {
            let field = if side == Side::Outbound {
                "oifname"
            } else {
                "iifname"
            };
            format!("{field} {not}\"{}\"", name.replace('+', "*"))
        }
        What::Source(net) => format!("{ip} saddr {not}{}", nets(family)[*net]),
        What::Destination(net) => format!("{ip} daddr {not}{}", nets(family)[*net]),
        What::Ports(a, b) if a == b => format!("tcp dport {not}{a}"),
        What::Ports(a, b) => format!("tcp dport {not}{a}-{b}"),
        What::Multiport(list) => {
            let list: Vec<String> = list.iter().map(u16::to_string).collect();
            format!("tcp dport {not}{{ {} }}", list.join(", "))
        }
        What::Uid(a, b) if a == b => format!("meta skuid {not}{a}"),
        What::Uid(a, b) => format!("meta skuid {not}{a}-{b}"),
        What::Gid(gid) => format!("meta skgid {not}{gid}"),
        What::Local => format!("fib daddr type {not}local"),
        What::Mark(value, mask) => masked("meta mark", condition.not, *value, *mask),
        What::Connmark(value, mask) => masked("ct mark", condition.not, *value, *mask),
        What::New => format!("ct state {not}new"),
        What::Set(asked) => sets::native(*asked, not, family),
        What::Listener { anywhere } => format!("socket wildcard {not}{}", u8::from(*anywhere)),
    }
}

fn masked(field: &str, not: bool, value: u32, mask: u32) -> String {
    let op = if not { "!=" } else { "==" };
    if mask == u32::MAX {
        format!("{field} {op} {value:#x}")
    } else {
        format!("{field} and {mask:#x} {op} {value:#x}")
    }
}

fn then(then: &Then, table: &Table, next: usize) -> Option<String> {
    let set = |field: &str, value: u32, mask: u32| {
        if mask == u32::MAX {
            format!("{field} set {value:#x}")
        } else {
            format!("{field} set {field} and {:#x} xor {value:#x}", !mask)
        }
    };
    Some(match then {
        Then::Return => "return".into(),
        Then::Accept => "accept".into(),
        Then::Drop => "drop".into(),
        Then::Reject => "reject with tcp reset".into(),
        Then::Redirect(port) => format!("redirect to :{port}"),
        Then::Jump(n) => format!("jump m{}", leads_to(*n, next, table)?),
        Then::Goto(n) => format!("goto m{}", leads_to(*n, next, table)?),
        Then::SetMark(value, mask) => set("meta mark", *value, *mask),
        Then::SetConnmark(value, mask) => set("ct mark", *value, *mask),
        Then::SaveMark => "ct mark set meta mark".into(),
        Then::RestoreMark => "meta mark set ct mark".into(),
        Then::Notrack => "notrack".into(),
    })
}
