//! A file's bytes with its header, read and checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cursor::Cursor;
use crate::dequantise::{self, Number};
use crate::{Error, GgufType, MetadataValue, Result, metadata};

/// A tensor's place in a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// The shape, rows first: the reverse of ggml's order.
    pub shape: Vec<i64>,
    /// How the numbers are stored.
    pub stored: GgufType,
    offset: usize,
    size: usize,
}

/// A GGUF file whose header was read and checked; `B` holds its bytes, mapped or in memory.
#[derive(Debug)]
pub struct Gguf<B> {
    path: PathBuf,
    bytes: B,
    metadata: BTreeMap<String, MetadataValue>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl<B: AsRef<[u8]>> Gguf<B> {
    /// Reads the header of `bytes`; errors call the file `path`, and name the first place where the header does not fit
    /// the bytes.
    pub fn new(path: &Path, bytes: B) -> Result<Self> {
        let (metadata, tensors) = read(path, bytes.as_ref())?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            metadata,
            tensors,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, MetadataValue> {
        &self.metadata
    }

    /// All tensors by their names, sorted.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// The tensor's entry.
    pub fn find(&self, name: &str) -> Result<&GgufTensor> {
        self.tensors.get(name).ok_or_else(|| Error::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    /// The tensor's bytes as they are stored.
    pub fn stored_bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.bytes.as_ref()[tensor.offset..tensor.offset + tensor.size]
    }

    /// Dequantises a tensor into `out`, in parallel, in rows of `row` numbers; row i of `out` is row `order[i]` of the
    /// file, all in the file's order if `order` is empty.
    pub fn dequantise<T: Number>(&self, tensor: &GgufTensor, row: usize, order: &[usize], out: &mut [T]) {
        dequantise::into(tensor.stored, self.stored_bytes(tensor), row, order, out);
    }

    /// The tensor's numbers, dequantised, in the file's order.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.find(name)?;
        let row = match tensor.shape.as_slice() {
            [whole] => *whole as usize,
            shape => shape[1..].iter().product::<i64>() as usize,
        };
        let mut out = vec![0.0; tensor.shape.iter().product::<i64>() as usize];
        self.dequantise(tensor, row, &[], &mut out);
        Ok(out)
    }

    /// The metadata text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// The metadata count under `key`.
    pub fn count(&self, key: &str) -> Option<i64> {
        self.metadata.get(key)?.as_i64()
    }

    /// The metadata number under `key`.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.metadata.get(key)?.as_f64()
    }

    /// The metadata flag under `key`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.metadata.get(key)?.as_bool()
    }

    /// The architecture that the file names.
    pub fn architecture(&self) -> Result<&str> {
        self.text("general.architecture")
            .ok_or_else(|| self.lacks("general.architecture"))
    }

    /// The error of a key that must be there.
    pub fn lacks(&self, key: &str) -> Error {
        Error::Key {
            path: self.path.clone(),
            key: key.to_owned(),
            wanted: "a value in the metadata".into(),
            found: "none, or one of another type".into(),
        }
    }
}

type Tables = (BTreeMap<String, MetadataValue>, BTreeMap<String, GgufTensor>);

fn read(path: &Path, bytes: &[u8]) -> Result<Tables> {
    let mut at = Cursor::new(path, bytes);
    let magic = at.take(4, "magic")?;
    if magic != b"GGUF" {
        let found = String::from_utf8_lossy(magic).into_owned();
        return Err(at.broken("start", "`GGUF`", format!("{found:?}")));
    }
    let version = at.u32("version")?;
    if version != 2 && version != 3 {
        let swapped = matches!(version.swap_bytes(), 1..=3);
        let found = if swapped {
            "a big-endian file".into()
        } else {
            version.to_string()
        };
        return Err(at.broken("version", "2 or 3", found));
    }
    let num_tensors = at.u64("tensor count")?;
    let num_keys = at.u64("metadata count")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..num_keys {
        let key = at.string("metadata key")?;
        let value = metadata::read(&mut at, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(at.broken(&format!("metadata `{key}`"), "each key once", "it twice".into()));
        }
    }
    let alignment = metadata
        .get("general.alignment")
        .map_or(Some(32), MetadataValue::as_i64);
    let Some(alignment) = alignment.filter(|bytes| *bytes > 0 && *bytes % 8 == 0) else {
        return Err(at.broken("`general.alignment`", "a multiple of 8", "another value".into()));
    };
    let mut tensors = BTreeMap::new();
    for _ in 0..num_tensors {
        let (name, tensor) = tensor_info(&mut at)?;
        if !(tensor.offset as u64).is_multiple_of(alignment as u64) {
            let wanted = format!("an offset that {alignment} divides");
            return Err(at.broken(&format!("tensor `{name}`"), &wanted, tensor.offset.to_string()));
        }
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(at.broken(&format!("tensor `{name}`"), "each name once", "it twice".into()));
        }
    }
    let start = at.position().next_multiple_of(alignment as usize);
    place(&at, start, bytes.len(), &mut tensors)?;
    Ok((metadata, tensors))
}

fn tensor_info(at: &mut Cursor<'_>) -> Result<(String, GgufTensor)> {
    let name = at.string("tensor name")?;
    let place = format!("tensor `{name}`");
    let dimensions = at.u32(&place)?;
    if !(1..=4).contains(&dimensions) {
        return Err(at.broken(&place, "1 to 4 dimensions", dimensions.to_string()));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(at.u64(&place)?);
    }
    let number = at.u32(&place)?;
    let stored = GgufType::from_number(number).map_err(|what| Error::Unsupported {
        path: at.path().to_owned(),
        what: format!("{place} of type {what}"),
        hint: format!("supported are {}", GgufType::names()),
    })?;
    let offset = at.u64(&place)?;
    let (block, width) = stored.block();
    let count = shape.iter().try_fold(1u64, |product, side| product.checked_mul(*side));
    let Some(count) = count.filter(|count| *count <= i64::MAX as u64 / 8 && shape[0] % block as u64 == 0) else {
        let wanted = format!("rows that are multiples of {block}, and a size that memory can hold");
        return Err(at.broken(&place, &wanted, format!("{shape:?}")));
    };
    let size = count / block as u64 * width as u64;
    let shape = shape.iter().rev().map(|side| *side as i64).collect();
    let tensor = GgufTensor {
        shape,
        stored,
        offset: usize::try_from(offset).unwrap_or(usize::MAX),
        size: size as usize,
    };
    Ok((name, tensor))
}

/// Makes offsets absolute, and checks that every tensor lies in the file and none over another.
fn place(at: &Cursor<'_>, start: usize, end: usize, tensors: &mut BTreeMap<String, GgufTensor>) -> Result<()> {
    let mut ordered: Vec<(&String, &mut GgufTensor)> = tensors.iter_mut().collect();
    ordered.sort_by_key(|(_, tensor)| tensor.offset);
    let mut free = start;
    for (name, tensor) in ordered {
        let place = format!("tensor `{name}`");
        let last = start
            .checked_add(tensor.offset)
            .and_then(|begin| begin.checked_add(tensor.size));
        let Some(last) = last.filter(|last| *last <= end) else {
            let wanted = format!("{} bytes at {} of the data", tensor.size, tensor.offset);
            return Err(at.broken(&place, &wanted, format!("a file of {end} bytes (cut short?)")));
        };
        tensor.offset += start;
        if tensor.offset < free {
            return Err(at.broken(&place, "bytes of its own", "bytes of the tensor before it".into()));
        }
        free = last;
    }
    Ok(())
}
