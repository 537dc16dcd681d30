//! What a model's or an adapter's tensors are, in 32 bytes: the same however they are spread over files and folders.
//!
//! SHA-256 over each tensor's name, dtype, shape and the SHA-256 of every [`CHUNK`] of its bytes, the tensors in the order
//! of their names. Chunks are read and hashed in parallel, by `pread`, so that nothing stays in memory. As files of
//! gigabytes take seconds, digests are kept by the files' identity: path, inode, size, times of change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::model_dir::shards_of;
use crate::{Error, Result, Safetensors};

/// Bytes hashed as one.
const CHUNK: u64 = 8 << 20;
/// A file changed later than this may change again within one tick of its clock.
const SETTLED: Duration = Duration::from_secs(2);

/// A place that remembers digests.
#[derive(Clone, Debug, Default)]
pub struct Digests {
    home: Option<PathBuf>,
}

/// A part of a file.
struct Tensor {
    file: usize,
    about: String,
    bytes: (u64, u64),
}

impl Digests {
    /// In the folder `home`, or nowhere. What cannot be written there is not remembered, which costs time and nothing else.
    pub fn new(home: Option<PathBuf>) -> Self {
        Self { home }
    }

    /// The digest of the weights at `path`, a folder or a file, as hexadecimal.
    pub fn of(&self, path: &Path) -> Result<String> {
        let files = weights(path)?;
        let key = identity(&files)?;
        let place = self.home.as_ref().zip(key).map(|(home, key)| home.join(key));
        if let Some(known) = place.as_ref().and_then(|place| std::fs::read_to_string(place).ok())
            && known.len() == 64
        {
            return Ok(known);
        }
        let digest = compute(&files)?;
        if let Some(place) = place {
            let above = place.parent().unwrap_or(Path::new(""));
            let _ = std::fs::create_dir_all(above).map(|()| staging::write_file(&place, digest.as_bytes()));
        }
        Ok(digest)
    }
}

/// The files that a reader of `path` takes the numbers from.
fn weights(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = path.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(shards_of(&index)?.into_iter().map(|name| path.join(name)).collect());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let holds_numbers = |name: &String| {
        let ends = |end: &str| name.ends_with(end);
        ends(".gguf") || staging::is_model_file(name) && (ends(".safetensors") || ends(".rows"))
    };
    let mut files: Vec<PathBuf> = names.filter(holds_numbers).map(|name| path.join(name)).collect();
    files.sort();
    match files.is_empty() {
        false => Ok(files),
        true => Err(Error::Missing {
            path: path.to_owned(),
            what: "weights".into(),
            hint: "a folder of a model or an adapter holds `.safetensors` or `.gguf`".into(),
        }),
    }
}

/// What changes whenever the files may have; none while they are so new that it might not.
fn identity(files: &[PathBuf]) -> Result<Option<String>> {
    let mut hasher = Sha256::new();
    for path in files {
        let found = path.metadata().map_err(Error::io(path, "read"))?;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(found.ctime().max(found.mtime()).max(0) as u64);
        if changed.elapsed().is_ok_and(|age| age < SETTLED) {
            return Ok(None);
        }
        let path = path.canonicalize().map_err(Error::io(path, "find"))?;
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        hasher.update(format!(
            "{}\n{} {} {times:?}\n",
            path.display(),
            found.ino(),
            found.len()
        ));
    }
    Ok(Some(hexadecimal(&hasher.finalize())))
}

