//! Reads the kernel's own type information (BTF): where a field lies, which id a name has.
//!
//! Own reader, because what is needed is one pass over a 6 MB file for two dozen names:
//! the general libraries build an index of a hundred thousand types, which is most of the
//! memory the agent may use, and throw it away again.
//!
//! Format: Documentation/bpf/btf.rst of the kernel. Everything read is bounds-checked.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use sidestep_abi::{ABSENT, Field, Need, Unit};

use super::ProbeError;

/// Where the kernel describes itself and its modules.
const DIRECTORY: &str = "/sys/kernel/btf";
const MAGIC: u16 = 0xeb9f;
/// Deepest nesting of members and modifiers followed; real ones stay below ten.
const MAX_DEPTH: u32 = 32;

pub(super) const KIND_STRUCT: u32 = 4;
pub(super) const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
pub(super) const KIND_TYPEDEF: u32 = 8;
pub(super) const KIND_FUNC: u32 = 12;

/// Types of the kernel image, or of one module on top of it.
pub(super) struct Types<'a> {
    data: Vec<u8>,
    /// Byte offset of each type of this file.
    types: Vec<u32>,
    /// Byte range of the strings.
    strings: (usize, usize),
    base: Option<&'a Types<'a>>,
}

/// One type's header.
#[derive(Clone, Copy)]
struct Head {
    name: u32,
    kind: u32,
    /// Whether members carry bit field sizes.
    flag: bool,
    count: usize,
    /// Referred type, or size.
    target: u32,
    /// Byte offset of what follows.
    tail: usize,
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bits: u32,
    of: u32,
}

impl Types<'static> {
    /// Types of the running kernel's image.
    ///
    /// # Errors
    /// [`ProbeError::NoBtf`] if the file is missing or malformed.
    pub(super) fn kernel() -> Result<Self, ProbeError> {
        let path = format!("{DIRECTORY}/vmlinux");
        let no_btf = |reason: String| ProbeError::NoBtf {
            path: path.clone(),
            reason,
        };
        let data = fs::read(&path).map_err(|e| no_btf(e.to_string()))?;
        Self::parse(data, None).ok_or_else(|| no_btf("malformed".into()))
    }
}

