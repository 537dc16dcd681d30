//! Weights in bitsandbytes' 4 bits: read, dequantised, and written back byte for byte.

use std::fs;
use std::path::Path;

use checkpoint::{
    Existing, ModelDir, PackedCode, PackedScales, PackedTensor, Safetensors, SaveOptions, TensorInfo, save_model,
    write_safetensors,
};
use golden::Vectors;
use tch::{Kind, Tensor};

const FOLDERS: [&str; 3] = ["llama-nf4", "llama-nf4-nested", "llama-fp4-bf16"];

fn folder(name: &str) -> std::path::PathBuf {
    golden::vectors_dir().join("quant").join(name)
}

#[test]
fn a_4_bit_model_is_read_as_the_weights_that_it_stands_for() {
    for name in FOLDERS {
        let dir = ModelDir::open(&folder(name)).unwrap();
        assert!(dir.config().is_quantised() && dir.unexpected().is_empty(), "{name}");
        let kind = if name.ends_with("bf16") {
            Kind::BFloat16
        } else {
            Kind::Float
        };
        let at = "model.layers.1.mlp.down_proj.weight";
        let info = dir.info(at).unwrap();
        assert_eq!((info.shape.as_slice(), info.kind), (&[32, 56][..], kind));
        assert_eq!(dir.tensor(at).unwrap().kind(), kind);
        let packed = dir.packed(at).unwrap().unwrap();
        assert_eq!(packed.codes.size(), [896, 1]);
        assert_eq!(
            packed.code,
            if name.contains("fp4") {
                PackedCode::Fp4
            } else {
                PackedCode::Nf4
            }
        );
        assert!(dir.packed("model.norm.weight").unwrap().is_none());
    }
}

#[test]
fn packed_tensors_dequantise_to_bitsandbytes_own_numbers() {
    let vectors = Vectors::open_file(&golden::vectors_dir().join("quant/tensors.safetensors"));
    for (at, shape, code, block_size) in [
        ("even.32.nf4", [36, 96], PackedCode::Nf4, 32),
        ("odd.64.fp4", [7, 13], PackedCode::Fp4, 64),
        ("large.64.nf4.bf16", [129, 160], PackedCode::Nf4, 64),
    ] {
        let get = |what: &str| vectors.get(&format!("{at}.{what}"));
        let kind = get("dequantised").kind();
        let tensor = |scales| PackedTensor {
            code,
            block_size,
            kind,
            shape: shape.to_vec(),
            codes: get("codes"),
            levels: Some(vectors.get(&format!("quant_map.{}", code.name()))),
            scales,
        };
        let plain = tensor(PackedScales::Plain(get("absmax")));
        assert!(plain.dequantise(kind).equal(&get("dequantised")), "{at}");
        let nested = tensor(PackedScales::Nested {
            codes: get("nested.codes"),
            absmax: get("nested.absmax"),
            levels: vectors.get("dynamic.signed"),
            block_size: 256,
            offset: get("nested.offset").double_value(&[]),
        });
        assert!(
            nested.dequantise(kind).equal(&get("nested.dequantised")),
            "{at}, nested"
        );
    }
}

#[test]
fn a_4_bit_model_is_written_back_byte_for_byte() {
    for name in FOLDERS {
        let dir = ModelDir::open(&folder(name)).unwrap();
        let mut entries: Vec<(TensorInfo, Tensor)> = Vec::new();
        for name in dir.names() {
            match dir.packed(name).unwrap() {
                Some(packed) => entries.extend(packed.entries(name)),
                None => entries.push((dir.info(name).unwrap(), dir.tensor(name).unwrap())),
            }
        }
        let infos: Vec<TensorInfo> = entries.iter().map(|(info, _)| info.clone()).collect();
        let home = tempfile::tempdir().unwrap();
        let options = SaveOptions {
            existing: Existing::Replace,
            // Scales stay f32 and norms have this dtype already.
            dtype: dir.config().dtype,
            ..SaveOptions::default()
        };
        let tensor = |info: &TensorInfo| {
            let found = entries.iter().find(|(own, _)| own.name == info.name);
            Ok(found.expect("it was in the list").1.shallow_clone())
        };
        save_model(home.path(), dir.config(), &infos, tensor, &options).unwrap();
        for file in ["model.safetensors", "config.json"] {
            let (ours, theirs) = (
                fs::read(home.path().join(file)).unwrap(),
                fs::read(folder(name).join(file)).unwrap(),
            );
            assert!(ours == theirs, "{name}: `{file}` differs");
        }
        assert!(ModelDir::open(home.path()).unwrap().unexpected().is_empty());
    }
}

