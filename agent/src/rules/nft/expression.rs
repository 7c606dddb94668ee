//! One native rule: its expressions become statements, in their order.
//!
//! A comparison that is not understood is an unknown condition, an expression that is not understood an unknown action:
//! leaving either out would change what the rule says.

use std::net::IpAddr;

use serde_json::Value;

use super::super::{
    matching::{Field, Match, Name, Test},
    ruleset::{Rule, Statement, shorten},
    save::{
        numbers::prefix,
        options::{kind_bit, state_bit},
    },
};
use super::left::{Left, bits_of, left, number_of};
use super::sets::Sets;
use super::{TableKey, action, render};

/// Reads the expressions of a rule.
pub(super) fn rule<'j>(table: TableKey<'j>, expressions: &'j [Value], sets: &mut Sets<'j>) -> Rule {
    let mut statements = Vec::new();
    let mut packets = None;
    for expression in expressions {
        if let Some(comparison) = expression.get("match") {
            statements.extend(
                compare(table, comparison, sets)
                    .into_iter()
                    .map(Statement::When),
            );
            continue;
        }
        if let Some(counter) = expression.get("counter") {
            packets = counter.get("packets").and_then(Value::as_u64);
        }
        statements.extend(action::read(table, expression, sets));
    }
    let text: Vec<String> = expressions.iter().map(render::statement).collect();
    Rule {
        text: shorten(&text.join(" ")),
        statements,
        packets,
    }
}

/// `left op right`, with what the left side demands before it.
fn compare<'j>(table: TableKey<'j>, comparison: &'j Value, sets: &mut Sets<'j>) -> Vec<Match> {
    let part = |name: &str| comparison.get(name).unwrap_or(&Value::Null);
    let mut demands = Vec::new();
    let left = left(part("left"), &mut demands);
    let operator = part("op").as_str().unwrap_or("");
    let test = match operator {
        "==" | "!=" | "in" => equals(table, &left, part("right"), operator == "in", sets),
        _ => ordered(&left, operator, part("right")),
    };
    let mut all: Vec<Match> = demands.into_iter().map(Match::is).collect();
    all.push(Match {
        negated: operator == "!=",
        test: test.unwrap_or_else(Test::Unknown),
    });
    all
}

fn not_understood(value: &Value) -> String {
    format!("`{}` is not understood", render::expression(value))
}

/// The field is one of the values on the right, or has one of the bits.
fn equals<'j>(
    table: TableKey<'j>,
    left: &Left,
    right: &'j Value,
    any_bit: bool,
    sets: &mut Sets<'j>,
) -> Result<Test, String> {
    if let (Left::Number { field, .. }, true) = (left, any_bit) {
        let any = bits_of(*field, right).ok_or_else(|| not_understood(right))?;
        return Ok(Test::Bits { field: *field, any });
    }
    if let (Left::Bits(_), Some(names)) = (left, right.as_array()) {
        return one_of(left, names);
    }
    one_of(left, sets.elements(table, right)?)
}

/// The field is one of these elements.
pub(super) fn one_of(left: &Left, elements: &[Value]) -> Result<Test, String> {
    if elements.iter().any(is_everything) {
        return Ok(Test::Always);
    }
    let each = |element| move || not_understood(element);
    match left {
        Left::Number { field, mask } => {
            let ranges = elements
                .iter()
                .map(|element| numbers(*field, value_of(element)).ok_or_else(each(element)));
            Ok(Test::Number {
                field: *field,
                mask: *mask,
                ranges: ranges.collect::<Result<_, _>>()?,
            })
        }
        Left::Bits(field) => {
            let bit = |element| named_bit(*field, value_of(element)).ok_or_else(each(element));
            let any = (elements.iter())
                .try_fold(0, |any, element| Ok::<_, String>(any | bit(element)?))?;
            Ok(Test::Bits { field: *field, any })
        }
        Left::Address(field) => {
            let ranges = elements
                .iter()
                .map(|element| addresses(value_of(element)).ok_or_else(each(element)));
            Ok(Test::Address {
                field: *field,
                ranges: ranges.collect::<Result<_, _>>()?,
            })
        }
        Left::Interface(field) => {
            let names = elements
                .iter()
                .map(|element| interface(value_of(element)).ok_or_else(each(element)));
            Ok(Test::Interface {
                field: *field,
                names: names.collect::<Result<_, _>>()?,
            })
        }
        Left::Rows(parts) => {
            let rows = elements.iter().map(|element| row(parts, value_of(element)));
            Ok(Test::Rows(rows.collect::<Result<_, _>>()?))
        }
        Left::Unknown(what) => Err(what.clone()),
    }
}

fn row(parts: &[Left], element: &Value) -> Result<Vec<Test>, String> {
    let values = element.get("concat").and_then(Value::as_array);
    let values = values.filter(|values| values.len() == parts.len());
    let values = values.ok_or_else(|| not_understood(element))?;
    (parts.iter().zip(values))
        .map(|(left, value)| one_of(left, std::slice::from_ref(value)))
        .collect()
}

/// An element may carry a timeout or a counter around its value.
fn value_of(element: &Value) -> &Value {
    let inner = element.get("elem").and_then(|elem| elem.get("val"));
    inner.unwrap_or(element)
}

/// The element that matches whatever no other does.
pub(super) fn is_everything(element: &Value) -> bool {
    value_of(element).as_str() == Some("*")
}

/// The two ends of `{"range": [a, b]}`.
fn ends(value: &Value) -> Option<(&Value, &Value)> {
    match value.get("range")?.as_array()?.as_slice() {
        [first, last] => Some((first, last)),
        _ => None,
    }
}

fn numbers(field: Field, value: &Value) -> Option<(u32, u32)> {
    if let Some((first, last)) = ends(value) {
        return Some((number_of(field, first)?, number_of(field, last)?));
    }
    let only = bits_of(field, value)?;
    Some((only, only))
}

fn named_bit(field: Field, value: &Value) -> Option<u32> {
    let name = value.as_str()?;
    match field {
        Field::CtState => state_bit(name),
        _ => kind_bit(name),
    }
}

pub(super) fn addresses(value: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some((first, last)) = ends(value) {
        return Some((address(first)?, address(last)?));
    }
    if let Some(inner) = value.get("prefix") {
        let length = u32::try_from(inner.get("len")?.as_u64()?).ok()?;
        return prefix(address(inner.get("addr")?)?, length);
    }
    let only = address(value)?;
    Some((only, only))
}

fn interface(value: &Value) -> Option<Name> {
    let text = value.as_str()?;
    let (text, prefix) = match text.strip_suffix('*') {
        // A star that is meant as one has a backslash.
        Some(text) => match text.strip_suffix('\\') {
            Some(text) => (format!("{text}*"), false),
            None => (text.to_owned(), true),
        },
        None => (text.to_owned(), false),
    };
    Some(Name { text, prefix })
}

/// `<`, `>` and their relatives, of a number.
fn ordered(left: &Left, operator: &str, right: &Value) -> Result<Test, String> {
    let what = || format!("`{operator}` is not understood here");
    let Left::Number { field, mask } = left else {
        return Err(what());
    };
    let value = number_of(*field, right).ok_or_else(what)?;
    let range = match operator {
        "<" => value.checked_sub(1).map(|last| (0, last)),
        "<=" => Some((0, value)),
        ">" => value.checked_add(1).map(|first| (first, u32::MAX)),
        ">=" => Some((value, u32::MAX)),
        _ => return Err(what()),
    };
    Ok(Test::Number {
        field: *field,
        mask: *mask,
        ranges: range.into_iter().collect(),
    })
}
