//! Named sets and maps, as far as their content is that of the moment and of every moment.
//!
//! A set that packets fill or time empties is not told: what was in it when it was read says nothing about a connection. As
//! rules copy what they use, the number of elements handed out is bounded for a whole rule set.

use std::collections::HashMap;

use serde_json::Value;

use super::{TableKey, key};

/// Elements that are handed out to the rules of one rule set.
const MAX_ELEMENTS: usize = 200_000;

pub(super) struct Sets<'j> {
    all: HashMap<(TableKey<'j>, &'j str), &'j Value>,
    left: usize,
}

impl<'j> Sets<'j> {
    pub(super) fn new(objects: &'j [Value]) -> Self {
        let declared = objects.iter().filter_map(|object| {
            let set = object.get("set").or_else(|| object.get("map"))?;
            Some(((key(set, "table")?, set.get("name")?.as_str()?), set))
        });
        Self {
            all: declared.collect(),
            left: MAX_ELEMENTS,
        }
    }

    /// The elements that a rule means: those of a named set, or written in the rule.
    pub(super) fn elements(
        &mut self,
        table: TableKey<'j>,
        value: &'j Value,
    ) -> Result<&'j [Value], String> {
        let elements = match (value, value.get("set").and_then(Value::as_array)) {
            (_, Some(elements)) => elements.as_slice(),
            (Value::String(name), None) if name.starts_with('@') => {
                self.named(table, &name[1..])?
            }
            _ => std::slice::from_ref(value),
        };
        self.left = (self.left.checked_sub(elements.len()))
            .ok_or_else(|| "the sets have too many elements".to_owned())?;
        Ok(elements)
    }

    fn named(&self, table: TableKey<'j>, name: &str) -> Result<&'j [Value], String> {
        let set = (self.all.get(&(table, name)))
            .ok_or_else(|| format!("the set `@{name}` was not read"))?;
        let flags = set.get("flags").and_then(Value::as_array);
        let changes = |flag: &Value| matches!(flag.as_str(), Some("timeout" | "dynamic"));
        if set.get("timeout").is_some() || flags.is_some_and(|flags| flags.iter().any(changes)) {
            return Err(format!("the set `@{name}` changes with time and traffic"));
        }
        let elements = set.get("elem").and_then(Value::as_array);
        Ok(elements.map_or(&[], Vec::as_slice))
    }
}
