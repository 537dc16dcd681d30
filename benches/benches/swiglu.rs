//! Gated activations, from two tensors and from one fused row.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{FEED_FORWARD, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{Activation, gated, gated_packed, reference};

fn gates(criterion: &mut Criterion) {
    let one: &[i64] = &[TOKENS, FEED_FORWARD];
    for (name, activation) in [("swiglu", Activation::Silu), ("geglu_tanh", Activation::GeluTanh)] {
        compare(
            criterion,
            name,
            &[one, one],
            &[
                ("fused", &|x| vec![gated(activation, &x[0], &x[1])]),
                ("libtorch", &|x| vec![reference::gated(activation, &x[0], &x[1])]),
            ],
        );
    }
    compare(
        criterion,
        "swiglu of a fused row",
        &[&[TOKENS, 2 * FEED_FORWARD]],
        &[
            ("fused", &|x| vec![gated_packed(Activation::Silu, &x[0])]),
            ("libtorch", &|x| vec![reference::gated_packed(Activation::Silu, &x[0])]),
        ],
    );
}

criterion_group!(benches, gates);
criterion_main!(benches);
