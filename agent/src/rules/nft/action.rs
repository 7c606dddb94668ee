//! What a native rule does: verdicts, translation, marks, and maps of each.
//!
//! Statements that only some packets pass (limits, quotas, meters) are unknown conditions. Whatever could change a packet's
//! way and is not known here is an unknown action.

use serde_json::Value;

use super::super::{
    matching::{Field, Match, Test},
    ruleset::{Action, MarkOf, SetMark, Statement, Target},
};
use super::expression::{addresses, is_everything, one_of};
use super::left::{left, number_of, only_entry};
use super::sets::Sets;
use super::{TableKey, render};

/// The statements of an expression that is no comparison.
pub(super) fn read<'j>(
    table: TableKey<'j>,
    expression: &'j Value,
    sets: &mut Sets<'j>,
) -> Vec<Statement> {
    let Some((name, inner)) = only_entry(expression) else {
        return vec![unknown(expression)];
    };
    if let Some(verdict) = verdict(name, inner) {
        return vec![Statement::Do(verdict)];
    }
    match name {
        "limit" | "quota" | "meter" | "ct count" => vec![by_chance(expression)],
        "set" if inner.get("stmt").is_some_and(is_not_empty) => vec![by_chance(expression)],
        "xt" if inner.get("type").and_then(Value::as_str) == Some("match") => {
            vec![by_chance(expression)]
        }
        "counter" | "log" | "set" | "map" | "ct helper" | "ct timeout" | "ct expectation"
        | "dup" | "flow" | "last" | "secmark" | "comment" => vec![Statement::Do(Action::Nothing)],
        "notrack" => vec![Statement::Do(Action::Notrack)],
        "snat" | "masquerade" => vec![Statement::Do(Action::SourceNat)],
        "redirect" | "dnat" => translate(table, expression, name, inner, sets),
        "tproxy" => tproxy(inner).unwrap_or_else(|| vec![unknown(expression)]),
        "mangle" => vec![mangle(inner).map_or_else(|| unknown(expression), Statement::Do)],
        "vmap" => cases(table, inner, sets, |value| {
            let (name, inner) = only_entry(value)?;
            verdict(name, inner)
        }),
        _ => vec![unknown(expression)],
    }
}

fn is_not_empty(value: &Value) -> bool {
    value.as_array().is_none_or(|all| !all.is_empty())
}

fn unknown(expression: &Value) -> Statement {
    let what = render::statement(expression);
    Statement::Do(Action::Unknown(format!(
        "what `{what}` does is not understood"
    )))
}

fn by_chance(expression: &Value) -> Statement {
    let what = render::statement(expression);
    Statement::When(Match::unknown(format!(
        "`{what}` depends on more than the connection"
    )))
}

fn verdict(name: &str, inner: &Value) -> Option<Action> {
    let target = || {
        let chain = inner.get("target")?.as_str()?.to_owned();
        Some(Target { chain, index: None })
    };
    Some(match name {
        "accept" => Action::Accept,
        "drop" => Action::Drop,
        "reject" => Action::Reject,
        "return" => Action::Return,
        "continue" => Action::Nothing,
        "jump" => Action::Jump(target()?),
        "goto" => Action::Goto(target()?),
        _ => return None,
    })
}

/// A map from values of a field to actions.
fn cases<'j>(
    table: TableKey<'j>,
    map: &'j Value,
    sets: &mut Sets<'j>,
    action: impl Fn(&'j Value) -> Option<Action>,
) -> Vec<Statement> {
    let mut demands = Vec::new();
    let field = left(map.get("key").unwrap_or(&Value::Null), &mut demands);
    let mut statements: Vec<Statement> = (demands.into_iter())
        .map(|demand| Statement::When(Match::is(demand)))
        .collect();
    let elements = match sets.elements(table, map.get("data").unwrap_or(&Value::Null)) {
        Ok(elements) => elements,
        Err(what) => {
            statements.push(Statement::Do(Action::Unknown(what)));
            return statements;
        }
    };
    let mut all = Vec::new();
    let mut otherwise = None;
    for element in elements {
        let pair = element.as_array().map(Vec::as_slice);
        let Some([key, value]) = pair else {
            return vec![unknown(element)];
        };
        let action = action(value).unwrap_or_else(|| {
            Action::Unknown(format!("`{}` is not understood", render::expression(value)))
        });
        if is_everything(key) {
            otherwise = Some((Match::is(Test::Always), action));
            continue;
        }
        let test = one_of(&field, std::slice::from_ref(key)).unwrap_or_else(Test::Unknown);
        all.push((Match::is(test), action));
    }
    all.extend(otherwise);
    statements.push(Statement::Do(Action::Cases(all)));
    statements
}

