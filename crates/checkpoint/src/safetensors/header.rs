//! The header, checked against the file's length before any byte behind it is trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use tch::Kind;

use crate::{Error, Result};

/// The longest header that the reference implementation reads, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Every dtype there is: name, bits, libtorch's kind.
const DTYPES: [(&str, u64, Option<Kind>); 20] = [
    ("BOOL", 8, Some(Kind::Bool)),
    ("F4", 4, None),
    ("F6_E2M3", 6, None),
    ("F6_E3M2", 6, None),
    ("U8", 8, Some(Kind::Uint8)),
    ("I8", 8, Some(Kind::Int8)),
    ("F8_E5M2", 8, None),
    ("F8_E4M3", 8, None),
    ("F8_E8M0", 8, None),
    ("I16", 16, Some(Kind::Int16)),
    ("U16", 16, None),
    ("F16", 16, Some(Kind::Half)),
    ("BF16", 16, Some(Kind::BFloat16)),
    ("I32", 32, Some(Kind::Int)),
    ("U32", 32, None),
    ("F32", 32, Some(Kind::Float)),
    ("C64", 64, None),
    ("F64", 64, Some(Kind::Double)),
    ("I64", 64, Some(Kind::Int64)),
    ("U64", 64, None),
];

/// One tensor's place: offsets count from the header's end.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<i64>,
    pub(super) offsets: (usize, usize),
}

/// A checked header; `start` is where the tensors' bytes begin.
pub(super) struct Header {
    pub(super) start: usize,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's members in the file's order, names that come twice included.
#[derive(Default)]
struct Members {
    tensors: Vec<(String, Raw)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        members.metadata = map.next_value()?;
                    } else {
                        members.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Reads and checks the header of a file's `bytes`.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Header> {
    let broken = |at: &str, wanted: String, found: String| Error::Broken {
        path: path.to_owned(),
        format: "safetensors file",
        at: at.to_owned(),
        wanted,
        found,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("a file of {}", bytes.len());
        return Err(broken("header", "8 bytes of header length".into(), found));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER || length > rest.len() as u64 {
        let wanted = format!("at most {} bytes of header", MAX_HEADER.min(rest.len() as u64));
        return Err(broken("header length", wanted, length.to_string()));
    }
    let (text, data) = rest.split_at(length as usize);
    let members: Members = serde_json::from_slice(text).map_err(|error| {
        let found = error.to_string();
        broken("header", "a JSON object of tensors".into(), found)
    })?;
    let mut entries = BTreeMap::new();
    for (name, raw) in members.tensors {
        let at = format!("tensor `{name}`");
        let entry = check(&raw).map_err(|(wanted, found)| broken(&at, wanted, found))?;
        if entries.insert(name, entry).is_some() {
            return Err(broken(&at, "each name once".into(), "it twice".into()));
        }
    }
    let mut ordered: Vec<(&String, &Entry)> = entries.iter().collect();
    ordered.sort_by_key(|(_, entry)| entry.offsets);
    let mut end = 0;
    for (name, entry) in ordered {
        if entry.offsets.0 != end {
            let found = format!("{} (a gap or an overlap)", entry.offsets.0);
            return Err(broken(
                &format!("tensor `{name}`"),
                format!("its bytes to begin at {end}"),
                found,
            ));
        }
        end = entry.offsets.1;
        if end > data.len() {
            let wanted = format!("{end} bytes of tensors (the file is cut short?)");
            return Err(broken(&format!("tensor `{name}`"), wanted, data.len().to_string()));
        }
    }
    if end != data.len() {
        return Err(broken("end", format!("{end} bytes of tensors"), data.len().to_string()));
    }
    Ok(Header {
        start: 8 + length as usize,
        entries,
        metadata: members.metadata,
    })
}

/// libtorch's kind for a dtype, if it has one.
pub(super) fn kind(dtype: &str) -> Option<Kind> {
    DTYPES.iter().find(|row| row.0 == dtype)?.2
}

fn check(raw: &Raw) -> std::result::Result<Entry, (String, String)> {
    let Some(&(dtype, bits, _)) = DTYPES.iter().find(|row| row.0 == raw.dtype) else {
        return Err(("a known dtype".into(), format!("`{}`", raw.dtype)));
    };
    let size = raw
        .shape
        .iter()
        .try_fold(1u64, |product, &side| product.checked_mul(side))
        .and_then(|count| count.checked_mul(bits))
        .filter(|size| i64::try_from(*size).is_ok() && size.is_multiple_of(8))
        .ok_or_else(|| ("a shape that memory can hold".into(), format!("{:?}", raw.shape)))?
        / 8;
    let (begin, end) = raw.data_offsets;
    if end.checked_sub(begin) != Some(size) {
        let wanted = format!("{size} bytes for {dtype} {:?}", raw.shape);
        return Err((wanted, format!("data_offsets [{begin}, {end}]")));
    }
    let shape = raw.shape.iter().map(|&side| side as i64).collect();
    Ok(Entry {
        dtype,
        shape,
        offsets: (begin as usize, end as usize),
    })
}
