//! Files are read without a copy and written as the reference does, and headers that lie are refused.

use checkpoint::{Error, Safetensors, TensorInfo, write_safetensors};
use safetensors::{Dtype, tensor::TensorView};
use tch::{Kind, Tensor};

/// Header text and data bytes as a file.
fn file(header: &str, data: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    raw(&bytes)
}

fn raw(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn the_bytes_are_the_reference_s() {
    let tensors = [
        (
            "b.weight",
            Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]),
        ),
        (
            "a.weight",
            Tensor::from_slice(&[1.0f32, -2.5, 3.0]).to_kind(Kind::BFloat16),
        ),
        ("c", Tensor::from_slice(&[1i64, 2]).view([2, 1])),
        ("d", Tensor::from_slice(&[7u8, 8, 9])),
        ("scalar", Tensor::from(2.5f64)),
        (
            "transposed",
            Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]).tr(),
        ),
        ("empty", Tensor::zeros([0, 4], (Kind::Half, tch::Device::Cpu))),
    ];
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, value)| TensorInfo {
            name: (*name).into(),
            shape: value.size(),
            kind: value.kind(),
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.safetensors");
    let find = |name: &str| tensors.iter().find(|row| row.0 == name).unwrap().1.shallow_clone();
    write_safetensors(&path, &infos, |info| Ok(find(&info.name))).unwrap();

    let bytes: Vec<(Vec<u8>, Dtype, Vec<usize>)> = tensors
        .iter()
        .map(|(_, value)| {
            let dtype = match value.kind() {
                Kind::Float => Dtype::F32,
                Kind::BFloat16 => Dtype::BF16,
                Kind::Half => Dtype::F16,
                Kind::Int64 => Dtype::I64,
                Kind::Double => Dtype::F64,
                _ => Dtype::U8,
            };
            let mut bytes = vec![0; value.numel() * value.kind().elt_size_in_bytes()];
            value.contiguous().copy_data_u8(&mut bytes, value.numel());
            (bytes, dtype, value.size().iter().map(|side| *side as usize).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, _), (bytes, dtype, shape))| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let reference = safetensors::serialize(views, Some(metadata)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), reference);

    let file = Safetensors::open(&path).unwrap();
    assert_eq!(file.metadata()["format"], "pt");
    for (name, value) in &tensors {
        let read = file.tensor(name).unwrap();
        assert_eq!((read.kind(), read.size()), (value.kind(), value.size()), "{name}");
        assert!(read.equal(value), "{name}");
    }
}

#[test]
fn an_aligned_tensor_is_the_file_s_memory_and_outlives_its_file() {
    let folder = golden::vectors_dir().join("families/llama-tied");
    let file = Safetensors::open(&folder.join("model.safetensors")).unwrap();
    let (one, two) = (
        file.tensor("model.norm.weight").unwrap(),
        file.tensor("model.norm.weight").unwrap(),
    );
    assert_eq!(one.data_ptr(), two.data_ptr());
    drop(file);
    let wanted = golden::Vectors::open_file(&folder.join("model.safetensors")).get("model.norm.weight");
    assert!(one.equal(&wanted));
}

#[test]
fn unaligned_bytes_are_copied() {
    // A header of odd length puts the floats off their alignment.
    let header = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let header = format!("{header}{}", " ".repeat((3 + 8 - header.len() % 8) % 8));
    assert_eq!(header.len() % 8, 3);
    let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let (_folder, path) = file(&header, &data);
    let values = Vec::<f32>::try_from(Safetensors::open(&path).unwrap().tensor("x").unwrap()).unwrap();
    assert_eq!(values, [1.5, -2.0]);
}

