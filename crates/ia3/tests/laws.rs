//! The laws of every projection, PEFT's numbers for one layer, and what happens to a bias.

use golden::laws::{projection_laws, wrapping_laws};
use golden::{Vectors, assert_close, random};
use ia3::{Ia3, Side};
use quant::codec::{BlockSize, Scheme};
use quant::{Quantized, QuantizedWeight};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Linear, ModulePath, Param, Parameters as _, Pass, Projection, Role, autograd, project,
};

const OUT: i64 = 11;
const IN: i64 = 6;
const SIDES: [Side; 2] = [Side::Outputs, Side::Inputs];

fn frozen() -> Box<dyn Projection> {
    Box::new(Dense::new(Param::frozen(random(1, [OUT, IN]), Role::Base)))
}

fn packed(scheme: Scheme) -> Box<dyn Projection> {
    let weight = QuantizedWeight::of(&random(1, [OUT, IN]), scheme, BlockSize::default(), false);
    Box::new(Quantized::new(weight.expect("a matrix")))
}

fn scaled(base: Box<dyn Projection>, side: Side) -> Box<dyn Projection> {
    let l = random(2, side.shape([OUT, IN])) * 0.5 + 1.0;
    Box::new(Ia3::new(base, side, &l).expect("a frozen base"))
}

fn ones(base: Box<dyn Projection>, side: Side) -> Box<dyn Projection> {
    let l = Tensor::ones(side.shape([OUT, IN]), (Kind::Float, Device::Cpu));
    Box::new(Ia3::new(base, side, &l).expect("a frozen base"))
}

#[test]
fn both_sides_keep_the_laws_over_dense_and_packed_weights() {
    for side in SIDES {
        projection_laws("ia3", IN, &|| scaled(frozen(), side));
        wrapping_laws("ia3", IN, &frozen, &|| ones(frozen(), side));
        for scheme in [Scheme::Nf4, Scheme::Int8] {
            projection_laws("ia3 over a packed weight", IN, &|| scaled(packed(scheme), side));
            wrapping_laws("ia3 over a packed weight", IN, &|| packed(scheme), &|| {
                ones(packed(scheme), side)
            });
        }
    }
}

#[test]
fn a_base_that_trains_or_is_wrapped_is_refused() {
    let l = Tensor::ones([OUT, 1], (Kind::Float, Device::Cpu));
    let found = |base: Box<dyn Projection>| Ia3::new(base, Side::Outputs, &l).expect_err("refused").0;
    let trained = Dense::new(Param::trainable(&random(1, [OUT, IN]), Role::Base));
    assert_eq!(found(Box::new(trained)), "a weight that trains");
    assert_eq!(found(ones(frozen(), Side::Outputs)), "an adapter");
    assert_eq!(
        ones(frozen(), Side::Inputs).into_dense().expect_err("wrapped").0,
        "an IA3 adapter"
    );
}

/// PEFT's vectors are f64, ours f32: sums of 37 products of numbers of size one.
const NEAR: f64 = 2e-6;

#[test]
fn a_layer_and_its_gradients_are_peft_s_and_the_bias_is_scaled_with_the_outputs() {
    let golden = Vectors::open_file(&golden::vectors_dir().join("ia3/layer.safetensors"));
    let get = |name: &str| golden.get(name).to_kind(Kind::Float);
    for (name, side) in [("output", Side::Outputs), ("input", Side::Inputs)] {
        let slot = || {
            let base = Dense::new(Param::frozen(get("weight"), Role::Base));
            let ia3 = Ia3::new(Box::new(base), side, &get(&format!("{name}.l"))).expect("a frozen base");
            Linear::new(ia3, Some(Param::frozen(get("bias"), Role::Norm)))
        };
        let documents = Documents::new(&[11]);
        let pass = Pass::train(&documents, DropoutKey(0));
        let near = |what: &str, found: &Tensor| {
            let wanted = get(&format!("{name}.{what}"));
            assert_close(&format!("{name}.{what}"), found, &wanted, 1e-5, NEAR * 10.0);
        };
        for fused in [false, true] {
            let (slot, x) = (slot(), get("x").set_requires_grad(true));
            let y = if fused {
                project(&x, [&slot], &pass)[0].shallow_clone()
            } else {
                slot.forward(&x, &pass)
            };
            near("y", &y);
            autograd::backward(&[&y], &[&get("dy")]).expect("a backward pass");
            near("d_x", &x.grad());
            let mut met = 0;
            slot.visit(&ModulePath::root(), &mut |at, param| {
                if param.is_trainable() {
                    assert_eq!(at.as_str(), "ia3_l");
                    near("d_l", &param.value().grad());
                    met += 1;
                }
            });
            assert_eq!(met, 1);
        }
        let off = slot().forward(&get("x"), &pass.without_adapters());
        let plain = get("x").matmul(&get("weight").tr()) + get("bias");
        assert_close(name, &off, &plain, 1e-5, 1e-5);
        let merged = slot().merge();
        near("merged.weight", &merged.projection().weight());
        near("merged.bias", merged.bias().expect("a bias").value());
    }
}

#[test]
fn in_bf16_the_vector_learns_in_f32() {
    let documents = Documents::new(&[9]);
    for side in SIDES {
        let run = |kind: Kind| {
            let base = Dense::new(Param::frozen(random(1, [OUT, IN]).to_kind(kind), Role::Base));
            let ia3 = scaled(Box::new(base), side);
            let x = random(4, [9, IN]).to_kind(kind);
            let y = ia3.forward(&x, &Pass::train(&documents, DropoutKey(0)));
            assert_eq!(y.kind(), kind);
            autograd::backward(&[&y], &[&random(5, [9, OUT]).to_kind(kind)]).expect("a backward pass");
            let mut grad = None;
            ia3.visit(&ModulePath::root(), &mut |_, param| {
                if param.is_trainable() {
                    grad = Some(param.value().grad());
                }
            });
            grad.expect("the vector trains")
        };
        let (narrow, wide) = (run(Kind::BFloat16), run(Kind::Float));
        assert_eq!(narrow.kind(), Kind::Float);
        // Some sixty products of numbers of size one, each rounded at 2^-9.
        assert_close("d_l", &narrow, &wide, 5e-2, 1e-1);
    }
}
