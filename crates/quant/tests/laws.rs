//! The laws of projections for every scheme, alone and under LoRA; what is held, and what is refused.

use golden::laws::{projection_laws, wrapping_laws};
use golden::{assert_close, random};
use lora::{Lora, LoraConfig, LowRank, Wrapping};
use quant::codec::{BlockSize, Scheme};
use quant::{QuantizeConfig, Quantized, QuantizedWeight};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Found, FrozenMap, ModulePath, Param, Parameters, Pass, Projection, Role, autograd,
    named_params,
};

/// Rows and columns that no block divides.
const OUT: i64 = 37;
const IN: i64 = 22;

fn quantized(scheme: Scheme, double_quant: bool, weight: &Tensor) -> Quantized {
    Quantized::new(QuantizedWeight::of(weight, scheme, BlockSize::default(), double_quant).unwrap())
}

const KINDS: [(&str, Scheme, bool); 6] = [
    ("nf4", Scheme::Nf4, false),
    ("nf4, nested", Scheme::Nf4, true),
    ("fp4", Scheme::Fp4, false),
    ("int4", Scheme::Int4, false),
    ("int8", Scheme::Int8, false),
    ("int8, nested", Scheme::Int8, true),
];

#[test]
fn every_scheme_keeps_the_laws_alone_and_under_lora() {
    for (name, scheme, nested) in KINDS {
        let base = || -> Box<dyn Projection> { Box::new(quantized(scheme, nested, &random(1, [OUT, IN]))) };
        projection_laws(name, IN, &base);
        let lora = |b: f64| -> Box<dyn Projection> {
            let low_rank = LowRank::new(&random(2, [3, IN]), &(random(3, [OUT, 3]) * b), 2.5);
            Box::new(Lora::new(base(), low_rank, 0.0, 0))
        };
        projection_laws(&format!("lora over {name}"), IN, &|| lora(0.5));
        // At step 0 QLoRA is the quantised base exactly: B is zero.
        wrapping_laws(&format!("lora over {name}"), IN, &base, &|| lora(0.0));
    }
}

#[test]
fn few_tokens_and_many_go_through_the_same_matrix() {
    // Rows that begin blocks, and rows that begin inside one.
    for (out, input, block) in [(64, 576, 64), (300, 96, 4096), (50, 317, 64), (3, 5000, 32)] {
        let weight = random(7, [out, input]);
        for (kind, scheme) in [
            (Kind::Float, Scheme::Nf4),
            (Kind::BFloat16, Scheme::Fp4),
            (Kind::BFloat16, Scheme::Int8),
        ] {
            let block = BlockSize::new(block).unwrap();
            let packed = QuantizedWeight::of(&weight.to_kind(kind), scheme, block, true).unwrap();
            let dense = packed.dequantise(Kind::Float);
            let quantized = Quantized::new(packed);
            for tokens in [1, 2, 4, 5, 33] {
                let check = |what: &str, got: &Tensor, wanted: &Tensor| {
                    // Sums in another order, of weights and results that bf16 rounds: of the largest result.
                    let unit = if kind == Kind::Float { 1e-6 } else { 1.0 / 64.0 };
                    let largest = wanted.abs().max().double_value(&[]);
                    let what = format!("{what} of {tokens} in {kind:?}");
                    assert_close(&what, &got.to_kind(Kind::Float), wanted, 0.0, unit * largest);
                };
                let (x, dy) = (
                    random(8, [tokens, input]).to_kind(kind),
                    random(9, [tokens, out]).to_kind(kind),
                );
                let (wide_x, wide_dy) = (x.to_kind(Kind::Float), dy.to_kind(Kind::Float));
                check("x Wᵀ", &quantized.apply(&x), &wide_x.matmul(&dense.tr()));
                let onto = random(10, [tokens, input]).to_kind(kind);
                let wanted = wide_dy.matmul(&dense) + &onto;
                check("dy W + onto", &quantized.apply_transposed(&dy, Some(onto)), &wanted);
                check(
                    "dy W",
                    &quantized.share().apply_transposed(&dy, None),
                    &wide_dy.matmul(&dense),
                );
            }
        }
    }
}

#[test]
fn no_dense_weight_is_kept_for_the_backward_pass() {
    let weight = random(1, [OUT, IN]);
    let quantized = quantized(Scheme::Nf4, false, &weight);
    let documents = Documents::new(&[4]);
    let x = random(2, [4, IN]).set_requires_grad(true);
    let y = quantized.forward(&x, &Pass::train(&documents, DropoutKey(0)));
    // Other matrices go through the same buffer before the backward pass comes.
    let other = self::quantized(Scheme::Fp4, false, &random(3, [OUT, IN]));
    let _ = other.forward(&x.detach(), &Pass::evaluate(&documents));
    let dy = random(4, [4, OUT]);
    autograd::backward(&[&y], &[&dy]).unwrap();
    assert_close("dx", &x.grad(), &dy.matmul(&quantized.weight()), 1e-5, 1e-5);
}

