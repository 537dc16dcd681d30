//! Reading `vectors/`: safetensors into tensors, and JSON.
//!
//! Everything here panics with the file's path: a vector that is missing is a broken checkout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tch::{Kind, Tensor};

/// The folder that holds all vectors.
pub fn vectors_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// The JSON file `vectors/NAME.json`, such as `schedules` or `trajectory/lora/trajectory`.
pub fn json(name: &str) -> serde_json::Value {
    let path = vectors_dir().join(format!("{name}.json"));
    serde_json::from_slice(&read(&path)).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()))
}

/// The named tensors of one safetensors file, on the CPU.
#[derive(Debug)]
pub struct Vectors {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Vectors {
    /// Reads `vectors/NAME.safetensors`, or `vectors/NAME/golden.safetensors` where NAME is a folder.
    pub fn open(name: &str) -> Self {
        let folder = vectors_dir().join(name);
        Self::open_file(&if folder.is_dir() {
            folder.join("golden.safetensors")
        } else {
            vectors_dir().join(format!("{name}.safetensors"))
        })
    }

    /// Reads any safetensors file, such as one that a test has just saved.
    pub fn open_file(path: &Path) -> Self {
        let bytes = read(path);
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), tensor(path, name, &view)))
            .collect();
        Self {
            path: path.to_owned(),
            tensors,
        }
    }

    /// The tensor `name`, a fresh copy with the dtype of the file and no gradient.
    pub fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            panic!("`{}` holds no `{name}`; it holds {names:?}", self.path.display())
        })
    }

    /// The tensor `name` if the file holds it.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).map(Tensor::copy)
    }

    /// The one number of a tensor without dimensions.
    pub fn number(&self, name: &str) -> f64 {
        self.get(name).double_value(&[])
    }

    /// The whole numbers of the tensor `name`, flattened.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        let flat = self.get(name).flatten(0, -1);
        (0..flat.size()[0]).map(|index| flat.int64_value(&[index])).collect()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors whose name starts with `prefix`, such as `grad.`, under the rest of their name.
    pub fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let rest = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.copy()));
        self.tensors.iter().filter_map(rest).collect()
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("`{}`: {error}\nhint: `cargo xtask golden` writes it", path.display()))
}

fn tensor(path: &Path, name: &str, view: &TensorView) -> Tensor {
    let kind = match view.dtype() {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::BOOL => Kind::Bool,
        other => panic!("`{}`: `{name}` is of dtype {other:?}", path.display()),
    };
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Tensor::from_data_size(view.data(), &shape, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("vectors are there") {
            let path = entry.expect("vectors are readable").path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_vector_file_opens_and_holds_finite_numbers() {
        let mut found = Vec::new();
        files(&vectors_dir(), &mut found);
        let with = |end: &str| {
            found
                .iter()
                .filter(|path| path.extension().is_some_and(|got| got == end))
                .collect::<Vec<_>>()
        };
        assert!(with("safetensors").len() > 60, "{}", with("safetensors").len());
        for path in with("safetensors") {
            let vectors = Vectors::open_file(path);
            assert!(vectors.names().count() > 0, "{}", path.display());
            for (name, tensor) in vectors.under("") {
                assert_eq!(
                    tensor.isfinite().all().int64_value(&[]),
                    1,
                    "{}: {name}",
                    path.display()
                );
            }
        }
        for path in with("json") {
            let value: serde_json::Value = serde_json::from_slice(&read(path)).expect("vectors hold valid JSON");
            assert!(!value.is_null(), "{}", path.display());
        }
    }

    #[test]
    fn the_stored_loss_follows_from_the_stored_logits() {
        let golden = Vectors::open("families/llama-tied");
        let mut total = 0.0;
        for document in 0..3 {
            let (tokens, logits) = (
                golden.get(&format!("tokens.{document}")),
                golden.get(&format!("logits.{document}")),
            );
            let log_probs = logits.log_softmax(-1, Kind::Double);
            for position in 1..tokens.size()[0] {
                total -= log_probs.double_value(&[position - 1, tokens.int64_value(&[position])]);
            }
        }
        let wanted = golden.number("loss");
        assert!((total - wanted).abs() < 1e-5 * wanted, "{total} instead of {wanted}");
    }

    #[test]
    fn a_folder_opens_its_golden_file_and_prefixes_are_taken_off() {
        let golden = Vectors::open("trajectory/lora");
        let (initial, found) = (golden.under("initial."), golden.under("final."));
        assert!(initial.keys().eq(found.keys()) && initial.len() == 28);
        assert_eq!(
            json("trajectory/lora/trajectory")["losses"].as_array().map(Vec::len),
            Some(10)
        );
    }

    #[test]
    #[should_panic(expected = "holds no `nothing`; it holds [\"d_gate\"")]
    fn a_missing_tensor_is_named_with_what_there_is() {
        let _ = Vectors::open("kernels/swiglu").get("nothing");
    }

    #[test]
    #[should_panic(expected = "hint: `cargo xtask golden` writes it")]
    fn a_missing_file_says_what_writes_it() {
        Vectors::open("kernels/nothing");
    }
}