fn translate<'j>(
    table: TableKey<'j>,
    expression: &'j Value,
    name: &str,
    inner: &'j Value,
    sets: &mut Sets<'j>,
) -> Vec<Statement> {
    let port = inner.get("port");
    if name == "dnat"
        && let Some(map) = inner.get("addr").and_then(|address| address.get("map"))
    {
        return cases(table, map, sets, |value| mapped(value, port));
    }
    let action = if name == "redirect" {
        ports(port).map(|ports| Action::Redirect { ports })
    } else {
        destination(inner.get("addr"), port)
    };
    vec![action.map_or_else(|| unknown(expression), Statement::Do)]
}

/// What a map of destinations has: an address, or an address and a port.
fn mapped(value: &Value, port: Option<&Value>) -> Option<Action> {
    match value
        .get("concat")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([address, port]) => destination(Some(address), Some(port)),
        Some(_) => None,
        None => destination(Some(value), port),
    }
}

fn destination(address: Option<&Value>, port: Option<&Value>) -> Option<Action> {
    let addresses = match address {
        Some(address) => Some(addresses(address)?),
        None => None,
    };
    let ports = ports(port)?;
    Some(Action::Dnat { addresses, ports })
}

/// One port, or a range; the outer `None` is something else.
#[expect(clippy::option_option, reason = "no port and no sense are two things")]
fn ports(value: Option<&Value>) -> Option<Option<(u16, u16)>> {
    let Some(value) = value else {
        return Some(None);
    };
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let ends = match value
        .get("range")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([first, last]) => (port(first)?, port(last)?),
        Some(_) => return None,
        None => (port(value)?, port(value)?),
    };
    Some(Some(ends))
}

fn tproxy(inner: &Value) -> Option<Vec<Statement>> {
    let mut all = Vec::new();
    let family = match inner.get("family").and_then(Value::as_str) {
        Some("ip") => Some(4),
        Some("ip6") => Some(6),
        _ => None,
    };
    if let Some(family) = family {
        all.push(Statement::When(Match::is(Test::number(
            Field::Family,
            family,
        ))));
    }
    let address = match inner.get("addr") {
        Some(address) => Some(address.as_str()?.parse().ok()?),
        None => None,
    };
    let port = inner.get("port").map_or(Some(0), Value::as_u64)?;
    all.push(Statement::Do(Action::Tproxy {
        address,
        port: u16::try_from(port).ok()?,
        ends: false,
    }));
    Some(all)
}

/// A field that is set: only marks, addresses and ports have a say in the packet's way.
fn mangle(inner: &Value) -> Option<Action> {
    let (kind, field) = only_entry(inner.get("key")?)?;
    let text = |name: &str| field.get(name).and_then(Value::as_str).unwrap_or("");
    match (kind, text("key"), text("field")) {
        ("meta", "mark", _) => set_mark(MarkOf::Packet, inner.get("value")?),
        ("ct", "mark", _) => set_mark(MarkOf::Connection, inner.get("value")?),
        ("payload", _, "saddr" | "daddr" | "sport" | "dport" | "protocol" | "nexthdr") => None,
        ("payload", _, "") => None,
        ("meta" | "ct" | "payload" | "tcp option" | "exthdr" | "ip option", _, _) => {
            Some(Action::Nothing)
        }
        _ => None,
    }
}

/// `of & mask ^ turn`: what every expression over one mark comes to.
struct Value32 {
    of: Option<MarkOf>,
    mask: u32,
    turn: u32,
}

fn set_mark(on: MarkOf, value: &Value) -> Option<Action> {
    let Value32 { of, mask, turn } = mark_value(value)?;
    let own = of == Some(on);
    Some(Action::SetMark(SetMark {
        on,
        keep: if own { mask } else { 0 },
        from: of.filter(|_| !own).map(|of| (of, mask)),
        xor: turn,
    }))
}

fn mark_value(value: &Value) -> Option<Value32> {
    if let Some(constant) = number_of(Field::Mark, value) {
        return Some(Value32 {
            of: None,
            mask: 0,
            turn: constant,
        });
    }
    let (kind, inner) = only_entry(value)?;
    let is_mark = || inner.get("key").and_then(Value::as_str) == Some("mark");
    let of = match kind {
        "meta" if is_mark() => Some(MarkOf::Packet),
        "ct" if is_mark() => Some(MarkOf::Connection),
        "&" | "|" | "^" => return combine(kind, inner),
        _ => return None,
    };
    Some(Value32 {
        of,
        mask: u32::MAX,
        turn: 0,
    })
}

/// One of the two sides must be a constant.
fn combine(operator: &str, inner: &Value) -> Option<Value32> {
    let [one, other] = inner.as_array()?.as_slice() else {
        return None;
    };
    let (value, constant) = match (number_of(Field::Mark, other), number_of(Field::Mark, one)) {
        (Some(constant), _) => (mark_value(one)?, constant),
        (None, Some(constant)) => (mark_value(other)?, constant),
        (None, None) => return None,
    };
    let Value32 { of, mask, turn } = value;
    let (mask, turn) = match operator {
        "&" => (mask & constant, turn & constant),
        "|" => (mask & !constant, turn | constant),
        _ => (mask, turn ^ constant),
    };
    Some(Value32 { of, mask, turn })
}
