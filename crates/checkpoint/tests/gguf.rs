//! GGUF files are read as llama.cpp's own Python package and Transformers read them, and broken ones are refused.

use std::path::{Path, PathBuf};

use checkpoint::{BoxError, Error, Gguf, ModelDir, SaveOptions, TensorInfo, save_model};
use serde_json::Value;
use tch::{Kind, Tensor};
use tokenizers::Tokenizer;

/// A GGUF file written by hand.
struct Writer {
    version: u32,
    keys: Vec<u8>,
    num_keys: u64,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl Writer {
    fn new() -> Self {
        let writer = Self {
            version: 3,
            keys: Vec::new(),
            num_keys: 0,
            tensors: Vec::new(),
            data: Vec::new(),
        };
        writer.key("general.architecture", 8, &text("llama"))
    }

    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.extend(text(key));
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.num_keys += 1;
        self
    }

    /// `shape` in ggml's order: the row's length first.
    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors
            .push((name.into(), shape.to_vec(), kind, self.data.len() as u64));
        self.data.extend(data);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.num_keys.to_le_bytes());
        out.extend(&self.keys);
        for (name, shape, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((shape.len() as u32).to_le_bytes());
            for side in shape {
                out.extend(side.to_le_bytes());
            }
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Result<Gguf, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let file = Gguf::open(&path);
    (folder, file)
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

#[test]
fn every_block_type_is_dequantised_bit_for_bit() {
    let vectors = golden::Vectors::open_file(&golden::vectors_dir().join("gguf/blocks.safetensors"));
    let types = [
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q4_K", 12),
        ("Q5_K", 13),
        ("Q6_K", 14),
        ("BF16", 30),
    ];
    let mut writer = Writer::new();
    for (name, number) in types {
        let wanted = vectors.get(&format!("{name}.values")).size();
        let bytes = bytes_of(&vectors.get(&format!("{name}.bytes")));
        writer = writer.tensor(name, &[wanted[1] as u64, wanted[0] as u64], number, &bytes);
    }
    let (_folder, file) = open(&writer.bytes());
    let file = file.unwrap();
    for (name, _) in types {
        let wanted = vectors.get(&format!("{name}.values"));
        assert_eq!(file.tensors()[name].stored.to_string(), name);
        let found = file.tensor(name, Kind::Float).unwrap();
        assert!(found.equal(&wanted), "{name}: {}", (found - &wanted).abs().max());
        let narrow = file.tensor(name, Kind::BFloat16).unwrap();
        assert!(narrow.equal(&wanted.to_kind(Kind::BFloat16)), "{name} as bf16");
    }
}

fn tiny() -> (ModelDir, ModelDir) {
    let folder = golden::vectors_dir().join("gguf");
    (
        ModelDir::open(&folder.join("tiny.gguf")).unwrap(),
        ModelDir::open(&folder.join("tiny")).unwrap(),
    )
}

#[test]
fn a_gguf_model_is_the_hugging_face_model() {
    let (gguf, hf) = tiny();
    assert_eq!(gguf.names(), hf.names());
    for name in hf.names() {
        assert!(
            gguf.tensor_as(name, Kind::Float)
                .unwrap()
                .equal(&hf.tensor(name).unwrap()),
            "{name}"
        );
    }
    let (ours, theirs) = (gguf.config(), hf.config());
    for key in theirs.raw().keys() {
        let known = [
            "attention_dropout",
            "initializer_range",
            "pretraining_tp",
            "transformers_version",
            "use_cache",
        ];
        if !known.contains(&key.as_str()) {
            assert_eq!(ours.raw().get(key), theirs.raw().get(key), "{key}");
        }
    }
    assert_eq!(
        gguf.tokenizer().read("chat_template.jinja").unwrap(),
        hf.tokenizer().read("chat_template.jinja").unwrap()
    );
    // `<|endoftext|>` ends a text too.
    assert_eq!(ours.eos_token_ids, [2, 0]);
}

fn check_texts(tokenizer: &Tokenizer, rows: &Value) {
    for row in rows.as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        let wanted: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap().get_ids(), wanted, "{text:?}");
        assert_eq!(tokenizer.decode(&wanted, false).unwrap(), text);
    }
}