impl<'a> Types<'a> {
    /// Types of a loaded module, `None` if the kernel does not describe it.
    pub(super) fn module(name: &str, base: &'a Types<'a>) -> Option<Types<'a>> {
        Self::parse(fs::read(format!("{DIRECTORY}/{name}")).ok()?, Some(base))
    }

    fn parse(data: Vec<u8>, base: Option<&'a Types<'a>>) -> Option<Self> {
        if u16::from_le_bytes(data.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(&data, 4)? as usize;
        let types_at = header.checked_add(word(&data, 8)? as usize)?;
        let types_end = types_at.checked_add(word(&data, 12)? as usize)?;
        let strings_at = header.checked_add(word(&data, 16)? as usize)?;
        let strings_end = strings_at.checked_add(word(&data, 20)? as usize)?;
        if types_end > data.len() || strings_end > data.len() {
            return None;
        }
        let mut types = Vec::new();
        let mut at = types_at;
        while at < types_end {
            types.push(u32::try_from(at).ok()?);
            let head = head_at(&data, at)?;
            at = head.tail.checked_add(tail_len(head)?)?;
        }
        Some(Self {
            data,
            types,
            strings: (strings_at, strings_end),
            base,
        })
    }

    /// Number of types including the base's and the implicit `void`.
    fn end(&self) -> usize {
        self.first() + self.types.len()
    }

    /// Id of this file's first type.
    fn first(&self) -> usize {
        self.base.map_or(1, Types::end)
    }

    fn strings_end(&self) -> usize {
        self.base.map_or(0, Types::strings_end) + (self.strings.1 - self.strings.0)
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let before = self.base.map_or(0, Types::strings_end);
        let offset = offset as usize;
        if offset < before {
            return self.base?.name(u32::try_from(offset).ok()?);
        }
        let at = self.strings.0.checked_add(offset - before)?;
        let rest = self.data.get(at..self.strings.1)?;
        rest.get(..rest.iter().position(|b| *b == 0)?)
    }

    /// A type's header and the file it lies in.
    fn head(&self, id: u32) -> Option<(Head, &Types<'a>)> {
        let index = id as usize;
        match index.checked_sub(self.first()) {
            None => self.base?.head(id),
            Some(own) => Some((head_at(&self.data, *self.types.get(own)? as usize)?, self)),
        }
    }

    /// Ids of this file's types by wanted name, with their kinds.
    pub(super) fn find<'n>(&self, names: &[&'n str]) -> HashMap<&'n str, Vec<(u32, u32)>> {
        let wanted: HashMap<&[u8], &'n str> = names.iter().map(|n| (n.as_bytes(), *n)).collect();
        let mut found: HashMap<&'n str, Vec<(u32, u32)>> = HashMap::new();
        for (index, at) in self.types.iter().enumerate() {
            let Some(head) = head_at(&self.data, *at as usize) else {
                continue;
            };
            let name = self.name(head.name).and_then(|name| wanted.get(name));
            if let (Some(name), Ok(id)) = (name, u32::try_from(self.first() + index)) {
                found.entry(name).or_default().push((id, head.kind));
            }
        }
        found
    }

    /// Values of an enumeration of the image, by number; none if there is no such type.
    pub(super) fn values(&self, name: &str) -> BTreeMap<u32, String> {
        let mut values = BTreeMap::new();
        let all = self.find(&[name]);
        let enums = all.get(name).into_iter().flatten();
        for (id, _) in enums.filter(|(_, kind)| *kind == KIND_ENUM) {
            let Some((head, file)) = self.head(*id) else {
                continue;
            };
            for index in 0..head.count {
                let at = head.tail + index * 8;
                let name = word(&file.data, at).and_then(|name| self.name(name));
                if let (Some(name), Some(value)) = (name, word(&file.data, at + 4)) {
                    values.insert(value, String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        values
    }

    /// Number of parameters of a function, by the id of its `FUNC`.
    pub(super) fn parameters(&self, function: u32) -> Option<usize> {
        let (head, _) = self.head(function)?;
        let (prototype, _) = self.head(head.target)?;
        (head.kind == KIND_FUNC).then_some(prototype.count)
    }

    /// Follows names, modifiers and typedefs to the type itself.
    fn strip(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            match self.head(id)?.0 {
                // typedef, volatile, const, restrict, type tag
                Head {
                    kind: 8..=11 | 18,
                    target,
                    ..
                } => id = target,
                _ => return Some(id),
            }
        }
        None
    }

    /// A member by name, looking through anonymous structs and unions.
    fn member(&self, of: u32, name: &[u8], depth: u32) -> Option<Place> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (head, file) = self.head(self.strip(of)?)?;
        if head.kind != KIND_STRUCT && head.kind != KIND_UNION {
            return None;
        }
        for index in 0..head.count {
            let at = head.tail + index * 12;
            let member_name = self.name(word(&file.data, at)?)?;
            let of = word(&file.data, at + 4)?;
            let raw = word(&file.data, at + 8)?;
            // With the flag, the upper byte is the width of a bit field.
            let bits = if head.flag { raw & 0x00ff_ffff } else { raw };
            if member_name == name {
                return Some(Place { bits, of });
            }
            if member_name.is_empty()
                && let Some(inner) = self.member(of, name, depth + 1)
            {
                return Some(Place {
                    bits: bits + inner.bits,
                    of: inner.of,
                });
            }
        }
        None
    }

    /// Bits from the start of a struct to a dotted path of members.
    fn path(&self, of: u32, path: &str) -> Option<u32> {
        let mut bits = 0;
        let mut of = of;
        for name in path.split('.') {
            let place = self.member(of, name.as_bytes(), 0)?;
            bits += place.bits;
            of = place.of;
        }
        Some(bits)
    }
}

/// Resolves a table of fields in the first of `files` that knows each struct.
///
/// # Errors
/// [`ProbeError::Field`] if a required field is missing, or if a struct exists in versions
/// that put a field at different places.
pub(super) fn resolve(files: &[&Types<'_>], fields: &[Field]) -> Result<Vec<u32>, ProbeError> {
    let names: Vec<&str> = fields.iter().map(|f| f.of).collect();
    let found: Vec<_> = files.iter().map(|file| file.find(&names)).collect();
    let mut offsets = Vec::with_capacity(fields.len());
    for field in fields {
        let mut places: Vec<u32> = Vec::new();
        for (file, found) in files.iter().zip(&found) {
            let structs = found.get(field.of).into_iter().flatten();
            for (id, _) in structs.filter(|(_, kind)| *kind == KIND_STRUCT) {
                places.extend(file.path(*id, field.path));
            }
        }
        places.sort_unstable();
        places.dedup();
        offsets.push(offset(field, &places)?);
    }
    Ok(offsets)
}

/// The one offset of a field, in its unit.
fn offset(field: &Field, places: &[u32]) -> Result<u32, ProbeError> {
    let what = format!("field `{}` of `struct {}`", field.path, field.of);
    match (places, field.need, field.unit) {
        ([bits], _, Unit::Bit) => Ok(*bits),
        ([bits], _, Unit::Byte) if bits % 8 == 0 => Ok(bits / 8),
        ([], Need::Optional, _) => Ok(ABSENT),
        ([], Need::Required, _) => Err(ProbeError::Field {
            reason: format!("{what} is missing"),
        }),
        _ => Err(ProbeError::Field {
            reason: format!("{what} is ambiguous (bits {places:?})"),
        }),
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn head_at(data: &[u8], at: usize) -> Option<Head> {
    let info = word(data, at + 4)?;
    Some(Head {
        name: word(data, at)?,
        kind: (info >> 24) & 0x1f,
        flag: info >> 31 == 1,
        count: (info & 0xffff) as usize,
        target: word(data, at + 8)?,
        tail: at + 12,
    })
}

/// Bytes after a type's header, by kind; `None` for a kind newer than this reader.
fn tail_len(head: Head) -> Option<usize> {
    Some(match head.kind {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // array
        3 => 12,
        // struct, union, section, 64-bit enumeration
        4 | 5 | 15 | 19 => head.count * 12,
        // enumeration, prototype
        6 | 13 => head.count * 8,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
