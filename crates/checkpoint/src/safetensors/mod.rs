//! safetensors: a JSON header, then the tensors' bytes. Read by mapping, written one tensor at a time.
//!
//! Weights that several entries hold in 4 or 8 bits ([`PackedTensor`]) are one tensor here, of the weight's own shape.

mod header;
mod packed;
mod scaled;
mod writer;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapMut;
use tch::{Kind, Tensor};

use crate::{
    Error, Result,
    map::{Length, Lent, map},
};
use header::{Entry, Header};
pub use packed::{PackedCode, PackedScales, PackedTensor};
pub(crate) use packed::{is_part, state_of};
pub(crate) use writer::size_in_bytes;
pub use writer::{write_safetensors, write_tensors};

/// A tensor's name, shape and dtype, without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The shape.
    pub shape: Vec<i64>,
    /// The dtype.
    pub kind: Kind,
}

impl TensorInfo {
    /// Of `tensor` as it is.
    pub fn of(name: &str, tensor: &Tensor) -> Self {
        Self {
            name: name.to_owned(),
            shape: tensor.size(),
            kind: tensor.kind(),
        }
    }
}

/// A safetensors file, mapped and its header checked.
#[derive(Debug)]
pub struct Safetensors {
    path: PathBuf,
    map: Arc<MmapMut>,
    length: Length,
    start: usize,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    /// The weights that several entries hold.
    packed: BTreeMap<String, packed::State>,
    /// Weights in 8 bits with scales in other entries.
    scaled: BTreeMap<String, scaled::Scaled>,
    names: Vec<String>,
}

impl Safetensors {
    /// Maps the file and checks that its header fits its bytes: lengths, dtypes, no gap, no overlap, packed weights whole.
    pub fn open(path: &Path) -> Result<Self> {
        let (map, length) = map(path)?;
        let Header {
            start,
            entries,
            metadata,
        } = header::read(path, &map)?;
        let mut file = Self {
            path: path.to_owned(),
            map,
            length,
            start,
            names: Vec::new(),
            packed: BTreeMap::new(),
            scaled: BTreeMap::new(),
            entries,
            metadata,
        };
        let (packed, parts) = packed::find(&file)?;
        let mut parts: HashSet<String> = parts.into_iter().collect();
        let eights = file.entries.iter().filter(|(name, _)| !packed.contains_key(*name));
        file.scaled = eights
            .filter_map(|(name, entry)| Some((name.clone(), scaled::find(&file, name, entry)?)))
            .collect();
        parts.extend(file.scaled.keys().flat_map(|name| scaled::parts(name)));
        file.names = file
            .entries
            .keys()
            .filter(|name| !parts.contains(*name))
            .cloned()
            .collect();
        file.packed = packed;
        Ok(file)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether `name` is an entry that belongs to a packed weight of another name.
    pub(crate) fn is_part(&self, name: &str) -> bool {
        self.entries.contains_key(name) && self.names.binary_search_by(|own| own.as_str().cmp(name)).is_err()
    }

    /// The shape of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        match self.packed.get(name) {
            Some(state) => Some(state.shape()),
            None => self.entries.get(name).map(|entry| entry.shape.as_slice()),
        }
    }

    /// The shape and dtype of the tensor `name`, a packed one's as it was before; an error also if libtorch has no such
    /// dtype.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        if let Some(state) = self.packed.get(name) {
            return Ok(TensorInfo {
                name: name.to_owned(),
                shape: state.shape().to_vec(),
                kind: state.kind(),
            });
        }
        let entry = self.entry(name)?;
        let kind = match self.scaled.contains_key(name) {
            true => Kind::Float,
            false => self.kind(name, entry)?,
        };
        Ok(TensorInfo {
            name: name.to_owned(),
            shape: entry.shape.clone(),
            kind,
        })
    }

    /// The tensor `name` on the CPU, over the mapped file where its bytes are aligned, else a copy; dequantised if packed.
    ///
    /// It is read-only: give it to `Param::frozen`, or copy it.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        match (self.packed.get(name), self.scaled.get(name)) {
            (Some(state), _) => Ok(state.tensor(self, name)?.dequantise(state.kind())),
            (None, Some(scaled)) => scaled.dequantise(self, name),
            (None, None) => self.stored(name),
        }
    }

    /// As [`Self::tensor`], in dtype `kind`.
    pub fn tensor_as(&self, name: &str, kind: Kind) -> Result<Tensor> {
        match self.packed.get(name) {
            Some(state) => Ok(state.tensor(self, name)?.dequantise(kind)),
            None => Ok(self.tensor(name)?.to_kind(kind)),
        }
    }

    /// The weight `name` as it is stored, if it is packed.
    pub fn packed(&self, name: &str) -> Result<Option<PackedTensor>> {
        self.packed.get(name).map(|state| state.tensor(self, name)).transpose()
    }

    /// Name, dtype and shape of every entry, parts of packed weights among them, and where its bytes lie in the file.
    pub(crate) fn raw_entries(&self) -> impl Iterator<Item = (&str, String, (u64, u64))> {
        self.entries.iter().map(|(name, entry)| {
            let (begin, end) = (self.start + entry.offsets.0, self.start + entry.offsets.1);
            let about = format!("{} {:?}", entry.dtype, entry.shape);
            (name.as_str(), about, (begin as u64, end as u64))
        })
    }

    /// One entry of the file, over the mapped file where its bytes are aligned.
    fn stored(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let kind = self.kind(name, entry)?;
        self.length.still()?;
        let bytes = self.bytes(entry);
        // libtorch, like every C++ program, knows no other bytes of that type.
        if kind == Kind::Bool
            && let Some(byte) = bytes.iter().find(|&&byte| byte > 1)
        {
            return Err(Error::Broken {
                path: self.path.clone(),
                format: "safetensors file",
                at: format!("tensor `{name}`"),
                wanted: "BOOL bytes of 0 or 1".into(),
                found: byte.to_string(),
            });
        }
        if bytes.is_empty() || !(bytes.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes()) {
            return Ok(Tensor::from_data_size(bytes, &entry.shape, kind));
        }
        Lent::new(&self.map, bytes).tensor(&entry.shape, kind)
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[self.start + entry.offsets.0..self.start + entry.offsets.1]
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| Error::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            near: near(self.names(), name),
        })
    }

    fn kind(&self, name: &str, entry: &Entry) -> Result<Kind> {
        header::kind(entry.dtype).ok_or_else(|| Error::Unsupported {
            path: self.path.clone(),
            what: format!("dtype `{}` of tensor `{name}`", entry.dtype),
            hint: "codes without scales beside them are no numbers; convert it to BF16, F16 or F32 first".into(),
        })
    }
}

/// The name that shares the longest end with `wanted`, if it shares a whole component.
pub(crate) fn near<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> Option<String> {
    let shared = |name: &str| {
        let pairs = name.rsplit('.').zip(wanted.rsplit('.'));
        pairs.take_while(|(a, b)| a == b).count()
    };
    names
        .map(|name| (shared(name), name))
        .filter(|(count, _)| *count > 1)
        .max_by_key(|(count, _)| *count)
        .map(|(_, name)| name.to_owned())
}
