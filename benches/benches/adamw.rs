//! One optimiser step over ten million numbers, and the norm of their gradients.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::normal;
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::adamw::{Moving, Step, adamw, grad_norm};
use kernels::reference;
use tch::{Kind, Tensor};

fn steps(criterion: &mut Criterion) {
    let states: Vec<[Tensor; 4]> = (0..10)
        .map(|_| {
            let draw = || normal(&[1000, 1000]);
            [draw(), draw(), draw(), draw().square()]
        })
        .collect();
    let params: Vec<Moving> = states
        .iter()
        .map(|[value, gradient, first, second]| Moving {
            value,
            gradient,
            first,
            second,
            learning_rate: 1e-4,
            weight_decay: 0.01,
        })
        .collect();
    let step = Step {
        number: 10,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        gradient_scale: 0.5,
    };
    let mut group = criterion.benchmark_group("adamw, 10 million f32");
    group.sample_size(20);
    group.bench_function("fused", |bencher| bencher.iter(|| adamw(&params, &step)));
    group.bench_function("libtorch", |bencher| {
        bencher.iter(|| params.iter().for_each(|param| reference::adamw(param, &step)));
    });
    group.finish();

    let gradients: Vec<&Tensor> = states.iter().map(|state| &state[1]).collect();
    let mut group = criterion.benchmark_group("norm of 10 million f32");
    group.bench_function("fused", |bencher| bencher.iter(|| grad_norm(&gradients)));
    group.bench_function("libtorch", |bencher| {
        bencher.iter(|| {
            let norms: Vec<Tensor> = gradients.iter().map(|gradient| gradient.norm()).collect();
            Tensor::stack(&norms, 0).to_kind(Kind::Double).norm().double_value(&[])
        });
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