#[test]
fn the_metadata_s_tokenizer_gives_the_same_ids() {
    let (gguf, hf) = tiny();
    let texts = golden::json("gguf/texts");
    for model in [&gguf, &hf] {
        check_texts(
            &Tokenizer::from_bytes(model.tokenizer().tokenizer_json().unwrap()).unwrap(),
            &texts,
        );
    }
}

#[test]
fn a_gguf_model_is_exported_whole() {
    let (gguf, hf) = tiny();
    let folder = tempfile::tempdir().unwrap();
    let infos: Vec<TensorInfo> = gguf.names().iter().map(|name| gguf.info(name).unwrap()).collect();
    let options = SaveOptions {
        tokenizer: Some(gguf.tokenizer()),
        generation_config: gguf.generation_config(),
        dtype: Some(Kind::Float),
        ..SaveOptions::default()
    };
    save_model(
        folder.path(),
        gguf.config(),
        &infos,
        |info| gguf.tensor(&info.name).map_err(BoxError::from),
        &options,
    )
    .unwrap();
    let again = ModelDir::open(folder.path()).unwrap();
    for name in hf.names() {
        assert!(again.tensor(name).unwrap().equal(&hf.tensor(name).unwrap()), "{name}");
    }
    assert_eq!(again.config().eos_token_ids, gguf.config().eos_token_ids);
    check_texts(
        &Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap(),
        &golden::json("gguf/texts"),
    );
}

#[test]
fn headers_that_lie_are_refused() {
    let good = Writer::new().tensor("x", &[32, 2], 8, &[0; 68]);
    let whole = good.bytes();
    let (_folder, file) = open(&whole);
    assert_eq!(file.unwrap().tensors()["x"].shape, [2, 32]);
    // Cut anywhere, it is an error and no crash.
    for end in 0..whole.len() {
        assert!(open(&whole[..end]).1.is_err(), "{end}");
    }
    let check = |bytes: &[u8], wanted: &[&str]| {
        let text = open(bytes).1.unwrap_err().to_string();
        for part in wanted {
            assert!(text.contains(part), "wanted {part:?} in {text:?}");
        }
        assert!(text.contains("model.gguf"), "{text}");
    };
    check(b"GGML....", &["`GGUF`", "GGML"]);
    check(&whole[..whole.len() - 1], &["tensor `x`", "68 bytes", "cut short"]);
    check(
        &Writer {
            version: 1,
            ..Writer::new()
        }
        .bytes(),
        &["version", "2 or 3", "found 1"],
    );
    check(
        &Writer {
            version: 3u32.swap_bytes(),
            ..Writer::new()
        }
        .bytes(),
        &["big-endian"],
    );
    check(&Writer::new().key("a", 99, &[]).bytes(), &["metadata `a`", "found 99"]);
    check(
        &Writer::new().key("a", 8, &u64::MAX.to_le_bytes()).bytes(),
        &["metadata `a`", "cut short"],
    );
    let huge = [8u32.to_le_bytes().as_slice(), &(u64::MAX / 2).to_le_bytes()].concat();
    check(&Writer::new().key("a", 9, &huge).bytes(), &["metadata `a`", "at most"]);
    check(&Writer::new().key("a", 7, &[2]).bytes(), &["flag of 0 or 1"]);
    check(
        &Writer::new().key("a", 0, &[1]).key("a", 0, &[1]).bytes(),
        &["metadata `a`", "twice"],
    );
    check(
        &Writer::new().tensor("x", &[33, 2], 8, &[0; 68]).bytes(),
        &["multiples of 32", "[33, 2]"],
    );
    check(
        &Writer::new().tensor("x", &[u64::MAX, 32], 0, &[0; 68]).bytes(),
        &["memory can hold"],
    );
    check(
        &Writer::new().tensor("x", &[32], 10, &[0; 68]).bytes(),
        &["tensor `x` of type Q2_K", "Q4_K"],
    );
    check(
        &Writer::new().tensor("x", &[], 0, &[0; 68]).bytes(),
        &["1 to 4 dimensions"],
    );
    let mut over = Writer::new()
        .tensor("x", &[16], 0, &[0; 64])
        .tensor("y", &[16], 0, &[0; 64]);
    over.tensors[1].3 = 32;
    check(&over.bytes(), &["tensor `y`", "bytes of its own"]);
    over.tensors[1].3 = 33;
    check(&over.bytes(), &["an offset that 32 divides", "33"]);
    over.tensors[1].3 = u64::MAX - 31;
    check(&over.bytes(), &["tensor `y`", "cut short"]);
}

