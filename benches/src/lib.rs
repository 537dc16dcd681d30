//! Fused operators timed beside the libtorch operators that they replace, at the shapes of SmolLM2-135M.
//!
//! `OMP_NUM_THREADS=1 cargo bench -p benches --bench rms_norm`, on a quiet machine; without the variable all cores work.
//! Each time is one forward and one backward pass.

use std::time::Duration;

use criterion::Criterion;
use tch::{Device, Kind, Tensor};
use tensor_core::autograd;

/// Tokens of one row.
pub const TOKENS: i64 = 2048;
/// Width of the residual stream.
pub const HIDDEN: i64 = 576;
/// Width of the feed-forward layers.
pub const FEED_FORWARD: i64 = 1536;
/// Words.
pub const VOCABULARY: i64 = 49_152;
/// Query heads.
pub const HEADS: i64 = 9;
/// Key/value heads.
pub const KV_HEADS: i64 = 3;
/// Width of a head.
pub const HEAD_DIM: i64 = 64;

/// Tensors in, tensors out, differentiably.
pub type Operator<'a> = &'a dyn Fn(&[Tensor]) -> Vec<Tensor>;

/// Times `ways` (name and operator) on normal numbers of these shapes, forward and backward, in bf16 and in f32.
pub fn compare(criterion: &mut Criterion, what: &str, shapes: &[&[i64]], ways: &[(&str, Operator)]) {
    // As the program does; otherwise page faults of large tensors are what is measured.
    tensor_core::device::keep_memory();
    for (kind, dtype) in [(Kind::BFloat16, "bf16"), (Kind::Float, "f32")] {
        let mut group = criterion.benchmark_group(format!("{what} {dtype}"));
        group
            .sample_size(20)
            .warm_up_time(Duration::from_secs(1))
            .measurement_time(Duration::from_secs(3));
        let inputs: Vec<Tensor> = shapes.iter().map(|shape| normal(shape).to_kind(kind)).collect();
        for (name, operator) in ways {
            let gradients: Vec<Tensor> = tch::no_grad(|| operator(&inputs))
                .iter()
                .map(|y| normal(&y.size()).to_kind(y.kind()))
                .collect();
            let gradients: Vec<&Tensor> = gradients.iter().collect();
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    let leaves: Vec<Tensor> = inputs.iter().map(|x| x.detach().set_requires_grad(true)).collect();
                    let outputs = operator(&leaves);
                    autograd::backward(&outputs.iter().collect::<Vec<_>>(), &gradients)
                        .expect("a graph of this operator");
                    leaves.iter().map(Tensor::grad).collect::<Vec<_>>()
                });
            });
        }
        group.finish();
    }
}

/// Normal numbers, f32, on the CPU.
pub fn normal(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}