fn compute(paths: &[PathBuf]) -> Result<String> {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (file, path) in paths.iter().enumerate() {
        let mut add = |name: &str, about: String, bytes: (u64, u64)| {
            tensors.insert(name.to_owned(), Tensor { file, about, bytes });
        };
        if path.extension().is_some_and(|end| end == "safetensors") {
            for (name, about, bytes) in Safetensors::open(path)?.raw_entries() {
                add(name, format!("{name}\n{about}\n"), bytes);
            }
        } else {
            let name = path.extension().unwrap_or_default().to_string_lossy();
            let length = path.metadata().map_err(Error::io(path, "read"))?.len();
            add(&format!("{name} {file}"), format!("{name} {length}\n"), (0, length));
        }
    }
    let files: Vec<File> = paths
        .iter()
        .map(|path| File::open(path).map_err(Error::io(path, "open")))
        .collect::<Result<_>>()?;
    let chunks: Vec<(usize, u64, u64)> = tensors
        .values()
        .flat_map(|tensor| {
            let (begin, end) = tensor.bytes;
            (begin..end)
                .step_by(CHUNK as usize)
                .map(move |at| (tensor.file, at, end.min(at + CHUNK)))
        })
        .collect();
    let leaf = |&(file, begin, end): &(usize, u64, u64)| -> Result<[u8; 32]> {
        let mut buffer = vec![0; 1 << 16];
        let mut hasher = Sha256::new();
        let mut at = begin;
        while at < end {
            let part = &mut buffer[..(end - at).min(1 << 16) as usize];
            files[file]
                .read_exact_at(part, at)
                .map_err(Error::io(&paths[file], "read"))?;
            hasher.update(&*part);
            at += part.len() as u64;
        }
        Ok(hasher.finalize().into())
    };
    let leaves: Vec<[u8; 32]> = chunks.par_iter().map(leaf).collect::<Result<_>>()?;
    let mut leaves = leaves.iter();
    let mut whole = Sha256::new();
    for tensor in tensors.values() {
        whole.update(&tensor.about);
        let count = (tensor.bytes.1 - tensor.bytes.0).div_ceil(CHUNK) as usize;
        leaves.by_ref().take(count).for_each(|leaf| whole.update(leaf));
    }
    Ok(hexadecimal(&whole.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::write_tensors;

    #[test]
    fn the_digest_is_of_the_tensors_and_not_of_the_files() {
        let home = tempfile::tempdir().unwrap();
        let digests = Digests::default();
        let (a, b) = (Tensor::from_slice(&[1.0f32, 2.0]), Tensor::from_slice(&[3i64]));
        let folder = |name: &str, files: &[(&str, &[(&str, &Tensor)])]| {
            let folder = home.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for (file, tensors) in files {
                write_tensors(&folder.join(file), tensors.iter().copied()).unwrap();
            }
            folder
        };
        let one = folder("one", &[("model.safetensors", &[("a", &a), ("b", &b)])]);
        let two = folder(
            "two",
            &[
                ("model-00001-of-00002.safetensors", &[("a", &a)]),
                ("model-00002-of-00002.safetensors", &[("b", &b)]),
            ],
        );
        let index =
            r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        std::fs::write(two.join("model.safetensors.index.json"), index).unwrap();
        let wanted = digests.of(&one).unwrap();
        assert_eq!(digests.of(&two).unwrap(), wanted);
        assert_eq!(digests.of(&one.join("model.safetensors")).unwrap(), wanted);
        let c = Tensor::from_slice(&[1.0f32, 2.5]);
        for (name, tensors) in [
            ("value", [("a", &c), ("b", &b)]),
            ("name", [("c", &a), ("b", &b)]),
            ("shape", [("a", &a.view([2, 1])), ("b", &b)]),
            ("dtype", [("a", &a.view_dtype(tch::Kind::Int)), ("b", &b)]),
        ] {
            let other = folder(name, &[("model.safetensors", &tensors)]);
            assert_ne!(digests.of(&other).unwrap(), wanted, "{name}");
        }
    }

    #[test]
    fn what_is_remembered_is_forgotten_when_the_file_changes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("model.safetensors");
        let write = |value: f32, age: u64| {
            write_tensors(&path, [("a", &Tensor::from_slice(&[value]))]).unwrap();
            let when = SystemTime::now() - Duration::from_secs(age);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(when)
                .unwrap();
        };
        let kept = home.path().join("kept");
        let digests = Digests::new(Some(kept.clone()));
        write(1.0, 100);
        let first = digests.of(&path).unwrap();
        // Its status has just changed, so nothing is remembered yet.
        assert!(!kept.exists());
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        assert_eq!(digests.of(&path).unwrap(), first);
        let remembered = std::fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
        // What stands there is what is said.
        std::fs::write(&remembered, "0".repeat(64)).unwrap();
        assert_eq!(digests.of(&path).unwrap(), "0".repeat(64));
        // The same size and time of modification.
        write(2.0, 100);
        let second = digests.of(&path).unwrap();
        assert!(second != first && second != "0".repeat(64));
    }

    #[test]
    fn a_home_that_cannot_be_written_is_no_failure() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("model.gguf");
        std::fs::write(&path, "bytes").unwrap();
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        let nowhere = Digests::new(Some("/proc/nowhere".into()));
        assert_eq!(nowhere.of(&path).unwrap(), Digests::default().of(&path).unwrap());
    }
}
