//! On which line of a YAML text a value stands.
//!
//! A mistake is found in the value, which knows no lines. Reading the text again as the wanted type would know them, and
//! would put a second reader for every Kubernetes type into the program: megabytes for a number. So the text is read as
//! a tree of places, and the path of the mistake leads to its own. Must never fail: a line that is not found is not told.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_path_to_error::{Path, Segment};
use serde_saphyr::Spanned;

/// A value, of which only the place matters.
enum Node {
    Scalar,
    List(Vec<Spanned<Self>>),
    Map(BTreeMap<String, Spanned<Self>>),
}

/// Line, from 1, of what `inner` leads to below `outer`; of the nearest value around it that is there.
#[must_use]
pub(super) fn line(text: &str, outer: &[usize], inner: &Path) -> Option<usize> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut at: Spanned<Node> = serde_saphyr::from_str_with_options(text, options).ok()?;
    for item in outer {
        at = at.value.field("items")?.value.item(*item)?;
    }
    let mut line = at.referenced.line();
    for segment in inner {
        let next = match segment {
            Segment::Map { key } => at.value.field(key),
            Segment::Seq { index } => at.value.item(*index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let Some(next) = next else {
            break;
        };
        at = next;
        line = at.referenced.line();
    }
    usize::try_from(line).ok().filter(|line| *line > 0)
}

impl Node {
    fn field(self, key: &str) -> Option<Spanned<Self>> {
        match self {
            Self::Map(mut fields) => fields.remove(key),
            Self::Scalar | Self::List(_) => None,
        }
    }

    fn item(self, index: usize) -> Option<Spanned<Self>> {
        match self {
            Self::List(items) => items.into_iter().nth(index),
            Self::Scalar | Self::Map(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

/// Takes whatever there is.
struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((key, value)) = access.next_entry()? {
            fields.insert(key, value);
        }
        Ok(Node::Map(fields))
    }
}
