//! Settings in a document: the YAML or JSON text that some meshes hand to whatever installs
//! the rules, kept in one annotation or variable.
//!
//! JSON is YAML, so one reader does. Keys the profile does not name are passed over; what is
//! null or empty says nothing, because the meshes write out fields that nobody set.

use std::collections::BTreeMap;

use serde_json::Value;

use super::setting::Setting;

/// A document larger than this is none of a mesh's.
const MAX_BYTES: usize = 64 * 1024;

/// The settings of a text: path, setting, value.
///
/// # Errors
/// It is no YAML, or too large.
pub(super) fn read(
    keys: &BTreeMap<String, Setting>,
    text: &str,
) -> Result<Vec<(String, Setting, String)>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is larger than {} KiB", MAX_BYTES / 1024));
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        format!(
            "is neither YAML nor JSON ({})",
            first_line(&error.to_string())
        )
    })?;
    let found = keys.iter().filter_map(|(path, setting)| {
        let separator = separator(*setting);
        let at = path.split('.').try_fold(&value, |at, key| at.get(key))?;
        Some((path.clone(), *setting, shown(at, separator)?))
    });
    Ok(found.collect())
}

/// Rules for users have commas of their own.
const fn separator(setting: Setting) -> &'static str {
    match setting {
        Setting::ExcludePortsForUids => ";",
        _ => ",",
    }
}

fn shown(value: &Value, separator: &str) -> Option<String> {
    let text = match value {
        Value::Null | Value::Object(_) => return None,
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().filter_map(|v| shown(v, separator)).collect();
            items.join(separator)
        }
    };
    (!text.is_empty()).then_some(text)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::{Setting, read};

    fn keys() -> std::collections::BTreeMap<String, Setting> {
        [
            ("User".to_owned(), Setting::ProxyUid),
            ("in.ports".to_owned(), Setting::ExcludeInboundPorts),
            ("in.on".to_owned(), Setting::CaptureInbound),
        ]
        .into()
    }

    fn values(text: &str) -> Vec<String> {
        let found = read(&keys(), text).unwrap();
        found.into_iter().map(|(_, _, value)| value).collect()
    }

    #[test]
    fn json_and_yaml_are_read_alike() {
        let json = r#"{"User":"5","in":{"ports":["1","2"],"on":false},"other":[1]}"#;
        let yaml = "User: 5\nin:\n  ports: [1, 2]\n  on: false\n";
        assert_eq!(values(json), ["5", "false", "1,2"]);
        assert_eq!(values(yaml), values(json));
    }

    #[test]
    fn what_nobody_set_says_nothing() {
        let none: [&str; 0] = [];
        assert_eq!(values(r#"{"User":"","in":{"ports":null}}"#), none);
        assert_eq!(values("in: {ports: []}"), none);
        assert_eq!(values("[]"), none);
    }

    #[test]
    fn says_what_it_cannot_read() {
        assert!(read(&keys(), "{").is_err());
        assert!(read(&keys(), &" ".repeat(70_000)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}|[a-z:\\[\\]{}\", \n-]{0,40}") {
            let _ = read(&keys(), &text);
        }
    }
}
