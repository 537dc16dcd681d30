//! The loss of a frozen head: fused in tiles, and libtorch's over whole logits in f32. 512 tokens, 49152 words.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{HIDDEN, TOKENS, VOCABULARY, compare, normal};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::linear_cross_entropy;
use tch::{Device, Kind, Reduction, Tensor};

fn losses(criterion: &mut Criterion) {
    let tokens = TOKENS / 4;
    let weight = normal(&[VOCABULARY, HIDDEN]) * 0.05;
    let narrow = weight.to_kind(Kind::BFloat16);
    let of_kind = |x: &Tensor| if x.kind() == Kind::Float { &weight } else { &narrow };
    let targets = Tensor::randint(VOCABULARY, [tokens], (Kind::Int64, Device::Cpu));
    compare(
        criterion,
        "cross_entropy",
        &[&[tokens, HIDDEN]],
        &[
            ("fused", &|x| {
                vec![linear_cross_entropy(&x[0], of_kind(&x[0]), &targets)]
            }),
            ("libtorch", &|x| {
                let logits = x[0].matmul(&of_kind(&x[0]).tr()).to_kind(Kind::Float);
                vec![logits.cross_entropy_loss(&targets, None::<Tensor>, Reduction::Sum, -100, 0.0)]
            }),
        ],
    );
}

criterion_group!(benches, losses);
criterion_main!(benches);
