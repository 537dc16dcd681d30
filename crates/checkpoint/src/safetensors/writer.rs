//! Writing, byte for byte as the reference implementation does: largest dtype first, then by name.
//!
//! The header is made and checked by the `safetensors` crate; it needs only shapes and dtypes, so each tensor is made when
//! its turn comes and dropped after it, which that crate's own writing cannot do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo as Entry};
use tch::{Device, Kind, Tensor};

use super::TensorInfo;
use crate::staged::StagedFile;
use crate::{BoxError, Error, Result};

/// Bytes copied out of a tensor at a time.
const CHUNK: i64 = 1 << 22;

/// Writes a file with metadata `{"format": "pt"}`, atomically; `tensor` makes each tensor when its turn comes.
///
/// What `tensor` gives is converted to the dtype of its [`TensorInfo`]; an error if its shape is another.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorInfo],
    mut tensor: impl FnMut(&TensorInfo) -> Result<Tensor, BoxError>,
) -> Result<()> {
    let (head, ordered) = head(path, tensors)?;
    let needed = head.len() as u64 + tensors.iter().map(size_in_bytes).sum::<u64>();
    let mut file = StagedFile::create(path, needed)?;
    file.write(&head)?;
    let mut buffer = Vec::new();
    for info in ordered {
        let value = tensor(info).map_err(|source| Error::Source {
            name: info.name.clone(),
            source,
        })?;
        if value.size() != info.shape {
            return Err(Error::Shape {
                path: path.to_owned(),
                name: info.name.clone(),
                wanted: info.shape.clone(),
                found: value.size(),
            });
        }
        write_tensor(&mut file, &value.detach(), info.kind, &mut buffer)?;
    }
    file.commit()
}

/// As [`write_safetensors`], of tensors that are all there already, each in its own dtype.
pub fn write_tensors<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let tensors: BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, tensor)| TensorInfo::of(name, tensor))
        .collect();
    write_safetensors(path, &infos, |info| Ok(tensors[info.name.as_str()].shallow_clone()))
}

/// The length of the tensor's numbers, in bytes.
pub(crate) fn size_in_bytes(info: &TensorInfo) -> u64 {
    info.shape.iter().product::<i64>() as u64 * info.kind.elt_size_in_bytes() as u64
}

/// The length and the header, padded to 8 bytes, and the tensors in the order of their bytes.
fn head<'a>(path: &Path, tensors: &'a [TensorInfo]) -> Result<(Vec<u8>, Vec<&'a TensorInfo>)> {
    let broken = |at: String, wanted: &str, found: &str| Error::Broken {
        path: path.to_owned(),
        format: "safetensors file",
        at,
        wanted: wanted.into(),
        found: found.into(),
    };
    let mut ordered = Vec::with_capacity(tensors.len());
    for info in tensors {
        let dtype = dtype(info.kind).ok_or_else(|| Error::Unsupported {
            path: path.to_owned(),
            what: format!("tensor `{}` of dtype {:?}", info.name, info.kind),
            hint: "save it as BFloat16, Half or Float".into(),
        })?;
        ordered.push((dtype, info));
    }
    ordered.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.name.cmp(&y.name)));
    let mut offset = 0;
    let (mut entries, mut names) = (Vec::with_capacity(ordered.len()), HashSet::new());
    for (dtype, info) in &ordered {
        let end = offset + size_in_bytes(info) as usize;
        let entry = Entry {
            dtype: *dtype,
            shape: info.shape.iter().map(|&side| side as usize).collect(),
            data_offsets: (offset, end),
        };
        if !names.insert(&info.name) {
            return Err(broken(format!("tensor `{}`", info.name), "each name once", "it twice"));
        }
        entries.push((info.name.clone(), entry));
        offset = end;
    }
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(about), entries).map_err(|error| {
        broken(
            "header".into(),
            "shapes and offsets that fit each other",
            &error.to_string(),
        )
    })?;
    let mut text = serde_json::to_vec(&header).map_err(Error::json(path))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok((bytes, ordered.into_iter().map(|(_, info)| info).collect()))
}

/// The format's dtype of a kind, if it has one.
fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Bool => Dtype::BOOL,
        Kind::Uint8 => Dtype::U8,
        Kind::Int8 => Dtype::I8,
        Kind::Int16 => Dtype::I16,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int => Dtype::I32,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        _ => return None,
    })
}

fn write_tensor(file: &mut StagedFile, value: &Tensor, kind: Kind, buffer: &mut Vec<u8>) -> Result<()> {
    let flat = value.contiguous().view([-1]);
    let size = kind.elt_size_in_bytes();
    let step = CHUNK / size as i64;
    let count = flat.numel() as i64;
    for begin in (0..count).step_by(step as usize) {
        let part = flat.narrow(0, begin, step.min(count - begin));
        let part = part.to_device(Device::Cpu).to_kind(kind);
        buffer.resize(part.numel() * size, 0);
        part.copy_data_u8(buffer, part.numel());
        file.write(buffer)?;
    }
    Ok(())
}