#[test]
fn merging_gives_the_dequantised_matrix_in_its_own_dtype() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let weight = random(1, [OUT, IN]).to_kind(kind);
        let quantized = quantized(Scheme::Nf4, true, &weight);
        let wanted = quantized.weight().to_kind(kind);
        let dense = Box::new(quantized).merge();
        assert_eq!(dense.param().value().kind(), kind);
        assert!(dense.param().value().equal(&wanted));
    }
}

#[test]
fn what_is_packed_is_no_plain_matrix() {
    for (scheme, wanted) in [(Scheme::Nf4, "a 4-bit weight"), (Scheme::Int8, "an 8-bit weight")] {
        let quantized = Box::new(quantized(scheme, false, &random(1, [OUT, IN])));
        let Err(Found(found)) = quantized.into_dense() else {
            panic!("a packed weight became dense")
        };
        assert_eq!(found, wanted);
    }
    // PiSSA takes its update out of the base, which a packed one does not let it.
    let at = ModulePath::from("model.layers.0.mlp.up_proj");
    let config: LoraConfig = LoraConfig {
        r: 2,
        init_lora_weights: lora::Init::Pissa,
        ..LoraConfig::default()
    };
    let wrapping = Wrapping::choose(config, &[(at.clone(), false)], &[]).unwrap();
    let base = Box::new(quantized(Scheme::Nf4, false, &random(1, [OUT, IN])));
    let error = wrapping.projection(&at, base).unwrap_err().to_string();
    assert!(
        error.contains("`model.layers.0.mlp.up_proj`") && error.contains("a 4-bit weight"),
        "{error}"
    );
}

#[test]
fn packing_an_adapter_or_a_trained_weight_is_refused() {
    let config = QuantizeConfig::default();
    let at = ModulePath::from("model.layers.0.mlp.up_proj");
    let base = Box::new(Dense::new(Param::frozen(random(1, [OUT, IN]), Role::Base)));
    let low_rank = LowRank::new(&random(2, [3, IN]), &random(3, [OUT, 3]), 1.0);
    let adapter = Box::new(Lora::new(base, low_rank, 0.0, 0));
    let error = config.quantize(&at, adapter).unwrap_err().to_string();
    assert!(error.contains("found a LoRA adapter"), "{error}");
    let trained = Box::new(Dense::new(Param::trainable(&random(1, [OUT, IN]), Role::Base)));
    let error = config.quantize(&at, trained).unwrap_err().to_string();
    assert!(error.contains("a weight that trains"), "{error}");
}

#[test]
fn a_damaged_weight_is_refused_at_its_module() {
    let weight = random(1, [OUT, IN]);
    let _ = weight.get(5).get(7).fill_(f64::NAN);
    let base = Box::new(Dense::new(Param::frozen(weight, Role::Base)));
    let error = QuantizeConfig::default()
        .quantize(&"a.b".into(), base)
        .unwrap_err()
        .to_string();
    // Element 5 · 22 + 7 = 117 lies in the block that begins at 64.
    assert!(error.contains("`a.b`") && error.contains("begins at 64"), "{error}");
}

#[test]
fn libtorchs_operators_read_the_same_numbers_bit_for_bit() {
    for (name, scheme, nested) in KINDS {
        for kind in [Kind::Float, Kind::BFloat16] {
            let weight = random(5, [131, 318]).to_kind(kind);
            let packed = QuantizedWeight::of(&weight, scheme, BlockSize::new(32).unwrap(), nested).unwrap();
            let by_operators = Tensor::zeros([131, 318], (kind, Device::Cpu));
            // A transposed target goes by operators.
            let target = by_operators.tr().contiguous().tr();
            packed.dequantise_into(&target);
            assert!(target.equal(&packed.dequantise(kind)), "{name} in {kind:?}");
        }
    }
}

#[test]
fn parameters_go_by_the_names_of_bitsandbytes() {
    let params = named_params(&quantized(Scheme::Nf4, true, &random(1, [OUT, IN])));
    let shown: Vec<(String, Kind, Vec<i64>)> = params
        .iter()
        .map(|(at, param)| (at.to_string(), param.value().kind(), param.value().size()))
        .collect();
    let wanted = [
        ("weight", Kind::Uint8, vec![407, 1]),
        ("weight.absmax", Kind::Uint8, vec![13]),
        ("weight.nested_absmax", Kind::Float, vec![1]),
    ];
    assert_eq!(shown, wanted.map(|(name, kind, size)| (name.to_owned(), kind, size)));
    let mut trains = false;
    quantized(Scheme::Int8, false, &random(1, [OUT, IN]))
        .visit(&ModulePath::root(), &mut |_, param| trains |= param.is_trainable());
    assert!(!trains);
}