#[test]
fn the_configuration_of_4_bits_is_the_one_that_transformers_writes() {
    for (name, code, nested, kind) in [
        ("llama-nf4", PackedCode::Nf4, false, Kind::Float),
        ("llama-fp4-bf16", PackedCode::Fp4, true, Kind::BFloat16),
    ] {
        let dir = ModelDir::open(&folder(name)).unwrap();
        let dense = dir.config().clone().without_quantisation();
        assert!(!dense.is_quantised());
        let again = dense.with_4_bits(code, nested, kind, None);
        assert_eq!(
            again.to_json(),
            fs::read_to_string(folder(name).join("config.json")).unwrap(),
            "{name}"
        );
    }
}

/// A file with one packed weight, `change` applied to its entries first.
fn written(path: &Path, change: impl FnOnce(&mut Vec<(TensorInfo, Tensor)>)) {
    let packed = PackedTensor {
        code: PackedCode::Nf4,
        block_size: 64,
        kind: Kind::Float,
        shape: vec![2, 40],
        codes: Tensor::zeros([40, 1], (Kind::Uint8, tch::Device::Cpu)),
        levels: Some(Tensor::zeros([16], (Kind::Float, tch::Device::Cpu))),
        scales: PackedScales::Plain(Tensor::ones([2], (Kind::Float, tch::Device::Cpu))),
    };
    let mut entries = packed.entries("w");
    change(&mut entries);
    let infos: Vec<TensorInfo> = entries.iter().map(|(info, _)| info.clone()).collect();
    write_safetensors(path, &infos, |info| {
        Ok(entries
            .iter()
            .find(|(own, _)| own.name == info.name)
            .unwrap()
            .1
            .shallow_clone())
    })
    .unwrap();
}

/// What is made of the parts of a packed weight.
type Change = Box<dyn FnOnce(&mut Vec<(TensorInfo, Tensor)>)>;

#[test]
fn a_packed_weight_whose_parts_do_not_fit_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("w.safetensors");
    written(&path, |_| ());
    let file = Safetensors::open(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(file.shape("w"), Some(&[2, 40][..]));
    let bytes = |text: &str| Tensor::from_slice(text.as_bytes());
    let replace = |name: &'static str, tensor: Tensor| -> Change {
        Box::new(move |entries| {
            let entry = entries.iter_mut().find(|(info, _)| info.name == name).unwrap();
            (entry.0.shape, entry.0.kind) = (tensor.size(), tensor.kind());
            entry.1 = tensor;
        })
    };
    let state = "w.quant_state.bitsandbytes__nf4";
    let cases: [(Change, &str); 6] = [
        (
            replace("w.absmax", Tensor::ones([3], (Kind::Float, tch::Device::Cpu))),
            "`w.absmax`: wanted 2 of F32",
        ),
        (
            Box::new(|entries| entries.retain(|(info, _)| info.name != "w.absmax")),
            "`w.absmax` is missing",
        ),
        (
            replace("w", Tensor::zeros([41, 1], (Kind::Uint8, tch::Device::Cpu))),
            "`w`: wanted 40 of U8",
        ),
        (replace(state, bytes("{")), "a JSON object"),
        (
            replace(state, bytes(r#"{"quant_type": "nf4", "blocksize": 0}"#)),
            "`blocksize`",
        ),
        (
            replace(
                state,
                bytes(r#"{"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [2, 40]}"#),
            ),
            "`quant_type`",
        ),
    ];
    for (change, wanted) in cases {
        written(&path, change);
        let error = Safetensors::open(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "`{wanted}` in: {error}");
    }
}
