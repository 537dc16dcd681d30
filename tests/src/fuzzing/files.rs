//! Readers of files and folders: the input is written into a folder of this thread, then opened.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Gguf, ModelDir, PeftAdapter, Safetensors};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use train::{RunDir, Start};

/// Tensors beyond this many numbers are not dequantised: that they can be is another matter than how they are read.
const MOST_NUMBERS: i64 = 1 << 16;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Gives `read` an empty folder.
fn in_folder(read: impl FnOnce(&Path)) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a folder for this thread"));
        let inside = folder.path().join("input");
        fs::create_dir_all(&inside).expect("a folder");
        read(&inside);
        fs::remove_dir_all(&inside).expect("the folder is ours");
    });
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a file in a folder of ours");
    path
}

/// The bytes as two parts: the first two say how long the first part is.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let [low, high, rest @ ..] = bytes else {
        return (bytes, &[]);
    };
    rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()))
}

fn few(shape: &[i64]) -> bool {
    shape
        .iter()
        .try_fold(1i64, |all, &size| all.checked_mul(size))
        .is_some_and(|all| all <= MOST_NUMBERS)
}

/// A GGUF file: header, metadata, every tensor; then as a model with its configuration and tokenizer.
pub fn gguf(bytes: &[u8]) {
    in_folder(|folder| {
        let path = write(folder, "model.gguf", bytes);
        if let Ok(file) = Gguf::open(&path) {
            for (name, tensor) in file.tensors() {
                if few(&tensor.shape) {
                    let _ = file.tensor(name, Kind::Float);
                }
            }
        }
        if let Ok(model) = ModelDir::open(&path) {
            let _ = model.tokenizer().tokenizer_json();
            let _ = model.tokenizer().tokenizer_config();
        }
    });
}

/// A safetensors file: header and every tensor, packed ones included.
pub fn safetensors(bytes: &[u8]) {
    in_folder(|folder| {
        let path = write(folder, "model.safetensors", bytes);
        let Ok(file) = Safetensors::open(&path) else { return };
        for name in file.names().map(str::to_owned).collect::<Vec<_>>() {
            let _ = file.info(&name);
            if file.shape(&name).is_some_and(few) {
                let _ = file.tensor(&name);
                let _ = file.tensor_as(&name, Kind::BFloat16);
                let _ = file.packed(&name);
            }
        }
    });
}

/// A model's folder: `config.json`, then weights.
pub fn config(bytes: &[u8]) {
    let (config, weights) = halves(bytes);
    in_folder(|folder| {
        write(folder, "config.json", config);
        write(folder, "model.safetensors", weights);
        let _ = ModelDir::open(folder);
    });
}

/// An adapter's folder: `adapter_config.json`, then weights.
pub fn adapter(bytes: &[u8]) {
    let (config, weights) = halves(bytes);
    in_folder(|folder| {
        write(folder, "adapter_config.json", config);
        write(folder, "adapter_model.safetensors", weights);
        if let Ok(file) = PeftAdapter::open(folder) {
            let places: Vec<_> = file.tensors().map(|(at, part)| (at.clone(), part.clone())).collect();
            for (at, part) in places {
                if file.shape(&at, &part).is_some_and(few) {
                    let _ = file.tensor(&at, &part);
                }
            }
        }
        let _ = methods::open(folder);
    });
}

/// A checkpoint that a run shall continue from: `state.json`, then its tensors.
pub fn checkpoint(bytes: &[u8]) {
    let (state, tensors) = halves(bytes);
    in_folder(|folder| {
        let inside = folder.join("checkpoint-2");
        fs::create_dir(&inside).expect("a folder");
        write(folder, "recipe.toml", b"");
        write(&inside, "state.json", state);
        write(&inside, "optimizer.safetensors", tensors);
        write(&inside, "masters.safetensors", tensors);
        let wanted = [("a".to_owned(), Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)))];
        let Ok(run) = RunDir::open(folder, "", Start::Resume) else {
            return;
        };
        if let Ok(Some(found)) = run.latest() {
            let _ = found.check(7, 4, &wanted);
        }
    });
}