#[test]
fn a_bool_that_is_neither_true_nor_false_is_refused() {
    let header = r#"{"mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}"#;
    let read = |bytes: &[u8]| {
        let (_home, path) = file(header, bytes);
        Safetensors::open(&path).unwrap().tensor("mask")
    };
    assert!(
        read(&[0, 1, 1])
            .unwrap()
            .equal(&Tensor::from_slice(&[false, true, true]))
    );
    let error = read(&[0, 2, 1]).unwrap_err().to_string();
    assert!(
        error.contains("`mask`") && error.contains("BOOL bytes of 0 or 1"),
        "{error}"
    );
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, bytes, wanted) in [
        (one("F32", "[2]", "[0,8]"), 7, vec!["tensor `x`", "8 bytes", "found 7", "cut short"]),
        (one("F32", "[2]", "[0,8]"), 9, vec!["8 bytes of tensors", "found 9"]),
        (one("F32", "[3]", "[0,8]"), 8, vec!["12 bytes for F32 [3]", "[0, 8]"]),
        (one("F32", "[2]", "[8,0]"), 8, vec!["data_offsets [8, 0]"]),
        (one("F32", "[1]", "[4,8]"), 8, vec!["begin at 0", "found 4", "gap or an overlap"]),
        (one("F33", "[2]", "[0,8]"), 8, vec!["known dtype", "`F33`"]),
        (one("F32", "[4294967296,4294967296,16]", "[0,8]"), 8, vec!["memory can hold"]),
        (one("F32", "[-1]", "[0,8]"), 8, vec!["header", "column"]),
        (r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#.into(), 6, vec!["tensor `y`", "overlap"]),
        (r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#.into(), 4, vec!["tensor `x`", "twice"]),
        ("{\"x\": ".into(), 0, vec!["header", "JSON", "line 1"]),
        ("[]".into(), 0, vec!["object of tensors"]),
    ] {
        let (_folder, path) = file(&header, &vec![0; bytes]);
        let text = Safetensors::open(&path).unwrap_err().to_string();
        for part in wanted.into_iter().chain(["model.safetensors"]) {
            assert!(text.contains(part), "{header}: wanted {part:?} in {text:?}");
        }
    }
    for (bytes, wanted) in [
        (&b""[..], "8 bytes of header length"),
        (b"abc", "a file of 3"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "at most 2 bytes"),
    ] {
        let (_folder, path) = raw(bytes);
        let text = Safetensors::open(&path).unwrap_err().to_string();
        assert!(text.contains(wanted), "wanted {wanted:?} in {text:?}");
    }
}

#[test]
fn a_name_that_is_not_there_has_a_hint() {
    let file = Safetensors::open(&golden::vectors_dir().join("families/llama-tied/model.safetensors")).unwrap();
    let text = file.tensor("layers.1.mlp.up_proj.weight").unwrap_err().to_string();
    assert!(
        text.contains("`layers.1.mlp.up_proj.weight` is missing")
            && text.contains("`model.layers.1.mlp.up_proj.weight`"),
        "{text}"
    );
}

#[test]
fn a_failure_while_saving_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    let infos = ["a", "b"].map(|name| TensorInfo {
        name: name.into(),
        shape: vec![2],
        kind: Kind::Float,
    });
    let error = write_safetensors(&path, &infos, |info| match info.name.as_str() {
        "a" => Ok(Tensor::zeros([2], (Kind::Float, tch::Device::Cpu))),
        _ => Err("the merge went wrong".into()),
    });
    let text = error.unwrap_err().to_string();
    assert!(text.contains("`b`") && text.contains("the merge went wrong"), "{text}");
    let wrong = write_safetensors(&path, &infos, |_| {
        Ok(Tensor::zeros([3], (Kind::Float, tch::Device::Cpu)))
    });
    assert!(matches!(wrong, Err(Error::Shape { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_cut_short_while_it_is_mapped_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let value = Tensor::ones([4096, 4], (Kind::Float, tch::Device::Cpu));
    checkpoint::write_tensors(&path, [("a", &value), ("b", &value)]).unwrap();
    let file = Safetensors::open(&path).unwrap();
    assert!(file.tensor("a").unwrap().equal(&value));
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    for name in ["a", "b"] {
        let text = file.tensor(name).unwrap_err().to_string();
        for part in [
            "model.safetensors",
            "cut short while it was open",
            &length.to_string(),
            &(length / 2).to_string(),
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
