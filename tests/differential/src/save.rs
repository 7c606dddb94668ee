//! A rule set as `iptables-restore` takes it.
//!
//! One line per rule, chains declared first. What the front end cannot say in one rule the grammar does not make, so a
//! refusal of the tool is a fault here and not a case.

use std::fmt::Write as _;

use crate::grammar::{Condition, Family, Rule, Rules, Side, Table, Then, What, nets};
use crate::sets;

/// The whole input of one restore.
pub(crate) fn text(rules: &Rules, family: Family, side: Side) -> String {
    let (early, late) = match side {
        Side::Outbound => ("OUTPUT", "OUTPUT"),
        Side::Inbound => ("PREROUTING", "INPUT"),
    };
    let mut text = String::new();
    for (name, hook, table) in [
        ("raw", early, &rules.raw),
        ("mangle", early, &rules.mangle),
        ("nat", early, &rules.nat),
        ("filter", late, &rules.filter),
    ] {
        let _ = writeln!(text, "*{name}");
        for index in 0..table.chains.len() {
            let _ = writeln!(text, ":M{index} - [0:0]");
        }
        for (index, chain) in table.chains.iter().enumerate() {
            for rule in chain {
                line(
                    &mut text,
                    &format!("M{index}"),
                    rule,
                    table,
                    index + 1,
                    family,
                    side,
                );
            }
        }
        for rule in &table.base {
            line(&mut text, hook, rule, table, 0, family, side);
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The chain a jump leads to from a place before `next`; none left: nowhere.
pub(crate) fn leads_to(n: usize, next: usize, table: &Table) -> Option<usize> {
    let left = table.chains.len().checked_sub(next)?;
    (left > 0).then(|| next + n % left)
}

fn line(
    text: &mut String,
    chain: &str,
    rule: &Rule,
    table: &Table,
    next: usize,
    family: Family,
    side: Side,
) {
    let Some(then) = then(&rule.then, table, next) else {
        return;
    };
    let _ = write!(text, "-A {chain}");
    if rule.tcp {
        text.push_str(" -p tcp");
    }
    for condition in &rule.when {
        let _ = write!(text, " {}", when(condition, family, side));
    }
    let _ = writeln!(text, " {then}");
}

fn when(condition: &Condition, family: Family, side: Side) -> String {
    let not = if condition.not { "! " } else { "" };
    match &condition.what {
        What::Interface(name) => {
            let flag = if side == Side::Outbound { "-o" } else { "-i" };
            format!("{not}{flag} {name}")
        }
        What::Source(net) => format!("{not}-s {}", nets(family)[*net]),
        What::Destination(net) => format!("{not}-d {}", nets(family)[*net]),
        What::Ports(a, b) if a == b => format!("-m tcp {not}--dport {a}"),
        What::Ports(a, b) => format!("-m tcp {not}--dport {a}:{b}"),
        What::Multiport(list) => {
            let list: Vec<String> = list.iter().map(u16::to_string).collect();
            format!("-m multiport {not}--dports {}", list.join(","))
        }
        What::Uid(a, b) if a == b => format!("-m owner {not}--uid-owner {a}"),
        What::Uid(a, b) => format!("-m owner {not}--uid-owner {a}-{b}"),
        What::Gid(gid) => format!("-m owner {not}--gid-owner {gid}"),
        What::Local => format!("-m addrtype {not}--dst-type LOCAL"),
        What::Mark(value, mask) => format!("-m mark {not}--mark {value:#x}/{mask:#x}"),
        What::Connmark(value, mask) => format!("-m connmark {not}--mark {value:#x}/{mask:#x}"),
        What::New => format!("-m conntrack {not}--ctstate NEW"),
        What::Set(asked) => sets::saved(*asked, not, family),
        // There is no `not` for the match itself.
        What::Listener { anywhere: true } => "-m socket --nowildcard".to_owned(),
        What::Listener { anywhere: false } => "-m socket".to_owned(),
    }
}

fn then(then: &Then, table: &Table, next: usize) -> Option<String> {
    Some(match then {
        Then::Return => "-j RETURN".into(),
        Then::Accept => "-j ACCEPT".into(),
        Then::Drop => "-j DROP".into(),
        Then::Reject => "-j REJECT --reject-with tcp-reset".into(),
        Then::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Then::Jump(n) => format!("-j M{}", leads_to(*n, next, table)?),
        Then::Goto(n) => format!("-g M{}", leads_to(*n, next, table)?),
        Then::SetMark(value, mask) => format!("-j MARK --set-xmark {value:#x}/{mask:#x}"),
        Then::SetConnmark(value, mask) => format!("-j CONNMARK --set-xmark {value:#x}/{mask:#x}"),
        Then::SaveMark => "-j CONNMARK --save-mark".into(),
        Then::RestoreMark => "-j CONNMARK --restore-mark".into(),
        Then::Notrack => "-j CT --notrack".into(),
    })
}
