//! Whole tensors against bitsandbytes, byte for byte.

use golden::Vectors;
use half::bf16;
use quant::QuantizedWeight;
use quant::codec::{BlockSize, DoubleQuant, DynamicMap, FP4, NF4, Number, Scheme, dequantise, quantise};
use tch::{Kind, Tensor};
use tensor_core::blob;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The tensor as f32; bf16 widens exactly.
fn wide(tensor: &Tensor) -> Vec<f32> {
    blob::to_vec::<f32>(&tensor.to_kind(Kind::Float).contiguous())
}

#[test]
fn the_levels_are_those_of_bitsandbytes() {
    let vectors = Vectors::open_file(&golden::vectors_dir().join("quant/tensors.safetensors"));
    for (name, levels) in [
        ("quant_map.nf4", &NF4[..]),
        ("quant_map.fp4", &FP4[..]),
        ("dynamic.signed", &DynamicMap::signed().levels()[..]),
        ("dynamic.unsigned", &DynamicMap::unsigned().levels()[..]),
    ] {
        let theirs = wide(&vectors.get(name));
        let differ = (0..theirs.len()).find(|&idx| theirs[idx].to_bits() != levels[idx].to_bits());
        let differ = differ.map(|idx| (idx, theirs[idx], levels[idx]));
        assert_eq!((theirs.len(), differ), (levels.len(), None), "{name}");
    }
}

/// One tensor in one scheme: the codec over `T`, and the tensor's own packing.
fn check<T: Number + tensor_core::blob::Number>(
    vectors: &Vectors,
    at: &str,
    weight: &Tensor,
    scheme: Scheme,
    block: usize,
) {
    let get = |what: &str| vectors.get(&format!("{at}.{what}"));
    let block = BlockSize::new(block).expect("a size of the format");
    let values = &blob::to_vec::<T>(weight);
    let (mut codes, mut absmax) = (
        vec![0; scheme.num_bytes(values.len())],
        vec![0.0; block.num_blocks(values.len())],
    );
    quantise(scheme, block, values, &mut codes, &mut absmax).expect("finite numbers");
    assert_eq!(codes, blob::to_vec::<u8>(&get("codes")), "{at}: codes");
    assert_eq!(bits(&absmax), bits(&wide(&get("absmax"))), "{at}: absmax");

    let back = |absmax: &[f32]| {
        let mut back = vec![T::narrow(f32::NAN); values.len()];
        dequantise(scheme, block, &codes, absmax, &mut back);
        back.iter().map(|value| value.widen()).collect::<Vec<f32>>()
    };
    assert_eq!(bits(&back(&absmax)), bits(&wide(&get("dequantised"))), "{at}: numbers");

    // Their mean is a sum in f32 in an order of libtorch's choice; ours is in f64. With theirs, every byte is theirs.
    let offset = get("nested.offset").double_value(&[]) as f32;
    let own = DoubleQuant::of(&absmax).offset;
    assert!(
        (own - offset).abs() <= 1e-6 * offset.abs(),
        "{at}: offset {own} instead of {offset}"
    );
    let nested = DoubleQuant::around(&absmax, offset);
    assert_eq!(
        nested.codes,
        blob::to_vec::<u8>(&get("nested.codes")),
        "{at}: nested codes"
    );
    assert_eq!(
        bits(&nested.absmax),
        bits(&wide(&get("nested.absmax"))),
        "{at}: nested absmax"
    );
    let numbers = back(&nested.scales().to_vec());
    assert_eq!(
        bits(&numbers),
        bits(&wide(&get("nested.dequantised"))),
        "{at}: nested numbers"
    );

    let packed = QuantizedWeight::of(weight, scheme, block, false).expect("a matrix");
    assert!(packed.codes.equal(&get("codes")), "{at}: the tensor of codes");
    assert!(
        packed.dequantise(weight.kind()).equal(&get("dequantised")),
        "{at}: the tensor"
    );
}

#[test]
fn four_bit_tensors_are_those_of_bitsandbytes() {
    let vectors = Vectors::open_file(&golden::vectors_dir().join("quant/tensors.safetensors"));
    let mut compared = 0;
    for kind in ["even", "odd", "large"] {
        for block in [32, 64, 128] {
            for scheme in [Scheme::Nf4, Scheme::Fp4] {
                let at = format!("{kind}.{block}.{scheme}");
                if vectors.find(&format!("{at}.codes")).is_none() {
                    continue;
                }
                check::<f32>(&vectors, &at, &vectors.get(&format!("{kind}.weight")), scheme, block);
                let narrow = vectors.get(&format!("{kind}.weight_bf16"));
                check::<bf16>(&vectors, &format!("{at}.bf16"), &narrow, scheme, block);
                compared += 2;
            }
        }
    }
    assert_eq!(compared, 18);
}

#[test]
fn eight_bit_rows_are_those_of_bitsandbytes() {
    let vectors = Vectors::open_file(&golden::vectors_dir().join("quant/tensors.safetensors"));
    for block in [32, 64, 128] {
        let get = |what: &str| vectors.get(&format!("even.{block}.int8.{what}"));
        let rows = wide(&get("rows"));
        let (mut codes, mut absmax) = (vec![0; rows.len()], vec![0.0; rows.len() / block]);
        let size = BlockSize::new(block).expect("a size of the format");
        quantise(Scheme::Int8, size, &rows, &mut codes, &mut absmax).expect("finite numbers");
        let codes_theirs: Vec<u8> = blob::to_vec::<i8>(&get("codes"))
            .iter()
            .map(|code| code.cast_unsigned())
            .collect();
        assert_eq!(codes, codes_theirs, "{block}");
        assert_eq!(bits(&absmax), bits(&wide(&get("absmax"))), "{block}");
        let mut back = vec![0.0f32; rows.len()];
        dequantise(Scheme::Int8, size, &codes, &absmax, &mut back);
        assert_eq!(bits(&back), bits(&wide(&get("dequantised"))), "{block}");
    }
}
