//! How a fused operator is compared with its plain twin: the twin computes in f64 from the very same numbers.

use std::collections::HashMap;
use std::path::Path;

use tch::{Kind, Tensor};
use tensor_core::autograd;

use tensor_core::unit::on_each;

/// f32: a few hundred roundings of 2^-24, of the largest numbers that went into a sum.
const SUM: f64 = 2e-5;
/// bf16: its own last rounding (2^-8) and, where a norm is rounded before its gain, one more.
const BF16: f64 = 1.0 / 128.0;

/// Numbers around 0 with standard deviation `std`, as `kind` holds them.
pub(crate) fn draw(shape: &[i64], kind: Kind, std: f64, seed: i64) -> Tensor {
    // A generator of its own: libtorch's is global, and tests run side by side.
    let mut state = seed as u64;
    let count: i64 = shape.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|_| {
            let uniform = (0..12).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 11) as f64 / (1u64 << 53) as f64
            });
            (uniform.sum::<f64>() - 6.0) * std
        })
        .collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

/// Outputs, and the gradients of all inputs for gradients of the outputs drawn from a fixed seed.
pub(crate) fn both_ways(inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Vec<Tensor>) -> Vec<Tensor> {
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|x| x.detach().copy().set_requires_grad(true))
        .collect();
    let outputs = f(&leaves);
    // Drawn in bf16, so that every dtype gets the same numbers.
    let gradients: Vec<Tensor> = outputs
        .iter()
        .enumerate()
        .map(|(i, y)| draw(&y.size(), Kind::BFloat16, 1.0, 1000 + i as i64).to_kind(y.kind()))
        .collect();
    autograd::backward(
        &outputs.iter().collect::<Vec<_>>(),
        &gradients.iter().collect::<Vec<_>>(),
    )
    .unwrap();
    outputs
        .iter()
        .map(Tensor::detach)
        .chain(leaves.iter().map(Tensor::grad))
        .collect()
}

/// `fused` on these inputs, with every instruction set, against `plain` in f64 on the same numbers: outputs and gradients.
pub(crate) fn check(
    what: &str,
    inputs: &[Tensor],
    fused: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
    plain: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
) {
    let wide: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(Kind::Double)).collect();
    let wanted = both_ways(&wide, plain);
    on_each(|unit| {
        for (i, (got, want)) in both_ways(inputs, fused).iter().zip(&wanted).enumerate() {
            assert_close(&format!("{what} on {unit:?}, result {i}"), got, want);
        }
    });
}

/// `got` within the tolerance of its dtype around `want` (f64).
pub(crate) fn assert_close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.size(), want.size(), "{what}: shapes");
    let relative = if got.kind() == Kind::BFloat16 { BF16 } else { SUM };
    let largest = want.abs().max().double_value(&[]);
    let error = (got.to_kind(Kind::Double) - want).abs();
    let allowed = want.abs() * relative + largest * SUM;
    // A zero that is met exactly is within any tolerance.
    let excess = (error / (allowed + f64::MIN_POSITIVE)).max().double_value(&[]);
    assert!(excess <= 1.0, "{what}: {excess} times the tolerance");
}

/// The vectors `name` of `crates/golden/vectors`.
pub(crate) fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../golden/vectors")
        .join(format!("{name}.safetensors"));
    Tensor::read_safetensors(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into_iter()
        .collect()
}

/// `f` in f32 on the golden inputs of `kernels/name` (f64) against the golden output `y` and gradients `d_INPUT` for `dy`.
pub(crate) fn check_golden(name: &str, inputs: &[&str], f: impl Fn(&[Tensor], &HashMap<String, Tensor>) -> Tensor) {
    let golden = golden(&format!("{}/{name}", "kernels"));
    let leaves: Vec<Tensor> = inputs
        .iter()
        .map(|input| golden[*input].to_kind(Kind::Float).set_requires_grad(true))
        .collect();
    let y = f(&leaves, &golden);
    assert_close(&format!("{name}: y"), &y.detach(), &golden["y"]);
    autograd::backward(&[&y], &[&golden["dy"].to_kind(Kind::Float)]).unwrap();
    for (input, leaf) in inputs.iter().zip(&leaves) {
        assert_close(
            &format!("{name}: d_{input}"),
            &leaf.grad(),
            &golden[&format!("d_{input}")],
        );
    }
}