#[test]
fn a_model_that_is_not_understood_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, Writer::new().bytes()).unwrap();
    // A folder with a GGUF file is that file.
    for place in [folder.path(), &path] {
        let text = ModelDir::open(place).unwrap_err().to_string();
        assert!(text.contains("`llama.attention.head_count`"), "{text}");
    }
    let writer = Writer {
        keys: Vec::new(),
        num_keys: 0,
        ..Writer::new()
    };
    std::fs::write(&path, writer.key("general.architecture", 8, &text("bloom")).bytes()).unwrap();
    let text = ModelDir::open(&path).unwrap_err().to_string();
    assert!(text.contains("\"bloom\"") && text.contains("gemma3"), "{text}");
}

/// The real model of the local store, if it was fetched.
fn smollm2() -> Option<PathBuf> {
    let path = checkpoint::cache_dir()?.join("models/smollm2-135m-instruct");
    path.exists().then_some(path)
}

#[test]
fn smollm2_is_read_as_transformers_reads_it() {
    let Some(path) = smollm2() else {
        return golden::skip!("needs `cargo xtask fetch smollm2-135m-instruct`");
    };
    let golden = golden::json("smollm2");
    let model = ModelDir::open(&path).unwrap();
    let tokenizer = Tokenizer::from_bytes(model.tokenizer().tokenizer_json().unwrap()).unwrap();
    let sentence = golden["text"].as_str().unwrap();
    let wanted: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    assert_eq!(wanted.len(), 37);
    assert_eq!(tokenizer.encode(sentence, true).unwrap().get_ids(), wanted);
    check_texts(&tokenizer, &golden["texts"]);
    let chat = &golden["chat"];
    let wanted: Vec<u32> = serde_json::from_value(chat["prompt"].clone()).unwrap();
    assert_eq!(
        tokenizer
            .encode(chat["rendered"].as_str().unwrap(), true)
            .unwrap()
            .get_ids(),
        wanted
    );
    for (name, wanted) in golden["weights"].as_object().unwrap() {
        let value = model.tensor_as(name, Kind::Float).unwrap();
        assert_eq!(
            value.size(),
            serde_json::from_value::<Vec<i64>>(wanted["shape"].clone()).unwrap()
        );
        let first = Vec::<f32>::try_from(value.view([-1]).narrow(0, 0, 4)).unwrap();
        assert_eq!(
            first,
            serde_json::from_value::<Vec<f32>>(wanted["first"].clone()).unwrap(),
            "{name}"
        );
        let double = value.to_kind(Kind::Double);
        for (found, key) in [
            (double.sum(Kind::Double), "sum"),
            (double.square().sum(Kind::Double), "sum_of_squares"),
        ] {
            let wanted = wanted[key].as_f64().unwrap();
            assert!(
                (found.double_value(&[]) - wanted).abs() <= 1e-9 * wanted.abs().max(1.0),
                "{name} {key}"
            );
        }
    }
    assert_eq!(model.config().num_parameters(), 134_515_008);
    check_store(&path);
}

fn check_store(path: &Path) {
    assert_eq!(checkpoint::resolve("smollm2-135m-instruct").unwrap(), path);
}
