//! A native rule as a line that a person who knows nft can read.
//!
//! Not nft's own printer: short, for quoting in a finding, and never an error. What has no shape here is shown as its JSON.

use serde_json::Value;

use super::left::only_entry;

/// Levels that are shown; deeper is `…`.
const MAX_DEPTH: usize = 8;

/// An expression of a rule.
pub(super) fn statement(value: &Value) -> String {
    let Some((name, inner)) = only_entry(value) else {
        return word(value);
    };
    match name {
        "match" => comparison(inner),
        "counter" | "log" | "notrack" | "accept" | "drop" | "return" | "continue"
        | "masquerade" => name.to_owned(),
        "jump" | "goto" => format!("{name} {}", part(inner, "target")),
        "reject" => "reject".to_owned(),
        "redirect" | "tproxy" | "dnat" | "snat" => translation(name, inner),
        "mangle" => format!("{} set {}", part(inner, "key"), part(inner, "value")),
        "vmap" => format!("{} vmap {}", part(inner, "key"), part(inner, "data")),
        "limit" => format!("limit rate {}/{}", part(inner, "rate"), part(inner, "per")),
        "xt" => format!("xt {} {}", part(inner, "type"), part(inner, "name")),
        "set" => format!(
            "{} @{}",
            part(inner, "op"),
            part(inner, "set").trim_start_matches('@')
        ),
        _ => format!("{name} {}", word(inner)),
    }
}

/// A value, a field or a set.
pub(super) fn expression(value: &Value) -> String {
    shown(value, 0)
}

fn part(value: &Value, name: &str) -> String {
    value.get(name).map_or_else(String::new, expression)
}

fn comparison(inner: &Value) -> String {
    let operator = inner.get("op").and_then(Value::as_str).unwrap_or("");
    let operator = match operator {
        "==" | "in" => String::new(),
        other => format!("{other} "),
    };
    format!("{} {operator}{}", part(inner, "left"), part(inner, "right"))
}

fn translation(name: &str, inner: &Value) -> String {
    let (address, port) = (part(inner, "addr"), part(inner, "port"));
    match (address.as_str(), port.as_str()) {
        ("", "") => name.to_owned(),
        (address, "") => format!("{name} to {address}"),
        (address, port) => format!("{name} to {address}:{port}"),
    }
}

fn shown(value: &Value, depth: usize) -> String {
    if depth > MAX_DEPTH {
        return "…".to_owned();
    }
    let list = |inner: &Value, between: &str| {
        let all = inner.as_array().map_or(&[][..], Vec::as_slice);
        let all: Vec<String> = all.iter().map(|item| shown(item, depth + 1)).collect();
        all.join(between)
    };
    if value.is_array() {
        return list(value, ",");
    }
    let Some((name, inner)) = only_entry(value) else {
        return word(value);
    };
    let text = |name: &str| inner.get(name).map_or_else(String::new, word);
    match name {
        "meta" => match text("key").as_str() {
            key @ ("iif" | "oif" | "iifname" | "oifname") => key.to_owned(),
            key => format!("meta {key}"),
        },
        "ct" => format!("ct {} {}", text("dir"), text("key")).replace("  ", " "),
        "payload" => format!("{} {}", text("protocol"), text("field")),
        "fib" => format!("fib {} {}", text("flags"), text("result")),
        "prefix" => format!("{}/{}", text("addr"), text("len")),
        "range" => list(inner, "-"),
        "set" => format!("{{ {} }}", list(inner, ", ")),
        "concat" => list(inner, " . "),
        "&" | "|" | "^" | "<<" | ">>" => list(inner, &format!(" {name} ")),
        "elem" => inner
            .get("val")
            .map_or_else(String::new, |val| shown(val, depth + 1)),
        "map" => format!("{} map {}", part(inner, "key"), part(inner, "data")),
        "accept" | "drop" | "return" | "continue" => name.to_owned(),
        "jump" | "goto" => format!("{name} {}", text("target")),
        _ => format!("{name} {}", word(inner)),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
