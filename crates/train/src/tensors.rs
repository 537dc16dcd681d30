//! Named tensors in a safetensors file and back, bit for bit.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::{BoxError, Error, Result};

/// Writes `tensors` to a file at `path`, one tensor in memory at a time. Not atomic: the caller renames.
pub(crate) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), BoxError> {
    write_all(path, tensors).map_err(|error| format!("`{}`: {error}", path.display()).into())
}

fn write_all(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), BoxError> {
    // The format's order: wide elements first, so that each tensor is aligned; then by name.
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.kind().elt_size_in_bytes()), name));
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    for (name, tensor) in &sorted {
        let dtype = dtype_of(tensor.kind()).ok_or_else(|| format!("`{name}`: no dtype for {:?}", tensor.kind()))?;
        let begin = end;
        end += tensor.numel() * tensor.kind().elt_size_in_bytes();
        let entry = json!({"dtype": dtype.to_string(), "shape": tensor.size(), "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(&text)?;
    for (_, tensor) in sorted {
        let host = tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; host.numel() * host.kind().elt_size_in_bytes()];
        host.copy_data_u8(&mut bytes, host.numel());
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

/// Copies a file's tensors into `tensors`, which name what is wanted.
pub(crate) fn read_into(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Error::file(path, "read"))?;
    let wrong = |wanted: String, found: String| Error::Checkpoint {
        path: path.to_owned(),
        wanted,
        found,
        hint: "the model of this recipe is not the one that the checkpoint was made with; resume with the same recipe",
    };
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong("a whole safetensors file".into(), error.to_string()))?;
    if file.len() != tensors.len() {
        return Err(wrong(format!("{} tensors", tensors.len()), format!("{}", file.len())));
    }
    for (name, tensor) in tensors {
        let view = file
            .tensor(name)
            .map_err(|_| wrong(format!("a tensor `{name}`"), "none of that name".into()))?;
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        if shape != tensor.size() || kind_of(view.dtype()) != Some(tensor.kind()) {
            return Err(wrong(
                format!("`{name}` as {:?} {:?}", tensor.kind(), tensor.size()),
                format!("{:?} {shape:?}", view.dtype()),
            ));
        }
        let held = Tensor::from_data_size(view.data(), &shape, tensor.kind());
        tch::no_grad(|| tensor.shallow_clone().copy_(&held));
    }
    Ok(())
}

/// Whether `path` is a safetensors file of the length that its header says.
pub(crate) fn is_whole(path: &Path) -> bool {
    use std::io::Read;
    let whole = || -> Option<bool> {
        let mut file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).ok()?;
        let header = u64::from_le_bytes(size);
        if header > length {
            return Some(false);
        }
        let mut text = Vec::new();
        file.take(header).read_to_end(&mut text).ok()?;
        let tensors: Map<String, Value> = serde_json::from_slice(&text).ok()?;
        let ends = tensors
            .values()
            .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
        Some(8 + header + ends.max().unwrap_or(0) == length)
    };
    whole().unwrap_or(false)
}

const DTYPES: [(Kind, Dtype); 6] = [
    (Kind::Float, Dtype::F32),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Half, Dtype::F16),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Int64, Dtype::I64),
];

fn dtype_of(kind: Kind) -> Option<Dtype> {
    DTYPES.iter().find(|(k, _)| *k == kind).map(|(_, dtype)| *dtype)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    DTYPES.iter().find(|(_, d)| *d == dtype).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let odd = Tensor::from_slice(&[f32::MIN_POSITIVE / 2.0, -0.0, 1.0 / 3.0]);
        let codes = Tensor::from_slice(&[0u8, 255, 7]).view([3, 1]);
        write(
            &path,
            &[("a".into(), odd.shallow_clone()), ("b".into(), codes.shallow_clone())],
        )
        .unwrap();
        assert!(is_whole(&path));
        let (a, b) = (odd.zeros_like(), codes.zeros_like());
        read_into(
            &path,
            &[("a".into(), a.shallow_clone()), ("b".into(), b.shallow_clone())],
        )
        .unwrap();
        assert_eq!(a.view_dtype(Kind::Int), odd.view_dtype(Kind::Int));
        assert_eq!(b, codes);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let a = Tensor::from_slice(&[1.0f32, 2.0]);
        write(&path, &[("a".into(), a.shallow_clone())]).unwrap();
        for (name, tensor, needle) in [
            ("b", a.shallow_clone(), "`b`"),
            ("a", a.view([2, 1]), "[2, 1]"),
            ("a", a.to_kind(Kind::BFloat16), "BFloat16"),
        ] {
            let error = read_into(&path, &[(name.into(), tensor)]).unwrap_err().to_string();
            assert!(error.contains(needle) && error.contains("t.safetensors"), "{error}");
        }
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 4, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(!is_whole(&path));
            assert!(read_into(&path, &[("a".into(), a.shallow_clone())]).is_err());
        }
    }
}
